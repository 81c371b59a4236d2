"""The filter language: a condition on a record's key, headers and tags. Pure; imports nothing of kbroker.

    tags has "eu" and not (country in ("de", "at") or key prefix "test-")

    text ──syntax──▶ tree ──expression──▶ Expression: matches(key, headers), tags()

syntax       what may be written: the grammar, the tree it makes, FilterSyntaxError, the bounds
expression   what it means: the tree as functions, and what it implies about a record's tags
tags         the tags of a record: how the header `kbroker-tags` is read

The same language is spoken by views (`kbroker.view.filter`) and by `kbroker.client.filtering`.
"""

from kbroker.filters.expression import Expression, parse
from kbroker.filters.syntax import FilterSyntaxError
from kbroker.filters.tags import TAGS_HEADER, split_tags, tags_of

__all__ = ["TAGS_HEADER", "Expression", "FilterSyntaxError", "parse", "split_tags", "tags_of"]
