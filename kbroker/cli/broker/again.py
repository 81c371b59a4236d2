"""This program once more, for a process of its own."""

from __future__ import annotations

import sys


def program() -> list[str]:
    """The first words of its command.

    `python -m` looks for every module in the working directory first, where a user may have one that is called `queue`:
    only as far as this process has done that itself, as one does in a checkout.
    """
    is_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
    is_safe = sys.flags.safe_path or not is_module
    return [sys.executable, *(["-P"] if is_safe else []), "-m", "kbroker"]
