"""Groups of commands: alone they print their help, list whole summaries, and suggest what a mistyped command may have
meant."""

from __future__ import annotations

from typing import Any

import click

_SUMMARY_MAX = 1000  # none is cut
NO_COMMAND = 2  # the exit code, as of other wrong usage


class Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(NO_COMMAND)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from l4lb.model.hints import did_you_mean  # imports difflib

        hint = did_you_mean(name, known) or f" (known: {', '.join(known)})"
        raise click.UsageError(f'no command "{name}"{hint}', ctx)

    def summaries(self, ctx: click.Context) -> list[tuple[str, str]]:
        """What the list of commands says of each."""
        found: Any = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        return [(name, one.get_short_help_str(_SUMMARY_MAX)) for name, one in found]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))
