"""The zygote of a pod: another container, which is started and ended by the cluster."""

from pathlib import Path
from time import monotonic
from typing import Final

from kubeserve.door.zygote import Zygote

LOST_SECONDS: Final = 120.0  # more than a door pauses between two attempts, and one that waits for imports


class PodZygote(Zygote):
    """Is reached by its socket alone, as often as its container comes back. What models write is that container's log.

    Its replicas end when the connection does, for the zygote ends them then.
    """

    def __init__(self, socket: Path) -> None:
        super().__init__(socket.parent, socket)
        self._left_at = monotonic()

    @property
    def lost(self) -> bool:
        """Whether it has not been there for two minutes: it hangs, or there is none."""
        return not self.alive and monotonic() - self._left_at > LOST_SECONDS

    def log_of(self, name: str) -> None:
        """Keep none."""

    async def _begin(self) -> None:
        """Wait for it: the cluster starts it."""

    def _gone(self) -> bool:
        return False

    def _last_words(self) -> str:
        return "the container of the model does not answer; its log says more (kubectl logs POD -c model)"

    def _give_up(self, reason: str) -> None:
        self._left_at = monotonic()
        super()._give_up(reason)

    def _break(self) -> None:
        if self._writer is not None:
            self._writer.close()
