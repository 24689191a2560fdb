"""Which gateway waits for a job on behalf of a client, so that a retry finds it."""

from collections.abc import Callable
from dataclasses import dataclass

from greenscale_worker.queues import ALIVE_SECONDS, ATTENDED_SECONDS, Attendance, Change


@dataclass(slots=True)
class _Found:
    """How long a retry finds a job, and whether its client has left."""

    until: float
    has_left: bool


class Attending:
    """The clients that wait, by what their requests are equal in; and when each gateway last said a word."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._gateways: dict[str, float] = {}
        self._found: dict[str, dict[Attendance, _Found]] = {}

    def begin(self, attendance: Attendance) -> None:
        """Let a retry find a job."""
        self.show_alive(attendance.gateway)
        self._find(attendance, has_left=False)

    def show_alive(self, gateway: str) -> None:
        """Show that a gateway lives."""
        self._gateways[gateway] = self._clock()

    def note(self, attendance: Attendance, change: Change) -> bool:
        """Note what has become of a client. Return whether the job was still its own."""
        if attendance not in self._live(attendance.alike):
            return False
        if change == "over":
            del self._found[attendance.alike][attendance]
        else:
            self._find(attendance, has_left=change == "left")
        return True

    def join(self, alike: str, gateway: str, number: int) -> tuple[str | None, int]:
        """Return a job whose client has gone, or None and how many wait."""
        self.show_alive(gateway)
        live = self._live(alike)
        for attendance in live:
            if (attendance.gateway, attendance.number) == (gateway, number):
                return attendance.job_id, 0
        for attendance, found in live.items():
            if found.has_left or not self._is_alive(attendance.gateway):
                del self._found[alike][attendance]
                self.begin(Attendance(alike, attendance.job_id, gateway, number))
                return attendance.job_id, 0
        return None, len(live)

    def _is_alive(self, gateway: str) -> bool:
        return self._gateways.get(gateway, 0.0) > self._clock() - ALIVE_SECONDS

    def _find(self, attendance: Attendance, *, has_left: bool) -> None:
        found = _Found(self._clock() + ATTENDED_SECONDS, has_left)
        self._found.setdefault(attendance.alike, {})[attendance] = found

    def _live(self, alike: str) -> dict[Attendance, _Found]:
        """Return the clients that are found, and forget the others of all."""
        now = self._clock()
        for each, clients in list(self._found.items()):
            self._found[each] = {client: found for client, found in clients.items() if found.until > now}
            if not self._found[each]:
                del self._found[each]
        return self._found.get(alike, {})
