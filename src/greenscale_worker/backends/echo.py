from greenscale_worker.backends.request import chat_request, question
from greenscale_worker.job import Job, Output


class EchoBackend:
    """Answers with the question, and refuses what `chat` would refuse before sending."""

    async def infer(self, job: Job) -> Output:
        """Answer with the text of the last user message."""
        request = chat_request(job.payload)
        return Output(question(request["messages"]), model=request.get("model"), finish_reason="stop")

    async def ready(self) -> bool:
        """Return True: it is always ready."""
        return True

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""
