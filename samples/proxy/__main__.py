"""`python -m samples.proxy`: see `command.py`."""

import sys

from samples.proxy.command import main

if __name__ == "__main__":
    sys.exit(main())
