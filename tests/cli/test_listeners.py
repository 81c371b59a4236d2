"""`--listen` and `--advertise`: what they mean, and each wrong way to write them."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from kbroker.cli import cli
from kbroker.cli.broker.banner import advertised_texts
from kbroker.cli.broker.listeners import host_and_port, listener_configs, plain_protocols
from kbroker.cli.broker.supervisor import plan
from kbroker.config import BrokerConfig, ConfigError, load
from kbroker.config.checks import parse_protocol_map
from tests.cli.process import started, told_by
from tests.server.process import ENVIRONMENT

MAP = "listener.security.protocol.map"


def configured(listens: list[str], advertises: list[str], file: dict[str, str] | None = None) -> BrokerConfig:
    """As `kbroker start` does it."""
    derived = {"--listen": plain_protocols(listens)}
    return load(file, flags=listener_configs(listens, advertises), derived=derived)


@pytest.mark.parametrize(
    ("text", "address"),
    [("h:1", ("h", 1)), (":9", ("", 9)), ("9092", ("127.0.0.1", 9092)), ("[::1]:5", ("::1", 5)), ("h:0", ("h", 0))],
)
def test_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert host_and_port(text) == address


def test_a_listener_without_a_name_is_plaintext() -> None:
    assert listener_configs(["[::1]:9092"], ["h:1"]) == {
        "listeners": "PLAINTEXT://[::1]:9092",
        "advertised.listeners": "PLAINTEXT://h:1",
    }
    assert not configured(["127.0.0.1:9092"], []).is_set(MAP)


def test_named_listeners_speak_plaintext_unless_they_are_mapped() -> None:
    config = configured(["inside=:19092", "OUTSIDE=0.0.0.0:9092"], ["OUTSIDE=localhost:9092"])
    assert [tuple(each) for each in config.listeners] == [("INSIDE", "", 19092), ("OUTSIDE", "0.0.0.0", 9092)]
    assert config.advertised_listeners == {"OUTSIDE": ("localhost", 9092)}
    protocols = parse_protocol_map(config.get_str(MAP))
    assert protocols["INSIDE"] == protocols["OUTSIDE"] == "PLAINTEXT"
    assert protocols["SSL"] == "SSL"
    assert config.origin(MAP) == "--listen"
    with pytest.raises(ConfigError, match="OUTSIDE would speak SSL"):
        configured(["OUTSIDE=:1"], [], {MAP: "OUTSIDE:SSL"})


def test_they_take_the_place_of_all_listeners_in_the_file() -> None:
    file = {"listeners": "A://:1,B://:2", MAP: "A:PLAINTEXT,B:PLAINTEXT"}
    assert [each.name for each in configured(["C=:3"], [], file).listeners] == ["C"]
    assert configured([], ["B=h:2"], file).advertised_listeners == {"B": ("h", 2)}


def test_ports_of_each_listener_count_up_and_every_broker_has_the_map() -> None:
    plans = plan(configured(["IN=:19092", "OUT=:9092"], ["OUT=localhost:9092"]), 3)
    assert plans[2].listeners == {"IN": ("", 19094), "OUT": ("", 9094)}
    assert plans[2].advertised == {"OUT": ("localhost", 9094)}
    assert parse_protocol_map(plans[2].overrides[MAP])["IN"] == "PLAINTEXT"


@pytest.mark.parametrize(
    ("listens", "advertises", "message"),
    [
        (["nowhere"], [], "--listen 'nowhere' is not HOST:PORT or NAME=HOST:PORT: nowhere has no port"),
        (["h:"], [], "h: has no port"),
        ([""], [], "has no port"),
        (["A=h:99999"], [], "99999 is no port, which is from 0 to 65535"),
        (["A=h:-1"], [], '"-1" in h:-1 is no port'),
        (["A=h:9o92"], [], '"9o92" in h:9o92 is no port'),
        (["::1:9092"], [], "::1:9092 would be an address of IPv6, which stands in brackets"),
        (["[::1:9092"], [], "[::1:9092 is not HOST:PORT"),
        (["user@h:1"], [], "a host has no '@', as user@h:1 has"),
        (['"h":1'], [], "a host has no '\"'"),
        (["h /x:1"], [], "a host has no ' '"),
        (["A://h:9"], [], "write A=h:9"),
        (["=h:1"], [], '"" cannot be a listener\'s name'),
        (["A B=h:1"], [], '"A B" cannot be a listener\'s name'),
        (["A=B=h:1"], [], '"A=B" cannot be'),
        (["SSL=:1"], [], "SSL names a protocol that kbroker does not speak yet"),
        (["sasl_plaintext=:1"], [], "SASL_PLAINTEXT names a protocol"),
        (["A=:1", "a=:2"], [], "--listen names A twice"),
        (
            [":1", ":2"],
            [],
            "--listen is given twice without a name, which is PLAINTEXT: name one, as --listen",
        ),
        ([":1", "PLAINTEXT=:2"], [], "--listen names PLAINTEXT twice"),
        (["A=:1"], ["A=h:1", "A=i:1"], "--advertise names A twice"),
        (["A=:1"], ["B=h:1"], "--advertise B=h:1: there is no listener B: add --listen B=HOST:PORT"),
        (["A=:1"], ["h:1"], "--advertise h:1: say which listener it is of, as A=h:1"),
        ([], ["h"], "--advertise 'h' is not HOST:PORT"),
    ],
)
def test_wrong_flags_are_told_with_the_culprit_and_the_way(
    listens: list[str], advertises: list[str], message: str
) -> None:
    with pytest.raises(click.UsageError) as caught:
        listener_configs(listens, advertises)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("listens", "advertises", "message"),
    [
        (["A=:9092", "B=:9092"], [], "listeners: A and B both want port 9092: give B another one"),
        (["A=0.0.0.0:9092", "B=127.0.0.1:9092"], [], "both want port 9092"),
        (["A=h:9092", "B=[::]:9092"], [], "both want port 9092"),
        ([], ["B=h:1"], "B is not one of listeners, which has PLAINTEXT"),
        ([], ["0.0.0.0:1"], '"0.0.0.0" is no address that a client can connect to: give the name'),
        ([], ["0:1"], '"0" is no address'),
        ([], ["[::]:1"], '"::" is no address'),
        ([], ["[0:0::0]:1"], '"0:0::0" is no address'),
        ([], ["h:0"], "PLAINTEXT has port 0, which no client can connect to"),
    ],
)
def test_what_does_not_fit_together_is_refused(listens: list[str], advertises: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(listens, advertises)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "listens", [["A=:0", "B=:0"], ["A=127.0.0.1:1", "B=127.0.0.2:1"], ["A=0.0.0.0:1", "B=[::1]:1"]]
)
def test_the_same_port_at_other_addresses_is_allowed(listens: list[str]) -> None:
    assert len(configured(listens, []).listeners) == 2


@pytest.mark.parametrize(
    ("flag", "value", "config"),
    [
        ("--listen", ":1", "listeners"),
        ("--advertise", "h:1", "advertised.listeners"),
        ("--data-dir", "d", "kbroker.data.dir"),
        ("--coordination", "sqlite:x", "kbroker.coordination"),
    ],
)
def test_a_flag_and_the_override_it_is_short_for_exclude_each_other(flag: str, value: str, config: str) -> None:
    result = CliRunner().invoke(cli, ["start", flag, value, "--override", f"{config}={value}"])
    assert result.exit_code == 2
    assert f"{flag} and --override {config} exclude each other" in result.stderr


def test_what_clients_are_told_is_said_where_it_is_not_where_the_broker_listens() -> None:
    bound = {"A": ("::", 1), "B": ("127.0.0.1", 2), "C": ("::", 3)}
    told = {"A": ("h", 1), "B": ("127.0.0.1", 2), "C": ("", 3)}
    assert advertised_texts(bound, told) == ["h:1 (A)"]
    assert advertised_texts({"A": ("::", 1)}, {"A": ("::1", 9)}) == ["[::1]:9"]
    assert advertised_texts({"A": ("::", 1)}, {"A": ("", 9)}) == []


@pytest.mark.slow
@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7"])
def test_an_address_that_this_machine_does_not_have_is_told_in_one_line(host: str) -> None:
    command = [sys.executable, "-m", "kbroker", "--memory", "--listen", "A=127.0.0.1:0", "--listen", f"B={host}:9"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(f"kbroker: cannot listen on {host}:9: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_each_listener_tells_its_own_address_to_those_who_came_by_it() -> None:
    """And where none is advertised, the address of the connection."""
    options = ("--listen", "INSIDE=0.0.0.0:0", "--listen", "OUTSIDE=127.0.0.1:0", "--advertise", "OUTSIDE=out.test:1")
    with started("start", *options, "--memory") as (inside, outside):
        port = inside.rpartition(":")[2]
        assert told_by(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
        assert told_by(f"127.0.0.2:{port}") == f"127.0.0.2:{port}"
        assert told_by(outside) == "out.test:1"
        wrong = CliRunner().invoke(cli, ["ping", "--advertised", "-b", outside, "--timeout", "2s"])
        assert wrong.exit_code == 3
        assert "clients are told out.test:1 for node 1: no broker at out.test:1: " in wrong.stdout
        right = CliRunner().invoke(cli, ["ping", "--advertised", "-b", f"127.0.0.2:{port}", "--format", "json"])
        assert json.loads(right.stdout)["advertised"] == [{"node": 1, "address": f"127.0.0.2:{port}", "problem": None}]


@pytest.mark.slow
def test_what_is_advertised_without_a_host_is_the_address_by_which_a_client_came() -> None:
    """As in compose files of bitnami's image. Kafka would tell the machine's name."""
    with started("start", "--listen", "127.0.0.1:0", "--advertise", ":29092", "--memory") as (address,):
        assert told_by(address) == "127.0.0.1:29092"


@pytest.mark.slow
def test_brokers_of_several_listeners_find_each_other() -> None:
    options = ("--listen", "INSIDE=127.0.0.1:0", "--listen", "OUTSIDE=127.0.0.1:0", "--topic", "t:2")
    with started("start", *options, "--memory", "--brokers", "2") as addresses:
        described = CliRunner().invoke(cli, ["cluster", "info", "-b", addresses[0], "--format", "json"])
        assert '"brokers": 2' in described.stdout, described.output
