"""One call of the API, as a handler sees it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from kubeserve.api.state import State
from kubeserve.control import ControlPlane
from kubeserve.domain import Principal
from kubeserve.settings import Network

HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:]{2,45}\](:[0-9]{1,5})?")


@dataclass(slots=True)
class Call:
    """The request, who sent it, and the services. `headers` go into the answer."""

    request: web.Request
    state: State
    principal: Principal | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def plane(self) -> ControlPlane:
        """The services."""
        return self.state.plane

    @property
    def caller(self) -> Principal:
        """Who calls; only routes that are for somebody ask."""
        if self.principal is None:
            raise RuntimeError("this route is for anyone")
        return self.principal

    @property
    def owner_id(self) -> str:
        """Whose things it is about."""
        return self.caller.user.id

    def part(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]

    def next_page(self, limit: int, ids: Sequence[object]) -> None:
        """Name the next page in a header, if there may be one."""
        if len(ids) >= limit:
            self.headers["Link"] = f'<{self.request.path}?after={ids[-1]}&limit={limit}>; rel="next"'

    @property
    def address(self) -> str | None:
        """Where the call comes from: the last address in X-Forwarded-For that is no trusted proxy's."""
        trusted = self.plane.settings.trusted_proxies
        address = self.request.remote
        lines = ",".join(self.request.headers.getall("X-Forwarded-For", []))
        told = [each.strip() for each in lines.split(",") if each.strip()]
        while told and _is_of(address, trusted):
            address = told.pop()
        return address

    @property
    def secure(self) -> bool:
        """Whether the caller speaks HTTPS, to us or to what stands before us."""
        return self.request.secure or self.request.headers.get("X-Forwarded-Proto") == "https"

    @property
    def base(self) -> str:
        """Where predictions are asked for: scheme, host and path, as the caller can reach them."""
        settings = self.plane.settings
        host = settings.ingress_host or self.request.headers.get("Host") or ""
        if not HOST.fullmatch(host):
            host = f"{settings.host}:{settings.port}"
        return f"{'https' if self.secure else 'http'}://{host}{settings.ingress_base_path.rstrip('/')}"


def _is_of(address: str | None, networks: Sequence[Network]) -> bool:
    try:
        known = ip_address((address or "").removeprefix("::ffff:"))  # of IPv4, where the socket is one of IPv6
    except ValueError:
        return False
    return any(known in network for network in networks)
