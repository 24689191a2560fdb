"""The systems measured: GreenScale, its peers and a bare loop."""

from typing import Final

from harness.systems import GREENSCALE, PEERS, System, keys

BARE_LOOP: Final = System(
    name="bare loop",
    environment="greenscale",
    packages=("redis", "hiredis", "aiohttp"),
    worker=lambda _: ("-m", "bench.bare_loop"),
    producer="harness.plain_list",
    results=keys("result:*"),
    settings={"LMOVE, POST, one pipeline of SET and LREM": "the least a worker can do; a killed one loses its jobs"},
)

SYSTEMS: Final = {system.name: system for system in (BARE_LOOP, GREENSCALE, *PEERS)}
