"""ViewSpec: what makes a topic a view of another, read from its configs.

    kbroker.view.source=orders            of which topic
    kbroker.view.tags=eu,vip              only records that have one of these tags,   or
    kbroker.view.filter=country = "de"    only records that this matches
    kbroker.view.mode=exact               exactly those; prune: whole batches in which there may be some
    kbroker.view.lag.ms=300000            everything so much later

A topic without a source is no view. Whether the source can be one is the cluster's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from kbroker.config.keys import ConfigError, Value, split_list

if TYPE_CHECKING:
    from kbroker.filters import Expression

VIEW_KEYS = "kbroker.view."  # what their names begin with
VIEW_SOURCE = "kbroker.view.source"
VIEW_TAGS, VIEW_FILTER = "kbroker.view.tags", "kbroker.view.filter"
VIEW_MODE, VIEW_LAG_MS = "kbroker.view.mode", "kbroker.view.lag.ms"
NOTHING = ""  # no topic's name
FILTER_MAX = 2048  # characters: it is parsed at once, in the event loop
TAGS_MAX = 64  # of one view
TAG_BYTES_MAX = 249  # as a topic's name


class ViewSpec(NamedTuple):
    """What a view shows of its source."""

    source: str  # the topic's name
    expression: Expression | None = None  # which records; None: all
    is_exact: bool = True  # False: whole batches in which there may be some
    lag_ms: int = 0  # how much later


def view_of(configs: Mapping[str, str]) -> ViewSpec | None:
    """The view that a topic with these configs is; None: it is none.

    They were checked when they were set. What another version accepted and this one does not understand is a view of
    nothing: it must not show more than it was made to show.
    """
    source = configs.get(VIEW_SOURCE)
    if not source:
        return None
    text, tags = configs.get(VIEW_FILTER), split_list(configs.get(VIEW_TAGS))
    try:
        expression = _parsed(text) if text else _any_of(tags) if tags else None
        return ViewSpec(source, expression, configs.get(VIEW_MODE) != "prune", int(configs.get(VIEW_LAG_MS, 0)))
    except ValueError:
        return ViewSpec(NOTHING)


@lru_cache(maxsize=128)  # it is asked for when it is checked, when the view is made, and when that is seen
def _parsed(text: str) -> Expression:
    from kbroker.filters import parse  # only where there are views

    return parse(text)


def _any_of(tags: list[str]) -> Expression:
    """Any of these tags."""
    from kbroker.filters.expression import Expression
    from kbroker.filters.syntax import Kind, Operand, Operator, Test

    quoted = ['"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags]
    values = frozenset(tag.encode() for tag in tags)
    return Expression(f"tags in ({', '.join(quoted)})", Test(Operand(Kind.TAGS), Operator.IN, values))


def check_view(values: Mapping[str, Value]) -> None:
    """Whether a topic's own configs are those of a view, or of none. Raises ConfigError."""
    of_view = [name for name in values if name.startswith(VIEW_KEYS)]
    if not values.get(VIEW_SOURCE):
        if of_view and of_view != [VIEW_SOURCE]:
            name = next(name for name in of_view if name != VIEW_SOURCE)
            raise ConfigError(f"{name} is for views: it needs {VIEW_SOURCE}, the topic that the view is of")
        return
    others = next((name for name in values if not name.startswith(VIEW_KEYS)), None)
    if others is not None:
        raise ConfigError(f"{others} is not for views: what holds is that of the source, {values[VIEW_SOURCE]}")
    if values.get(VIEW_TAGS) and values.get(VIEW_FILTER):
        raise ConfigError(
            f'{VIEW_TAGS} and {VIEW_FILTER} are both set: a view has one of them (a filter may say tags has "eu")'
        )


def check_view_tags(text: str) -> str:
    """at most 64 tags of at most 249 bytes each, in UTF-8, separated by commas"""
    tags = split_list(text)
    if len(tags) > TAGS_MAX:
        raise ConfigError(f"{VIEW_TAGS}: {len(tags)} tags are too many: expected {check_view_tags.__doc__}")
    for tag in tags:
        if len(tag.encode(errors="surrogatepass")) > TAG_BYTES_MAX:
            raise ConfigError(f'{VIEW_TAGS}: "{tag[:60]}..." is too long: expected {check_view_tags.__doc__}')
    return ",".join(dict.fromkeys(tags))


def check_view_filter(text: str) -> str:
    """an expression of the filter language"""
    if len(text) > FILTER_MAX:
        raise ConfigError(f"{VIEW_FILTER}: {len(text)} characters are too many: expected at most {FILTER_MAX}")
    try:
        if text:
            _parsed(text)
    except ValueError as error:  # FilterSyntaxError
        raise ConfigError(f"{VIEW_FILTER}: {error}") from None
    return text
