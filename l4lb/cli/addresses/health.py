"""``l4lb health``: the readiness of a running instance as an exit code, for keepalived and other programs that check.

It is started each second, so it imports as little as it can: a test holds it to that.
"""

from __future__ import annotations

import click

from l4lb.cli.addresses.asking import Unanswered
from l4lb.cli.addresses.options import instance_of, instance_options
from l4lb.cli.shared.connection import duration_option


@click.command()
@instance_options
@duration_option("--timeout", "An instance that has not answered by then is not healthy.", default="1s")
def health(
    admin: str | None, listeners: tuple[str, ...], pools: tuple[str, ...], min_backends: int, timeout: float
) -> int:
    """Exit with 0 when the instance is ready for clients.

    Else, and when it does not answer, exit with 1 and the reasons on stderr, one on each line. An instance is ready
    when it does not drain, its listeners accept and their pools have enough usable backends.
    """
    if not timeout:
        raise click.BadParameter("expected a duration above 0", param_hint="--timeout")
    instance = instance_of(admin, listeners, pools, min_backends)
    try:
        answer = instance.ask(timeout)
    except Unanswered as error:
        click.echo(f"l4lb: no answer from the instance: {error}", err=True)
        return 1
    finally:
        instance.close()
    for reason in answer.reasons:
        click.echo(f"l4lb: {reason}", err=True)
    return 0 if answer.ready else 1
