"""Who is measured: GreenScale and its peers, beside a floor."""

from typing import Final

from harness.systems import GREENSCALE, PEERS, System, keys

FLOOR: Final = System(
    name="floor",
    environment="greenscale",
    packages=("redis", "hiredis", "aiohttp"),
    worker=lambda _: ("-m", "bench.floor"),
    producer="harness.plain_list",
    results=keys("result:*"),
    settings={"LMOVE, POST, one pipeline of SET and LREM": "the least a worker can do; a killed one loses its jobs"},
)

SYSTEMS: Final = {system.name: system for system in (FLOOR, GREENSCALE, *PEERS)}
