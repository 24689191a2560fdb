"""The call to the endpoint, for peers that await: one session, as many connections as lanes."""

from aiohttp import ClientSession, ClientTimeout, TCPConnector

from harness.job import LANES, TIMEOUT, URL, body, text


def session() -> ClientSession:
    """Open a session, inside the running loop."""
    return ClientSession(connector=TCPConnector(limit=LANES), timeout=ClientTimeout(TIMEOUT))


async def ask(http: ClientSession, prompt: str) -> str:
    async with http.post(URL, json=body(prompt)) as response:
        response.raise_for_status()
        return text(await response.json())
