import asyncio, os, zlib, gzip
from contextlib import suppress, asynccontextmanager
import aiohttp, orjson, pytest, openai
from tests.support.front import a_front, client_of
from tests.test_gateway_processes import ask, outcomes, LONGER, MIB
from harness.eventually import PATIENCE

async def flood(port, head, piece, total):
    """Write so many bytes without reading anything back. Return how many were taken"""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(15):
            writer.write(head)
            while sent < total:
                writer.write(piece); sent += len(piece)
                await writer.drain()
    got=b""
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(2):
            got = await reader.read(200)
    writer.transport.abort()
    return sent, got

HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
@pytest.mark.parametrize("what", ["pipeline","pipeline_post","gzip","gzip2","headers","chunks","tiny_chunks","deep","body"])
async def test_flood(tmp_path, redis_url, what):
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway(); front.worker()
        before = door.memory
        bomb = zlib.compress(b" "*400_000_000, 9)
        one = b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"
        post = HEAD+b"Content-Length: 900000\r\n\r\n"+b'"'+b"x"*899998+b'"'
        head, piece, total = {
          "pipeline": (b"", one*1000, 100*MIB),
          "pipeline_post": (b"", post, 100*MIB),
          "gzip": (HEAD+b"Content-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"%len(bomb), bomb, len(bomb)),
          "gzip2": (HEAD+b"Content-Encoding: deflate\r\nTransfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n"%(len(bomb),bomb), 1),
          "headers": (HEAD, b"X-A: "+b"y"*8000+b"\r\n", 100*MIB),
          "chunks": (HEAD+b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n"+b"x"*65536+b"\r\n", 100*MIB),
          "tiny_chunks": (HEAD+b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"*10000, 20*MIB),
          "deep": (HEAD+b"Content-Length: 2000010\r\n\r\n", b"["*100000, 2000010),
          "body": (HEAD+b"Content-Length: 10000000\r\n\r\n", b"x"*100000, 10_000_000),
        }[what]
        floods = [asyncio.create_task(flood(door.port, head, piece, total)) for _ in range(4)]
        worst=0.0; peak=0; n=0; loop=asyncio.get_running_loop()
        while not all(f.done() for f in floods) or n<3:
            t=loop.time()
            async with front.session.get(door.url+"/v1/jobs?limit=1") as r: assert r.status==200
            worst=max(worst,loop.time()-t); peak=max(peak,door.memory); n+=1
            await asyncio.sleep(0.02)
        for f in floods: print(what, f.result()[0], f.result()[1][:80])
        print(f"{what}: worst {worst:.2f}s peak +{(peak-before)/MIB:.0f} MiB after +{(door.memory-before)/MIB:.0f} n={n}", door.process.stderr[:500], [l for l in door.process.log() if l["level"]!="info"][:3])

async def test_slow_readers(tmp_path, redis_url):
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway(); front.worker()
        prompt = "x"*800_000
        async with front.session.post(door.url+"/v1/jobs", data=orjson.dumps({"prompt":"hi","job_id":"big","metadata":{"a":"b"}}), headers={"Prefer":"wait=20"}) as r: print(r.status)
        import redis
        c = redis.Redis.from_url(redis_url); key=[k for k in c.keys("result:*")][0]; c.set(key, b"y"*4_000_000); 
        before=door.memory
        writers=[]
        for _ in range(100):
            r,w = await asyncio.open_connection("127.0.0.1", door.port, limit=1024)
            w.write(b"GET /v1/jobs/big/result HTTP/1.1\r\nHost: localhost\r\n\r\n"); writers.append(w)
        await asyncio.sleep(4)
        print("slow readers", before/MIB, door.memory/MIB)
        async with client_of(door.port) as client: assert await ask(client,"x")
        for w in writers: w.transport.abort()
        await asyncio.sleep(1)
        print("slow readers gone", door.memory/MIB)

async def test_loris(tmp_path, redis_url):
    async with a_front(tmp_path, redis_url) as front:
        door = await front.gateway(); front.worker()
        before=door.memory; ws=[]
        for n in range(1000):
            r,w = await asyncio.open_connection("127.0.0.1", door.port); ws.append(w)
            w.write(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n" if n%2 else HEAD+b"Content-Length: 100\r\n\r\n{")
        loop=asyncio.get_running_loop(); worst=0
        for _ in range(50):
            t=loop.time()
            async with front.session.get(door.url+"/v1/jobs?limit=1") as r: assert r.status==200
            worst=max(worst,loop.time()-t)
            for w in ws: w.write(b"X" if 0 else b" ")
        print("loris", worst, (door.memory-before)/MIB, door.process.stderr[:300])
        for w in ws: w.transport.abort()
