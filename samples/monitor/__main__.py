"""`python -m samples.monitor`: see `command.py`."""

import sys

from samples.monitor.command import main

if __name__ == "__main__":
    sys.exit(main())
