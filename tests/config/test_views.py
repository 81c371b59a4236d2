"""What makes a topic a view: the keys `kbroker.view.*`, what they mean, and what is wrong with some of them."""

from __future__ import annotations

import pytest

from kbroker.config import ConfigError, ViewSpec, check_topic_configs, view_of
from kbroker.filters import parse

SOURCE = {"kbroker.view.source": "orders"}


def test_a_topic_without_source_is_no_view() -> None:
    assert view_of({}) is None
    assert view_of({"kbroker.view.source": "", "retention.ms": "1"}) is None


def test_view_of_all_with_a_lag() -> None:
    assert view_of({**SOURCE, "kbroker.view.lag.ms": "300000"}) == ViewSpec("orders", None, True, 300_000)


def test_view_by_filter() -> None:
    found = view_of({**SOURCE, "kbroker.view.filter": 'country = "de"', "kbroker.view.mode": "prune"})
    assert found == ViewSpec("orders", parse('country = "de"'), is_exact=False)


def test_tags_are_an_expression() -> None:
    configs = {**SOURCE, "kbroker.view.tags": 'eu, vip ,a"b\\c'}
    checked = check_topic_configs(configs)
    assert checked["kbroker.view.tags"] == 'eu,vip,a"b\\c'
    found = view_of(configs)
    assert found is not None and found.expression is not None
    assert found.expression.tags() == {b"eu", b"vip", b'a"b\\c'}
    assert found.expression.matches(None, [("kbroker-tags", b"x, vip")])
    assert not found.expression.matches(None, [("kbroker-tags", b"x")])
    assert found.expression == parse(str(found.expression))


def test_as_many_and_long_tags_as_allowed() -> None:
    tags = [f"{number:0249}" for number in range(64)]
    configs = {**SOURCE, "kbroker.view.tags": ",".join(tags)}
    check_topic_configs(configs)
    found = view_of(configs)
    assert found is not None and found.expression is not None
    assert found.expression.tags() == {tag.encode() for tag in tags}


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        ({"kbroker.view.tags": ",".join(map(str, range(65)))}, "65 tags are too many: expected at most 64 tags of"),
        ({"kbroker.view.tags": "ä" * 125}, "is too long: expected at most 64 tags of at most 249 bytes"),
        ({"kbroker.view.tags": "eu,,vip"}, '"eu,,vip" is not allowed: expected at most 64 tags of'),
        ({"kbroker.view.tags": "eu,"}, '"eu," is not allowed'),
        ({"kbroker.view.filter": 'key = "' + "x" * 2048 + '"'}, "2056 characters are too many: expected at most 2048"),
        ({"kbroker.view.filter": 'tags has "eu" und x = "1"'}, "kbroker.view.filter: filter, position 15: expected "),
        ({"kbroker.view.filter": "("}, "position 2: expected "),
        ({"kbroker.view.lag.ms": "-1"}, '"-1" is not allowed: expected a whole number, 0 to 3153600000000'),
        ({"kbroker.view.lag.ms": "5m"}, '"5m" is not allowed: expected a whole number, 0 to 3153600000000'),
        ({"kbroker.view.mode": "fast"}, '"fast" is not allowed: expected one of exact, prune'),
        ({"kbroker.view.tags": "eu", "kbroker.view.filter": 'key = "1"'}, "a view has one of them"),
        ({"retention.ms": "1000"}, "retention.ms is not for views: what holds is that of the source, orders"),
    ],
)
def test_bad_views(configs: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_topic_configs({**SOURCE, **configs})
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["kbroker.view.tags", "kbroker.view.filter"])
def test_what_is_for_views_needs_a_source(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is for views: it needs kbroker.view.source"):
        check_topic_configs({name: 'key = "1"'})
    with pytest.raises(ConfigError, match="it needs"):
        check_topic_configs({name: 'key = "1"', "kbroker.view.source": ""})
