"""Links of the docs lead to what is there: files, and headings in them. No page is out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, anchors, links

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("compat/**/*.md"))]


def targets(page: Path) -> Iterator[tuple[Path, str]]:
    """Files of ours that a page links to, with the anchor in them."""
    for link in links(page.read_text(encoding="utf-8")):
        if "://" not in link and not link.startswith("mailto:"):
            name, _, anchor = link.partition("#")
            yield ((page.parent / name).resolve() if name else page), anchor


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for file, anchor in targets(page):
            if not file.exists():
                broken.append(f"{page.relative_to(ROOT)}: no {file.relative_to(ROOT)}")
            elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
                broken.append(f"{page.relative_to(ROOT)}: no #{anchor} in {file.relative_to(ROOT)}")
    assert not broken, "\n".join(broken)


def test_every_page_of_the_docs_is_reached_from_the_readme() -> None:
    seen, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        ahead += [file for file, _ in targets(page) if file.is_file()]
    lost = [str(page.relative_to(ROOT)) for page in PAGES if page not in seen and page.is_relative_to(DOCS)]
    assert not lost, f"no link leads there: {lost}"
