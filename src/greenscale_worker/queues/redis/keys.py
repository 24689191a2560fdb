"""The names of everything that a queue keeps in Redis (docs/queue-protocol.md, "Keys")."""

import re
from dataclasses import dataclass
from typing import Final

from greenscale_worker.errors import ConfigError

PUBLIC_PREFIX: Final = re.compile(r"[A-Za-z0-9._:-]{0,64}")
HASH_TAG: Final = re.compile(r"[^{]*\{[^}]+\}")
OURS: Final = ("ready", "suspect", "delayed", "lease", "meta", "dead", "control", "bound", "workers", "held", "blame")
OF_LETTERS: Final = ("dead:payload", "dead:index")
RECENT: Final = "recent"
IDLE: Final = "idle"
OF_STORES: Final = ("open",)


# What the list between the braces, where there is one, calls its own.
PARTS: Final = "|".join((*OURS, *OF_LETTERS, RECENT, IDLE, *OF_STORES, "bell", "ended"))
TAKEN: Final = re.compile(rf"\{{[^}}]+\}}(:({PARTS}|(claim|why|cancel|(.*:)?result|(.*:)?job):.*))?")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names for one list or stream. Raises ConfigError for a name that would clash or fall apart in a Cluster.

    All but results and records carry the name's hash tag, so that they share its slot; in a Cluster those do, too.
    `own` is what the store has beside them, `public` what results and records begin with.
    """

    name: str
    own: tuple[str, ...] = ()
    cluster: bool = False
    public: str = ""

    def __post_init__(self) -> None:
        if not PUBLIC_PREFIX.fullmatch(self.public):
            raise ConfigError(f"result prefix {self.public!r}: at most 64 of letters, digits and . _ : - are accepted")
        if not self.name or self.name.startswith((f"{self.public}result:", f"{self.public}job:")):
            raise ConfigError(
                f"list name {self.name!r}: it is empty, or begins with {self.public}result: or {self.public}job:"
            )
        tagged = "{" in self.name or "}" in self.name
        if tagged and not HASH_TAG.match(self.name):
            raise ConfigError(f"list name {self.name!r}: braces are accepted only around a hash tag: {{team}}:jobs")
        if TAKEN.fullmatch(self.name):
            raise ConfigError(f"list name {self.name!r}: the list between the braces has keys of that name")

    @property
    def prefix(self) -> str:
        """What every private name begins with; a list name that has a hash tag keeps it."""
        return f"{self.name}:" if "{" in self.name else f"{{{self.name}}}:"

    @property
    def base(self) -> list[str]:
        """The first KEYS of every script."""
        return [self.name, *(self.prefix + part for part in (*OURS, *OF_LETTERS, RECENT, IDLE, *self.own))]

    def of(self, part: str) -> str:
        """Name of one of our keys, such as `open` or `dead`."""
        return self.prefix + part

    @property
    def bell(self) -> str:
        """The channel on which workers are told that there is something to claim, or that a job is gone."""
        return self.of("bell")

    def bell_of(self, owner: str) -> str:
        """The channel on which one worker is told to claim."""
        return f"{self.bell}:{owner}"

    @property
    def ended(self) -> str:
        """The channel on which ids of jobs are told that have ended, some in a message, divided by spaces."""
        return self.of("ended")

    def claim(self, owner: str) -> str:
        """Where an owner's last claim is remembered."""
        return self.of(f"claim:{owner}")

    def why(self, owner: str) -> str:
        """Where an owner says why it sends nothing."""
        return self.of(f"why:{owner}")

    def cancel(self, job_id: str) -> str:
        """The tombstone that waits for a job nobody has claimed."""
        return self.of(f"cancel:{job_id}")

    def result(self, job_id: str) -> str:
        """Where readers find the answer."""
        return self._public(f"result:{job_id}")

    def record(self, job_id: str) -> str:
        """Where readers find the record."""
        return self._public(f"job:{job_id}")

    def _public(self, name: str) -> str:
        name = self.public + name
        return self.prefix + name if self.cluster else name
