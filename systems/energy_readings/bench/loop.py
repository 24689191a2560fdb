"""The loop that the system replaces: one thread, XREADGROUP, and for each message RPUSH and XACK.

    python bench/loop.py PORT

It validates nothing, stores what is delivered again a second time, forgets what it held when it is killed, and lets the
stream grow. An array, which it did not know, it stores with an RPUSH for each reading.
"""

import contextlib
import json
import signal
import sys
from typing import Any

import redis

STREAM, GROUP, CONSUMER = "energy_readings", "processing_group", "consumer_1"


def readings(fields: dict[str, str]) -> list[dict[str, Any]]:
    if "readings" in fields:
        return list(json.loads(fields["readings"]))
    return [{**fields, "power_reading": float(fields["power_reading"])}]


def main(port: int) -> None:
    db = redis.Redis(port=port, decode_responses=True)
    with contextlib.suppress(redis.ResponseError):
        db.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    while True:
        for _, messages in db.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=10, block=1000):
            for message_id, fields in messages:
                for reading in readings(fields):
                    db.rpush(f"site_readings:{reading['site_id']}", json.dumps(reading))
                db.xack(STREAM, GROUP, message_id)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(int(sys.argv[1]))
