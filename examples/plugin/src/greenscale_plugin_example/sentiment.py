"""The backend `sentiment`: a model in this process, asked about many texts at once."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from greenscale_worker import Job, PermanentError, batched

GOOD = frozenset({"good", "great", "love", "like", "nice", "thanks"})
BAD = frozenset({"bad", "broken", "hate", "late", "never", "worse"})
MOST = 64  # texts of one call: where a larger call of the model would no longer be faster per text


def classify(texts: Sequence[str], margin: int) -> list[str]:
    """Say of each text whether it is positive, negative or neither: the model. `margin` words decide."""
    scores = [sum((word in GOOD) - (word in BAD) for word in text.lower().split()) for text in texts]
    return ["positive" if score >= margin else "negative" if score <= -margin else "neutral" for score in scores]


def open_sentiment() -> Callable[[Job], Awaitable[str]]:
    """Make the backend, when a worker starts. Raises ValueError for a setting that is no number; it stops the start."""
    margin = int(os.environ.get("SENTIMENT_MARGIN", "1"))

    @batched(most=MOST)
    async def answer(jobs: Sequence[Job]) -> list[str | PermanentError]:
        texts = [job.payload.get("prompt") for job in jobs]
        sound = [text for text in texts if isinstance(text, str)]
        # A model that computes does so in a thread: in the loop it would hold up heartbeats, and leases would expire.
        answers = iter(await asyncio.to_thread(classify, sound, margin))
        refusal = PermanentError("bad_request", "prompt: a string is expected")
        return [next(answers) if isinstance(text, str) else refusal for text in texts]

    return answer
