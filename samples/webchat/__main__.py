"""`python -m samples.webchat`: see `command.py`."""

import sys

from samples.common import needing

if __name__ == "__main__":
    with needing("web", "webchat"):
        from samples.webchat.command import main
    sys.exit(main())
