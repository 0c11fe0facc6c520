"""`python -m samples.webchat`: see `command.py`."""

import sys

if __name__ == "__main__":
    try:
        from samples.webchat.command import main
    except ModuleNotFoundError as missing:
        if missing.name not in ("h11", "wsproto"):
            raise
        print(
            f"python -m samples.webchat: it needs the module {missing.name}: pip install 'selector-reactor[web]'",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(main())
