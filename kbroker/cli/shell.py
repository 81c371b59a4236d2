"""`kbroker completion` and `kbroker version`."""

from __future__ import annotations

import click

from kbroker.cli.tables import format_option, json_text

_HOW_TO = {
    "bash": 'eval "$(kbroker completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(kbroker completion zsh)"     # in ~/.zshrc',
    "fish": "kbroker completion fish > ~/.config/fish/completions/kbroker.fish",
}
_BASH_ADDS = "            COMPREPLY+=($value)\n"
_NO_BLANK = "            [[ $value == *= ]] && compopt -o nospace\n"  # a value follows


@click.command(epilog="\b\n" + "\n".join(_HOW_TO.values()))
@click.argument("shell", type=click.Choice(list(_HOW_TO)))
def completion(shell: str) -> None:
    """Print a completion script for your shell."""
    from click.shell_completion import get_completion_class

    from kbroker.cli import cli

    made = get_completion_class(shell)
    assert made is not None
    # Not `.source()` as a whole: click's bash class first runs bash to look at its version.
    script = made(cli, {}, "kbroker", "_KBROKER_COMPLETE")
    click.echo(script.source_template.replace(_BASH_ADDS, _BASH_ADDS + _NO_BLANK) % script.source_vars())


@click.command()
@format_option
def version(style: str) -> None:
    """Print the version."""
    import platform

    from kbroker import __version__

    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if style == "json":
        click.echo(json_text({"version": __version__, "python": python, "system": system}))
    else:
        click.echo(f"kbroker {__version__} (Python {python}, {system})")
