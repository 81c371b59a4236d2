"""The command line as a whole: what there is, the default command, exit codes, and what `start` may import."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import kbroker
from kbroker.cli import cli
from kbroker.cli.errors import Failed, Misconfigured, Unreachable, run

ROOT = Path(__file__).parent.parent.parent


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found = [path]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


LEAVES = list(leaves(cli))


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_help(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


@pytest.mark.parametrize("group_name", ["topic", "group"])
def test_short_help_says_what_the_command_says(group_name: str) -> None:
    group = cli.get_command(click.Context(cli), group_name)
    assert isinstance(group, click.Group)
    text = CliRunner().invoke(cli, [group_name, "--help"]).stdout
    assert "list|ls" in text
    assert "describe|info" in text
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        first_line = (command.help or "").splitlines()[0]
        assert first_line.split()[0] in text


def test_who_shows_a_table_shows_it_to_programs_by_the_same_option() -> None:
    """-o and --format: json, whatever the command; topic consume, whose -o is an offset, writes records."""
    for path, command in LEAVES:
        options = {name: each for each in command.params for name in each.opts}
        if "--format" in options:
            assert options["--format"] is options["-o"], path
            assert isinstance(options["-o"].type, click.Choice) and "json" in options["-o"].type.choices, path
        else:
            assert "-o" not in options or path == ("topic", "consume"), path


def test_no_command_is_start() -> None:
    """`kbroker --listen …` is `kbroker start --listen …`."""
    result = CliRunner().invoke(cli, ["--listen", "nowhere"])
    assert result.exit_code == 2
    assert "'nowhere' is not HOST:PORT" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["topc"], "no command 'topc', did you mean 'topic'?"),
        (["topic", "prodduce"], "did you mean 'produce'?"),
        (["topic", "create"], "Missing argument"),
        (["start", "--memory", "--data-dir", "x"], "exclude each other"),
        (["start", "--override", "a"], "is not NAME=VALUE"),
        (["start", "--topic", "a:b"], "is not NAME[:PARTITIONS[:REPLICAS]]"),
        (["start", "--override", "num.partitionz=1"], "did you mean num.partitions?"),
        (["start", "-c", "no such file"], "cannot read no such file: No such file"),
        (["topic", "alter", "t"], "nothing to do"),
        (["topic", "produce", "t", "-f", "%q"], "%q is not a field"),
        (["topic", "produce", "t", "-H", "x"], "'x' is not NAME:VALUE"),
        (["topic", "consume", "t", "-o", "x"], "is not start, end, N"),
        (["topic", "consume", "t", "-p", "x"], "'x' is no list of partitions such as 0 or 0,2"),
        (["topic", "consume", "t", "--filter", "a = b"], "filter, position 5: expected a string in quotes, found 'b'"),
        (["topic", "list", "-X", "x"], "is not NAME=VALUE"),
        (["topic", "list", "-b", "h:x"], "is not HOST:PORT"),
    ],
)
def test_usage_errors(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert kbroker.__version__ == project["version"]
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"kbroker {kbroker.__version__}\n"
    assert kbroker.__version__ in CliRunner().invoke(cli, ["version"]).stdout
    assert '"version"' in CliRunner().invoke(cli, ["version", "--format", "json"]).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_KBROKER_COMPLETE" in result.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Failed("x"), 1),
        (Misconfigured("x"), 2),
        (click.UsageError("x"), 2),
        (Unreachable("x"), 3),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(7), 7),
    ],
)
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["kbroker"])
    assert run(fails) == code


CLIENTS = {"kafka", "rich", "cryptography", "grpc", "google.protobuf", "httpx", "http", "email"}
BEHIND_DOORS = {
    "kbroker.cli.broker.memory_directory",
    "kbroker.cluster.changes.reassignments",
    "kbroker.config.docs",
    "kbroker.delay.delayer",
    "kbroker.env.real_helper",
    "kbroker.filters",
    "kbroker.groups.consumer.group",
    "kbroker.groups.consumer.member",
    "kbroker.log.cleaner.passes",
    "kbroker.log.content.tagged",
    "kbroker.regex",
    "kbroker.views.view",
}
NOT_FOR_START = CLIENTS | {"asyncio", "tomllib", "difflib", "unittest"}
# The least that is needed, and a few. A room of its own, as those of the cluster are, is some ten more; the doors of
# retention, the cleaner, delays and views are twenty: what is behind them comes when it is needed.
MODULES_MAX = 475


def test_start_imports_only_what_it_needs() -> None:
    script = (
        "import sys, kbroker.cli; light = len(sys.modules)\n"
        "import kbroker.cli.broker.start, kbroker.cli.broker.serve\n"
        "import kbroker.config, kbroker.env.real, kbroker.server.broker\n"
        "start = len(sys.modules); kbroker.server.broker.registry.load()\n"
        "print(light, start, *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'protocol'}"},
    )
    light, start, *modules = done.stdout.split()
    assert int(light) < 150, "importing kbroker.cli must not load more than click"
    assert not NOT_FOR_START & set(modules)
    assert not BEHIND_DOORS & set(modules), "neither by the start, nor by the handlers of requests"
    assert int(start) < MODULES_MAX


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_a_newcomer_understands_the_options(path: tuple[str, ...], command: click.Command) -> None:
    """Each says what it is in a sentence, and names what it takes: not "How many.", not "INTEGER RANGE"."""
    context = click.Context(command, info_name=path[-1])
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        said = (option.help or "").partition("  [")[0]
        assert len(said.split()) >= 3 and said.endswith((".", ")")), f"{option.opts}: {said!r}"
        assert "RANGE" not in option.make_metavar(context), f"{option.opts}: a metavar, please"
