"""Write the pages of docs/reference/ that are derived from the source.

    python tools/reference_docs.py            write them
    python tools/reference_docs.py --check    say which are out of date; exit status 1 if any is

A page is a function in `tools/reference/` that returns its whole text: one entry in PAGES.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
for source in (ROOT, ROOT / "protocol"):
    sys.path.insert(0, str(source))

from tools.reference.apis import apis  # noqa: E402
from tools.reference.cli import cli  # noqa: E402
from tools.reference.configuration import configuration  # noqa: E402
from tools.reference.differences import differences  # noqa: E402
from tools.reference.errors import errors  # noqa: E402
from tools.reference.events import events  # noqa: E402
from tools.reference.limits import limits  # noqa: E402
from tools.reference.metrics import metrics  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/configuration.md": configuration,
    "docs/reference/apis.md": apis,
    "docs/reference/cli.md": cli,
    "docs/reference/differences.md": differences,
    "docs/reference/errors.md": errors,
    "docs/reference/limits.md": limits,
    "docs/reference/events.md": events,
    "docs/reference/metrics.md": metrics,
}


def main() -> int:
    """Write or check all pages; the exit status."""
    stale = []
    for name, page in PAGES.items():
        path = ROOT / name
        text = page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    if stale and "--check" in sys.argv[1:]:
        print(f"out of date, run `make docs`: {', '.join(stale)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
