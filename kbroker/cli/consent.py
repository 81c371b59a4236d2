"""Asking before records are lost: the question, and -y, which answers it."""

from __future__ import annotations

import sys

import click

from kbroker.cli.errors import Failed

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def ask(question: str) -> None:
    """Go on if the answer is yes. Raises Failed for a no, and where there is nobody to ask: nothing was done then."""
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort:
        click.echo(err=True)  # ends the line of the question
        if sys.stdin.isatty():
            raise
        raise Failed("nobody is there to answer; nothing was done. If you mean it: --yes") from None
    raise Failed("nothing was done")
