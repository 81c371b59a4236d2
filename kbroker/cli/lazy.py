"""A click group that imports a command when it is called, knows other names for it, and may have a default."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """commands_at: name -> ("module:attribute", one line of help); aliases: other name -> name.

    default: the command meant when there is no command, or when the first argument is an option of that command.
    """

    def __init__(
        self,
        *,
        commands_at: Mapping[str, tuple[str, str]],
        aliases: Mapping[str, str] | None = None,
        default: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(no_args_is_help=default is None, **settings)
        self._commands_at = commands_at
        self._aliases = dict(aliases or {})
        self._default = default

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other name -> name."""
        return self._aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is none of that name."""
        name = self._aliases.get(cmd_name, cmd_name)
        if name not in self._commands_at:
            return None
        module, _, attribute = self._commands_at[name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command first where it is meant."""
        own = {*ctx.help_option_names, *(name for option in self.params for name in option.opts)}
        is_meant = args[0].startswith("-") and args[0] not in own if args else not ctx.resilient_parsing
        if self._default and is_meant:  # a shell that completes nothing yet means none
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Commands, without importing them; options, those of the default command too."""
        from click.shell_completion import CompletionItem

        if not incomplete.startswith("-"):
            rows = self._commands_at.items()
            return [CompletionItem(name, help=text) for name, (_, text) in rows if name.startswith(incomplete)]
        found = list(super().shell_complete(ctx, incomplete))
        default = self.get_command(ctx, self._default) if self._default else None
        if default is not None:
            found += default.shell_complete(ctx, incomplete)
        return list({each.value: each for each in found}.values())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in --help, without importing the commands."""
        others: dict[str, list[str]] = {}
        for alias, name in self._aliases.items():
            others.setdefault(name, []).append(alias)
        rows = [("|".join([name, *others.get(name, [])]), text) for name, (_, text) in self._commands_at.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a hint for a mistyped name."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], [*self._commands_at, *self._aliases], n=1)
            ctx.fail(f"no command {args[0]!r}" + (f", did you mean {close[0]!r}?" if close else ""))
        return super().resolve_command(ctx, args)
