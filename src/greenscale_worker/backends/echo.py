from greenscale_worker.backends.request import question, request_of
from greenscale_worker.job import CHAT_PATH, Job, Output
from greenscale_worker.wire_json import write


class EchoBackend:
    """Answers with the question, and refuses what `chat` would refuse before sending."""

    async def infer(self, job: Job) -> Output:
        """Answer with the text of the last user message, with the prompt of a completion, with an embedding's input."""
        request = request_of(job)
        said = question(request["messages"]) if job.path == CHAT_PATH else request.get("prompt", request.get("input"))
        text = said if isinstance(said, str) else write(said).decode()
        job.emit(text)
        return Output(text, model=request.get("model"), finish_reason="stop")

    async def ready(self) -> bool:
        """Return True: it is always ready."""
        return True

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""
