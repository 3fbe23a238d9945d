"""``demo``: the shop."""

from typing import Annotated

import typer

from pgbus.cli.options import Dsn, Json


def demo(
    events: Annotated[
        int, typer.Option(min=50, max=1_000_000, help="How many events the shop publishes.")
    ] = 3_000,
    seed: Annotated[int, typer.Option(help="Which orders, and which failures.")] = 7,
    dsn: Dsn = None,
    as_json: Json = False,
) -> None:
    """Watch a small shop's events flow, fail, retry and be redriven.

    It publishes typed order events (under demo.orders.*), handles them in three subscriptions,
    repairs a dead letter, and checks at the end that nothing was lost and every key was in order.
    Its subscriptions (demo_*) are dropped at the end. Exit code 1 if the verdict is bad.
    """
    from pgbus.demo import play

    raise typer.Exit(play(dsn, events=events, seed=seed, as_json=as_json))
