"""A worker that dies where it hurts most: the reading is stored, its entry is not acknowledged."""

import os
import signal

from greenscale_worker import Job, Output

from energy_readings.processing import Processing


class Dying(Processing):
    async def infer(self, job: Job) -> Output:
        await super().infer(job)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
