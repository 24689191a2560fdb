"""Run as a script, `tether.py PID COMMAND…`: becomes that command, which is killed when process PID, its parent, dies.

Only Linux can promise that. This is a program of its own because code that runs between fork and exec may deadlock.
"""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1


def main(parent: int, *command: str) -> None:
    """Become the command. It is not begun where its parent is gone already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)
    try:
        os.execv(command[0], command)  # noqa: S606  what a shell would do to the arguments is not wanted
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
