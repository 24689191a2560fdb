"""A bare aiohttp handler with a model in its process, which each request asks by itself: `bare.py VENV MODEL PORT`."""

import sys
from pathlib import Path

(site,) = Path(sys.argv[1]).glob("lib/python3*/site-packages")
sys.path.append(str(site))  # scikit-learn; aiohttp and orjson are those of this Python

import joblib  # noqa: E402  of that environment
import numpy as np  # noqa: E402
import orjson  # noqa: E402
from aiohttp import web  # noqa: E402

MODEL = joblib.load(sys.argv[2])


async def predict(request: web.Request) -> web.Response:
    """Answer as a handler of ten lines does."""
    rows = np.array(orjson.loads(await request.read())["instances"], dtype="float64")
    body = orjson.dumps({"predictions": MODEL.predict(rows).tolist()})
    return web.Response(body=body, content_type="application/json")


app = web.Application(client_max_size=4 << 20)
app.add_routes([web.post("/predict", predict)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[3]), access_log=None, print=None)
