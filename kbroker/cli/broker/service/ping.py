"""`kbroker ping`: does a broker answer, and which?"""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from kbroker.cli.broker.service.asking import Answer, ask
from kbroker.cli.client.servers import addresses, servers_option
from kbroker.cli.errors import Unreachable
from kbroker.cli.tables import format_option, json_text
from kbroker.cli.times import DurationType

TIMEOUT_S, WAIT_S = 3.0, 60.0
RETRY_S = 0.1


@click.command(
    epilog="\b\nStatus 0: a broker answers. 3: none does; or, with --advertised, not all can be reached from here."
)
@servers_option
@click.option("-w", "--wait", is_flag=True, help="Wait until one answers.")
@click.option(
    "--advertised", is_flag=True, help="Try also, as a client would, the addresses that brokers tell clients."
)
@click.option(
    "--timeout", "timeout_ms", type=DurationType(), help="How long to try, such as 500ms.  [default: 3s; with -w 60s]"
)
@format_option
def ping(servers: str, wait: bool, advertised: bool, timeout_ms: int | None, style: str) -> None:
    """Ask whether a broker answers, and which."""
    asked = addresses(servers)
    if not asked:
        raise click.UsageError("-b names no broker")
    seconds = timeout_ms / 1000 if timeout_ms is not None else WAIT_S if wait else TIMEOUT_S
    answer = _first(asked, time.monotonic() + seconds, wait)
    if not advertised:
        click.echo(json_text(answer.fields()) if style == "json" else answer)
        return
    from kbroker.cli.broker.service.reach import check, reach

    told = reach(answer, seconds)
    fields = {**answer.fields(), "advertised": [each._asdict() for each in told]}
    click.echo(json_text(fields) if style == "json" else "\n".join(map(str, (answer, *told))))
    check(told)


def _first(asked: Sequence[tuple[str, int]], until: float, wait: bool) -> Answer:
    """The first that answers. Raises Unreachable with what each said at last."""
    while True:
        problems = []
        for address in asked:
            try:
                return ask(address, until)
            except Unreachable as error:
                problems.append(error.message)
        if not wait or time.monotonic() + RETRY_S >= until:
            raise Unreachable("; ".join(problems))
        time.sleep(RETRY_S)
