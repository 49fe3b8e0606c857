"""``python -m mcap`` is the same program as ``mcap``."""

from mcap.cli import main

if __name__ == "__main__":
    main()
