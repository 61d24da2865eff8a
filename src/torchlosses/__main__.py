"""``python -m torchlosses``: the command line."""

from torchlosses.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
