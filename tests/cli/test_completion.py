"""What TAB offers: commands, options, names of topics, groups and configs; silence where nobody answers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from kbroker.cli import cli
from kbroker.cli.names import completions
from tests.cli import forked
from tests.cli.process import broker_process
from tests.cli.test_mistakes import silent_server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with broker_process("--topic", "orders:2", "--topic", "orders-late") as found:
        yield found


@pytest.fixture(scope="module")
def shell(address: str) -> Iterator[forked.Commands]:
    with forked.commands(KBROKER_BROKERS=address) as found:
        assert found.run("topic", "produce", "orders", stdin=b"a\n").code == 0
        assert found.run("topic", "consume", "orders", "-g", "billing", "-n", "1").code == 0
        yield found


def offered(shell: forked.Commands, line: str, kind: str = "bash") -> list[str]:
    """What is offered for the last word of a line, as each shell asks for it."""
    words = line.split(" ")
    number = words[-1] if kind == "fish" else str(len(words) - 1)
    env = {"_KBROKER_COMPLETE": f"{kind}_complete", "COMP_WORDS": line, "COMP_CWORD": number}
    done = shell.run(env=env)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    if kind == "zsh":  # three lines each: type, value, help
        return lines[1::3]
    return [each.partition(",")[2].partition("\t")[0] for each in lines if each]


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("kbroker ", {"start", "topic", "group", "config"}),
        ("kbroker to", {"topic"}),
        ("kbroker --li", {"--listen"}),
        ("kbroker --memory --da", {"--data-dir"}),
        ("kbroker topic ", {"create", "produce", "consume"}),
        ("kbroker topic consume --fr", set()),
        ("kbroker topic describe ", {"orders", "orders-late", "t"}),
        ("kbroker topic describe orders-", {"orders-late"}),
        ("kbroker topic describe __", {"__consumer_offsets"}),
        ("kbroker topic delete t ord", {"orders", "orders-late"}),
        ("kbroker topic produce ord", {"orders", "orders-late"}),
        ("kbroker topic consume orders -g b", {"billing"}),
        ("kbroker group describe ", {"billing"}),
        ("kbroker group seek billing -t o", {"orders", "orders-late"}),
        ("kbroker topic alter orders -c retention.m", {"retention.ms="}),
        ("kbroker topic alter orders -d retention.m", {"retention.ms"}),
        ("kbroker start --override log.retention.m", {"log.retention.ms="}),
        ("kbroker config docs num.part", {"num.partitions"}),
        ("kbroker completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_offers(shell: forked.Commands, kind: str, line: str, some: set[str]) -> None:
    found = offered(shell, line, kind)
    assert some <= set(found)
    assert some or found == []


def test_topics_of_the_brokers_only_if_asked_for(shell: forked.Commands) -> None:
    assert offered(shell, "kbroker topic describe ") == ["orders", "orders-late", "t"]


def test_silence_where_nobody_answers(shell: forked.Commands) -> None:
    assert offered(shell, "kbroker topic describe -b 127.0.0.1:1 ") == []
    assert offered(shell, "kbroker topic describe -b nonsense:x ") == []
    with silent_server() as (address, has_asked):
        assert offered(shell, f"kbroker group describe -b {address} ") == []
        assert has_asked.is_set()


def test_names_that_a_shell_would_take_apart_are_left_out() -> None:
    names = [each.value for each in completions(["a b", "a;rm", "good-1", "a\nb", "_in", "x="], "")]
    assert names == ["good-1", "x="]


@pytest.mark.parametrize(("kind", "check"), [("bash", ["bash", "-n"])])
def test_the_script_is_one(shell: forked.Commands, kind: str, check: list[str]) -> None:
    script = shell.run("completion", kind).out
    assert "compopt -o nospace" in script
    assert subprocess.run(check, input=script, text=True, capture_output=True, check=False).stderr == ""


def test_bash_completes_with_it(shell: forked.Commands, address: str) -> None:
    """The whole way: the script, bash's own words, the command it calls."""
    script = shell.run("completion", "bash").out
    ask = "COMP_WORDS=(kbroker topic al) COMP_CWORD=2; _kbroker_completion kbroker; echo ${COMPREPLY[@]}"
    kbroker = f'env() {{ command env "${{@:1:3}}" {sys.executable} -m kbroker; }}'
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{kbroker}\n{ask}"],
        text=True,
        capture_output=True,
        check=False,
        env=shell.env,
    )
    assert done.stdout.split() == ["alter"]


def test_every_group_completes_its_commands() -> None:
    context = click.Context(cli, resilient_parsing=True)
    assert {each.value for each in cli.shell_complete(context, "")} == set(cli.list_commands(context))
