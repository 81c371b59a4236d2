"""What the docs say of versions and of `make` is what the files have that decide it."""

from __future__ import annotations

import re
import tomllib

from kbroker import __version__
from tests.docs.pages import DOCS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_and_platform_are_those_that_the_package_names() -> None:
    least = PROJECT["requires-python"].removeprefix(">=")
    assert f"Python {least} or later, and Linux" in README
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert named[0] == least and named == sorted(named)
    assert [name for name in PROJECT["classifiers"] if name.startswith("Operating")] == [
        "Operating System :: POSIX :: Linux"  # where the tests run
    ]


def test_the_version_that_is_shown_is_this_one() -> None:
    pages = [README, (DOCS / "how-to/upgrade.md").read_text(encoding="utf-8")]
    assert PROJECT["version"] == __version__
    assert all(set(re.findall(r"^kbroker (\d+\.\d+\.\d+)", page, re.MULTILINE)) == {__version__} for page in pages)


def test_the_java_client_of_the_page_is_the_one_that_is_tested() -> None:
    page = (DOCS / "how-to/java.md").read_text(encoding="utf-8")
    client = tomllib.loads((ROOT / "compat/java_4_3/client.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"<version>([\d.]+)</version>|kafka-clients:([\d.]+)", page))
    assert {one or other for one, other in named} == {client["title"].removeprefix("Java ")}


def test_every_target_of_make_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, page.name
