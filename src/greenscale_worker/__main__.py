"""The entry of `python -m greenscale_worker`."""

import sys

from greenscale_worker.cli import main

sys.exit(main())
