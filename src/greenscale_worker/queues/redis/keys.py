"""The names of a queue's keys and channels in Redis (docs/queue-protocol.md, "Keys")."""

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
OF_LISTS: Final = ("interactive", "background")
OF_CLASSES: Final = (*OF_LISTS, "class")
OF_LATER: Final = ("later", "later:payload")
LEDGER: Final = "ledger"
OF_NOTICES: Final = ("notify", "notices")
FLOW: Final = "flow"
ROOM: Final = "room"
TURNS: Final = "turns"
TURN_PAYLOADS: Final = "turns:payload"
BASE: Final = (
    *OURS,
    *OF_LETTERS,
    RECENT,
    IDLE,
    *OF_CLASSES,
    *OF_LATER,
    LEDGER,
    *OF_NOTICES,
    FLOW,
    TURNS,
    TURN_PAYLOADS,
)
OF_STORES: Final = ("open",)
PUBLIC: Final = ("result", "job", "body")


# A name such as `{jobs}:dead` is taken by the keys of the list `jobs`.
PUBLIC_PARTS: Final = "|".join(PUBLIC)
PARTS: Final = "|".join((*BASE, *OF_STORES, "bell", "ended", "keys", "gateways", ROOM))
OF_IDS: Final = f"claim|why|lanes|cancel|tokens|alike|(.*:)?({PUBLIC_PARTS})"
TAKEN: Final = re.compile(rf"\{{[^}}]+\}}(:({PARTS}|({OF_IDS}):.*))?")


@dataclass(frozen=True, slots=True)
class Keys:
    """Names for one list or stream. Raises ConfigError for a name that would clash or span slots in a Cluster.

    All names have the queue's hash tag, so that they share its slot; results and records have it only in a Cluster.
    `own` are the store's own keys, `public` is the prefix of results and records.
    """

    name: str
    own: tuple[str, ...] = ()
    cluster: bool = False
    public: str = ""

    def __post_init__(self) -> None:
        if not PUBLIC_PREFIX.fullmatch(self.public):
            raise ConfigError(f"result prefix {self.public!r}: at most 64 of letters, digits and . _ : - are accepted")
        public = [f"{self.public}{part}:" for part in PUBLIC]
        if not self.name or self.name.startswith(tuple(public)):
            raise ConfigError(f"list name {self.name!r}: it is empty, or begins with {' or '.join(public)}")
        tagged = "{" in self.name or "}" in self.name
        if tagged and not HASH_TAG.match(self.name):
            raise ConfigError(f"list name {self.name!r}: braces are accepted only around a hash tag: {{team}}:jobs")
        if TAKEN.fullmatch(self.name):
            raise ConfigError(f"list name {self.name!r}: the list between the braces has keys of that name")

    @property
    def prefix(self) -> str:
        """The prefix of every private name; a list name with a hash tag keeps it."""
        return f"{self.name}:" if "{" in self.name else f"{{{self.name}}}:"

    @property
    def base(self) -> list[str]:
        """The first KEYS of every script."""
        return [self.name, *(self.prefix + part for part in (*BASE, *self.own))]

    def of(self, part: str) -> str:
        """Return the name of one of our keys, such as `open` or `dead`."""
        return self.prefix + part

    @property
    def bell(self) -> str:
        """The channel that tells workers that there is something to claim, or that a job is gone."""
        return self.of("bell")

    def bell_of(self, owner: str) -> str:
        """The channel that tells one worker to claim."""
        return f"{self.bell}:{owner}"

    @property
    def ended(self) -> str:
        """The channel for ids of jobs that have ended; a message has one or more, separated by spaces."""
        return self.of("ended")

    @property
    def notices(self) -> str:
        """The key of the notices that nobody has acknowledged."""
        return self.of("notices")

    @property
    def room(self) -> str:
        """The key of the list that tells KEDA how many jobs are worth a lane: one element more than that."""
        return self.of(ROOM)

    @property
    def gateways(self) -> str:
        """The key where gateways show that they live."""
        return self.of("gateways")

    @property
    def api_keys(self) -> str:
        """The key of the API keys' documents."""
        return self.of("keys")

    def claim(self, owner: str) -> str:
        """The key of an owner's last claim."""
        return self.of(f"claim:{owner}")

    def why(self, owner: str) -> str:
        """The key where an owner says why it makes no calls."""
        return self.of(f"why:{owner}")

    def lanes(self, owner: str) -> str:
        """The key where an owner says how many lanes it has."""
        return self.of(f"lanes:{owner}")

    def cancel(self, job_id: str) -> str:
        """The key of the tombstone that waits for an unclaimed job."""
        return self.of(f"cancel:{job_id}")

    def result(self, job_id: str) -> str:
        """The public key of the answer."""
        return self._public(f"result:{job_id}")

    def record(self, job_id: str) -> str:
        """The public key of the record."""
        return self._public(f"job:{job_id}")

    def body(self, job_id: str) -> str:
        """The public key of the endpoint's whole answer, compressed, where the job asked for it."""
        return self._public(f"body:{job_id}")

    def alike(self, digest: str) -> str:
        """The key of the jobs of equal requests, which their retries find."""
        return self.of(f"alike:{digest}")

    def tokens(self, job_id: str) -> str:
        """The key of the text that a job's runs have shown."""
        return self.of(f"tokens:{job_id}")

    def _public(self, name: str) -> str:
        name = self.public + name
        return self.prefix + name if self.cluster else name
