"""`python -m samples.chat`: see `command.py`."""

import sys

from samples.chat.command import main

if __name__ == "__main__":
    sys.exit(main())
