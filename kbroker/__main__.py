"""`python -m kbroker` is `kbroker`."""

from __future__ import annotations

from kbroker.cli import main

if __name__ == "__main__":
    main()
