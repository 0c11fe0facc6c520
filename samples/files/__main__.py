"""`python -m samples.files`: see `command.py`."""

import sys

from samples.common import needing

if __name__ == "__main__":
    with needing("web", "files"):
        from samples.files.command import main
    sys.exit(main())
