import sys

from energy_readings.cli import main

sys.exit(main())
