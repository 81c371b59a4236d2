"""The command line: `kbroker` starts a broker; `kbroker topic ...` is an ordinary client; the rest works on files.

    broker/      `start`: flags to a BrokerConfig; the process: env, signals, banner, log lines; `config docs|check`;
                 broker/service/: `stop`, `status`, `ping`, and how a broker hangs together with what started it
    topics/      `topic ...`, produce and consume among them
    groups/, transactions/, delays/, features/, cluster/    `group ...`, `transaction ...` and so on
    log_files/   `log ...`: segment files                     coordination/    `coord ...`: coordination stores
    client/      speaking with brokers, as a client           errors.py   how a command fails; exit codes
    lazy.py      commands imported when they are called       names.py    names that a shell completes
    tables.py    aligned text and JSON                        times.py    moments and durations
    consent.py   the question before records are lost         progress.py how far a long command is
    shell.py     `completion`, `version`                      numbers.py  whole numbers and their bounds
    json_records.py  the parts of a record in JSON

Exit codes: 0 done, 1 failed, 2 used or configured wrongly (also: port or data directory taken), 3 no broker reached,
130 interrupted. A broker stopped by CTRL+C or SIGTERM has done what it was told: 0.

Importing this package loads click and nothing else; the command that starts a broker must not pay for the others.
"""

from __future__ import annotations

import sys

import click

from kbroker.cli.errors import prepare_streams, run
from kbroker.cli.lazy import LazyGroup

_HELP = """A Kafka-compatible broker. Without a command, starts one (see `kbroker start --help`).

\b
  kbroker                                start a broker on 127.0.0.1:9092
  echo hi | kbroker topic produce demo   write a record
  kbroker topic consume demo -n 1        read it back
"""

cli = LazyGroup(
    name="kbroker",
    help=_HELP,
    commands_at={
        "start": ("kbroker.cli.broker.start:start", "Start a broker."),
        "stop": (
            "kbroker.cli.broker.service.control:stop",
            "Stop the broker of a data directory.",
        ),
        "status": ("kbroker.cli.broker.service.control:status", "Tell whether a broker runs on a data directory."),
        "ping": ("kbroker.cli.broker.service.ping:ping", "Ask whether a broker answers."),
        "topic": (
            "kbroker.cli.topics.topic:topic",
            "Create, list, describe, alter, trim, export, import and delete topics; produce and consume.",
        ),
        "group": (
            "kbroker.cli.groups.group:group",
            "List and describe consumer groups, move their offsets, delete them.",
        ),
        "transaction": (
            "kbroker.cli.transactions.transaction:transaction",
            "List and describe transactions, find and abort those that hang.",
        ),
        "delay": (
            "kbroker.cli.delays.delay:delay",
            "List what is to be delivered later, cancel it, deliver it now.",
        ),
        "cluster": (
            "kbroker.cli.cluster.cluster:cluster",
            "Look at a cluster of brokers, move its partitions and leaders.",
        ),
        "coord": (
            "kbroker.cli.coordination.coord:coord",
            "Look at a coordination store, and move it to another one.",
        ),
        "feature": ("kbroker.cli.features.feature:feature", "Show and change the feature levels of a cluster."),
        "log": ("kbroker.cli.log_files.log:log", "Look into a broker's log files, without a broker."),
        "config": (
            "kbroker.cli.broker.settings:config",
            "Explain, check, show and change the configuration of brokers.",
        ),
        "completion": ("kbroker.cli.shell:completion", "Print a completion script for your shell."),
        "version": ("kbroker.cli.shell:version", "Print the version."),
    },
    default="start",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
cli.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="Print the version and exit.",
        callback=lambda context, _option, wanted: _print_version(context) if wanted else None,
    )
)


def main() -> None:
    """The console script."""
    prepare_streams()
    sys.exit(run(cli))


def _print_version(context: click.Context) -> None:
    from kbroker import __version__

    click.echo(f"kbroker {__version__}")
    context.exit()
