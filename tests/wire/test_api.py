"""Keys, classes and header versions: the table agrees with the declarations, and with kio."""

from __future__ import annotations

import subprocess
import sys

import pytest
from kio.schema.index import api_key_map

from kafka_wire.api import (
    APIS,
    ApiKey,
    is_flexible,
    request_class,
    request_header_version,
    response_class,
    response_header_version,
)
from kafka_wire.schema import VERSION_MAX, layout

# Section 1 of the wire surface: what is advertised, or will be once it works.
ADVERTISED = {
    18: (0, 4), 3: (0, 13), 17: (0, 1), 36: (0, 2), 0: (3, 13), 1: (4, 18), 2: (1, 11), 23: (2, 4), 22: (0, 5),
    10: (0, 6), 11: (0, 9), 14: (0, 5), 12: (0, 4), 13: (0, 5), 8: (1, 10), 9: (1, 10), 68: (0, 1), 69: (0, 1),
    76: (1, 1), 77: (1, 1), 78: (1, 2), 79: (1, 2), 90: (0, 1), 91: (0, 0), 92: (0, 0), 24: (0, 5), 25: (0, 4),
    26: (0, 5), 28: (0, 5), 61: (0, 0), 65: (0, 0), 66: (0, 2), 27: (1, 1), 19: (2, 7), 20: (1, 6), 37: (0, 3),
    21: (0, 2), 15: (0, 6), 16: (0, 5), 42: (0, 2), 47: (0, 0), 32: (1, 4), 33: (0, 2), 44: (0, 1), 60: (0, 2),
    75: (0, 0), 35: (1, 4), 34: (1, 2), 43: (0, 2), 45: (0, 1), 46: (0, 0), 74: (0, 1), 55: (0, 2), 57: (0, 2),
    29: (1, 3), 30: (1, 3), 31: (1, 3), 50: (0, 0), 51: (0, 0), 48: (0, 1), 49: (0, 1),
}  # fmt: skip


def test_the_whole_surface_is_declared() -> None:
    for key, (low, high) in ADVERTISED.items():
        assert APIS[key].version_min <= low and high <= APIS[key].version_max, APIS[key].name


@pytest.mark.parametrize("key", APIS)
def test_the_table_agrees_with_the_declarations(key: int) -> None:
    api = APIS[key]
    for cls in (request_class(key), response_class(key)):
        found = layout(cls)
        assert (found.key, found.versions) == (key, (api.version_min, api.version_max))
        assert min(found.flexible, VERSION_MAX) == min(api.flexible, VERSION_MAX)
        assert cls.__doc__
    assert request_class(key).__name__ == api.name + "Request"
    assert response_class(key).__name__ == api.name + "Response"


def test_keys_have_kafkas_names() -> None:
    # kio has dropped the keys of APIs that Kafka 4 removed, and does not know ours.
    for key, name in api_key_map.items():
        assert ApiKey(key).name.lower() == name
    assert {ApiKey(n).name for n in set(ApiKey) - set(api_key_map)} == {
        "LEADER_AND_ISR", "STOP_REPLICA", "UPDATE_METADATA", "CONTROLLED_SHUTDOWN", "INTRODUCE", "WAIT_APPLIED",
        "COMPACT_LOG", "LIST_DELAYED",
    }  # fmt: skip


def test_header_versions_follow_flexibility() -> None:
    assert (request_header_version(ApiKey.PRODUCE, 8), response_header_version(ApiKey.PRODUCE, 8)) == (1, 0)
    assert (request_header_version(ApiKey.PRODUCE, 9), response_header_version(ApiKey.PRODUCE, 9)) == (2, 1)
    assert request_header_version(ApiKey.SASL_HANDSHAKE, 1) == 1
    assert not is_flexible(ApiKey.OFFSET_DELETE, 0)


def test_trap_1_the_api_versions_response_header_is_always_v0() -> None:
    for version in range(5):
        assert response_header_version(ApiKey.API_VERSIONS, version) == 0
    assert request_header_version(ApiKey.API_VERSIONS, 3) == 2


def test_unknown_pairs_have_the_old_headers() -> None:
    assert (request_header_version(999, 0), response_header_version(999, 0)) == (1, 0)
    assert (request_header_version(ApiKey.PRODUCE, 99), response_header_version(ApiKey.PRODUCE, 99)) == (1, 0)


def test_an_api_that_is_not_declared_has_no_class() -> None:
    with pytest.raises(KeyError):
        request_class(ApiKey.VOTE)


def test_families_are_imported_on_first_use() -> None:
    code = (
        "import sys; from kafka_wire.api import ApiKey, request_class\n"
        "def families(): return [m for m in sys.modules if m.startswith('kafka_wire.messages.')]\n"
        "assert families() == []; request_class(ApiKey.FETCH)\n"
        "assert [f[-13:] for f in families()] == ['produce_fetch']\n"
        "assert not {'trio', 'dataclasses', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(p for p in sys.path if p)})
