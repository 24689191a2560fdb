"""How the simulator behaves as a whole."""

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from greenscale_worker.simulator.budget import BudgetOptions
from greenscale_worker.simulator.engine import EngineOptions
from greenscale_worker.simulator.faults import Faults, Seconds


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SimulatorOptions:
    """How the server behaves; times are seconds.

    An answer takes `latency`, or instead of it `ttft` (time to first token) plus `per_token` for each token.
    With `engine` its slots and steps say how long an answer takes. With `api_key` every request below /v1 must carry
    it as a bearer token.

    Raises pydantic's ValidationError (a ValueError) if a value is out of bounds.
    """

    faults: Faults = Faults()
    seed: int = 0
    latency: Seconds = 0.0
    ttft: Seconds = 0.0
    per_token: Seconds = 0.0
    engine: EngineOptions | None = None
    budget: BudgetOptions = BudgetOptions()
    api_key: str | None = Field(default=None, min_length=1, repr=False)

    def __post_init__(self) -> None:
        if self.latency and (self.ttft or self.per_token):
            raise ValueError("latency is the whole time of an answer and excludes ttft and per_token")
        if self.engine is not None and (self.latency or self.ttft or self.per_token):
            raise ValueError("engine says how long an answer takes and excludes latency, ttft and per_token")


def explain(error: ValidationError) -> str:
    """Return in one line which fields are wrong and why."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    lines = (": ".join([*(str(part) for part in fault["loc"]), fault["msg"]]) for fault in faults)
    return "; ".join(line.removeprefix("Value error, ") for line in lines)
