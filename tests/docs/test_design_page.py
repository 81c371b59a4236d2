"""What docs/design.md says of the world and of sendfile is what the code has."""

from __future__ import annotations

import re

from kbroker.env.real_net import JOIN_MAX
from tests.docs.pages import DOCS
from tests.test_tidy import MAY_TOUCH_THE_WORLD, WORLD

TEXT = (DOCS / "design.md").read_text(encoding="utf-8")


def test_who_may_touch_the_world_is_who_the_page_names() -> None:
    idea = TEXT.partition("**The world is an argument.**")[2].partition("\n6. ")[0]
    said = set(re.findall(r"`(kbroker\.\w+)`", idea))
    assert said == {name for name in MAY_TOUCH_THE_WORLD if "__" not in name}
    imports = re.findall(r"\w+", idea.partition("imports ")[2].partition(" or another")[0])
    assert imports and set(imports) <= WORLD


def test_the_size_from_which_slices_go_by_sendfile() -> None:
    said = re.search(r"more\s+than (\d+) KiB goes from the file to the socket by `sendfile`", TEXT)
    assert said and int(said[1]) << 10 == JOIN_MAX
