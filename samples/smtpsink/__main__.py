"""`python -m samples.smtpsink`: see `command.py`."""

import sys

from samples.smtpsink.command import main

if __name__ == "__main__":
    sys.exit(main())
