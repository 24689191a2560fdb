"""What is a reading, and what is said of what is none."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from energy_readings.reading import (
    MOST_READINGS,
    Reading,
    ValidationError,
    faults,
    is_json,
    microseconds,
    moment,
    one_line,
    parse,
)

GOOD = {"site_id": "site-001", "device_id": "meter-42", "power_reading": 1500.5, "timestamp": "2024-01-15T10:30:00Z"}


def refused(body: Any) -> list[dict[str, Any]]:
    with pytest.raises(ValidationError) as raised:
        parse(body if isinstance(body, str | bytes) else json.dumps(body))
    return faults(raised.value)


def test_a_reading_is_written_in_one_way() -> None:
    elsewhere = GOOD | {"timestamp": "2024-01-15t12:30:00.000+02:00", "power_reading": 1500.50}
    written = '{"site_id":"site-001","device_id":"meter-42","power_reading":1500.5,"timestamp":"2024-01-15T10:30:00Z"}'
    assert [reading.model_dump_json() for reading in parse(json.dumps([GOOD, elsewhere]))] == [written, written]
    assert parse(written)[0].model_dump_json() == written


def test_the_fields_of_an_entry_are_text() -> None:
    texts = {name: str(value) for name, value in GOOD.items()}
    assert Reading.model_validate_strings(texts) == parse(json.dumps(GOOD))[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("site_id", ""),
        ("site_id", "a b"),
        ("site_id", "{x}"),
        ("site_id", "x" * 65),
        ("site_id", "Zürich"),
        ("site_id", 7),
        ("device_id", None),
        ("device_id", ["meter"]),
        ("power_reading", "1500.5"),
        ("power_reading", True),
        ("power_reading", None),
        ("power_reading", float("nan")),
        ("power_reading", float("-inf")),
        ("timestamp", 1705314600),
        ("timestamp", "1705314600"),
        ("timestamp", "2024-01-15"),
        ("timestamp", "2024-01-15T10:30:00"),
        ("timestamp", "2024-01-15 10:30:00Z"),
        ("timestamp", "2024-02-30T10:30:00Z"),
        ("timestamp", "2024-01-15T10:30:00+99:00"),
        ("timestamp", "0001-01-01T00:00:00+01:00"),
        ("timestamp", (datetime.now(UTC) + timedelta(days=2)).isoformat()),
    ],
)
def test_a_wrong_value_is_told_by_its_field(field: str, value: Any) -> None:
    (fault,) = refused(GOOD | {field: value})
    assert fault["field"] == field
    assert "index" not in fault
    (fault,) = refused([GOOD, GOOD | {field: value}])
    assert (fault["index"], fault["field"]) == (1, field)


@pytest.mark.parametrize("field", GOOD)
def test_a_missing_field_is_told(field: str) -> None:
    found = refused({name: value for name, value in GOOD.items() if name != field})
    assert one_line(found) == f"{field}: Field required"


def test_a_field_too_many_is_told() -> None:
    assert [fault["field"] for fault in refused(GOOD | {"volts": 230})] == ["volts"]


@pytest.mark.parametrize("body", ["3", "null", '"text"', "[]", "[1]", json.dumps([GOOD] * (MOST_READINGS + 1))])
def test_other_json_is_no_reading(body: str) -> None:
    assert refused(body)[0]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"site_id=site-001", b'{"site_id": 01}'])
def test_what_is_no_json_is_told_from_what_is_no_reading(body: bytes) -> None:
    with pytest.raises(ValidationError) as raised:
        parse(body)
    assert not is_json(raised.value)


def test_values_are_not_repeated() -> None:
    assert "secret" not in one_line(refused(GOOD | {"device_id": "top secret", "timestamp": "secret"}))


def test_time_is_exact_to_the_microsecond() -> None:
    early, late = (moment(f"2024-01-15T10:30:00.{fraction}Z") for fraction in ("000001", "000002"))
    assert microseconds(late) - microseconds(early) == 1
    assert microseconds(moment("1969-12-31T23:59:59.999999Z")) == -1
