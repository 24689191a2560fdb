"""`python -m kubeserve.cli`, as the command `kubeserve`."""

import sys

from kubeserve.cli import main

if __name__ == "__main__":
    sys.exit(main())
