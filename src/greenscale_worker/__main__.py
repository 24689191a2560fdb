import sys

from greenscale_worker.cli import main

sys.exit(main())
