"""Run as a script, `tether.py PID COMMAND…`: becomes that command, which is killed when process PID, its parent, dies.

Works on Linux only. It is a separate program because code that runs between fork and exec may deadlock.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main(parent: int, *command: str) -> None:
    """Become the command, unless the parent is already gone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606  no shell must interpret the arguments
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
