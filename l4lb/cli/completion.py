"""``l4lb completion SHELL``."""

from __future__ import annotations

import click

from l4lb.cli.shared.shells import SHELLS, script


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete the commands, options and pools of l4lb.

    \b
    bash:  eval "$(l4lb completion bash)"         in ~/.bashrc
    zsh:   eval "$(l4lb completion zsh)"          in ~/.zshrc, after compinit
    fish:  l4lb completion fish > ~/.config/fish/completions/l4lb.fish
    """
    click.echo(script(shell, ctx.find_root().command))
