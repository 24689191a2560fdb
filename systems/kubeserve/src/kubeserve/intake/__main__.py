"""`python -m kubeserve.intake DIR`: builds the environment of the usual packages in DIR, for an image to have."""

import asyncio
import shutil
import sys
from pathlib import Path

from kubeserve.intake.environments import CACHE, Environments
from kubeserve.intake.verdicts import FailedError, RejectedError


def main() -> int:
    """Exit status 0 once it is there."""
    root = Path(sys.argv[1])
    try:
        base = asyncio.run(Environments(root).base())
    except (FailedError, RejectedError) as error:
        sys.stderr.write(f"kubeserve.intake: {error}\n")
        return 1
    shutil.rmtree(root / CACHE)
    (root / f"{base.id}.lock").unlink()
    sys.stdout.write(f"{base.path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
