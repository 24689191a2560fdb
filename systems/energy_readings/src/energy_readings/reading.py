"""What a reading is, and what is said of one that is none."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Strict, TypeAdapter
from pydantic import Field as Limits
from pydantic import ValidationError as ValidationError  # noqa: PLC0414  what `parse` raises

MOST_READINGS: Final = 1000
MOST_FAULTS: Final = 20
LONGEST_NAME: Final = 64  # of a field that is repeated to whoever sent it
ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
RFC_3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
AHEAD: Final = timedelta(days=1)  # of our clock: a device that is further off would keep newer readings from being kept
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def identifier(text: str) -> str:
    """Check the id of a site or a device. Raises ValueError."""
    if ID.fullmatch(text) is None:
        raise ValueError("1 to 64 of letters, digits and . _ : - are accepted")
    return text


def moment(text: Any) -> datetime:
    """Read an RFC 3339 time with its offset, as UTC to the microsecond. Raises ValueError."""
    accepted = "an RFC 3339 time with an offset is accepted, such as 2026-01-31T12:00:00Z"
    if not isinstance(text, str) or RFC_3339.fullmatch(text) is None:
        raise ValueError(accepted)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"there is no such time; {accepted}") from None


def _not_ahead(when: datetime) -> datetime:
    if when > datetime.now(UTC) + AHEAD:
        raise ValueError("it lies more than a day ahead; a time that has come is accepted")
    return when


Id = Annotated[str, Strict(), AfterValidator(identifier)]


class Reading(BaseModel):
    """The power that a device of a site had at a time. Two that are equal in all of it are one reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site_id: Id
    device_id: Id
    power_reading: Annotated[float, Strict(), AllowInfNan(allow_inf_nan=False)]
    timestamp: Annotated[datetime, BeforeValidator(moment), AfterValidator(_not_ahead)]

    @property
    def microseconds(self) -> int:
        """Its time since 1970."""
        return microseconds(self.timestamp)


Readings = Annotated[list[Reading], Limits(min_length=1, max_length=MOST_READINGS)]
ARRAY: Final[TypeAdapter[list[Reading]]] = TypeAdapter(Readings)


def microseconds(when: datetime) -> int:
    """Count since 1970, exactly."""
    return (when - EPOCH) // MICROSECOND


def parse(body: bytes | str) -> list[Reading]:
    """Read one reading, or an array of them, in JSON. Raises ValidationError."""
    text = body.lstrip()
    if text[:1] in {"[", b"["}:
        return ARRAY.validate_json(text)
    return [Reading.model_validate_json(text)]


def faults(error: ValidationError) -> list[dict[str, Any]]:
    """Say what is wrong, and where: `field`, in an array its `index`, and `message`. The values are not repeated."""
    return [_fault(each) for each in error.errors(include_url=False, include_input=False)[:MOST_FAULTS]]


def is_json(error: ValidationError) -> bool:
    """Say whether it was JSON at all."""
    return all(each["type"] != "json_invalid" for each in error.errors(include_url=False, include_input=False))


def one_line(found: Sequence[dict[str, Any]]) -> str:
    """Write faults for people."""
    return "; ".join(f"{_place(fault)}{fault['message']}" for fault in found)


def _fault(raw: Any) -> dict[str, Any]:
    where: dict[str, Any] = {}
    for part in raw["loc"]:
        if isinstance(part, int):
            where["index"] = part
        else:
            where["field"] = part[:LONGEST_NAME].encode(errors="replace").decode()
    return where | {"message": raw["msg"].removeprefix("Value error, ")}


def _place(fault: dict[str, Any]) -> str:
    index = f"[{fault['index']}]" if "index" in fault else ""
    field = fault.get("field", "")
    return f"{index}{'.' if index and field else ''}{field}: " if index or field else ""
