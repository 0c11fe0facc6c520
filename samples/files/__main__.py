"""`python -m samples.files`: see `command.py`."""

import sys

from samples.files.command import main

if __name__ == "__main__":
    sys.exit(main())
