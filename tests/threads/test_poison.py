"""An event that ends every process that handles it: it is given up, and nobody else is blamed."""

import multiprocessing
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pgbus import BatchContext, Bus, Context, Event, Retry
from tests.waiting import eventually

POISON = 3
EVENTS = 8
DEATHS = 2


class Step(Event, topic="steps", key="key"):
    n: int
    key: str


def serve(dsn: str, log: Path, *, batches: bool) -> None:
    """Handle events until one of them ends this process."""

    def note(word: str, step: Step, context: Context) -> None:
        with log.open("a") as lines:
            lines.write(f"{word} {step.n} {context.attempt}\n")

    def work(step: Step, context: Context) -> None:
        if step.n == POISON:
            note("die", step, context)
            os._exit(9)
        note("done", step, context)

    bus = Bus(dsn, lease=0.5)
    subscribe = bus.subscribe(
        "steps", name="billing", concurrency=1, retry=Retry(max_attempts=DEATHS)
    )
    if batches:

        def handle_batch(steps: list[Step], context: BatchContext) -> None:
            for step, one in zip(steps, context, strict=True):
                work(step, one)

        subscribe(handle_batch)
    else:
        subscribe(work)
    bus.run()


@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches"])
def test_it_is_given_up_after_its_deaths(
    bus: Bus, bus_dsn: str, tmp_path: Path, *, batches: bool
) -> None:
    @bus.subscribe("steps", name="billing")
    def never(step: Step) -> None: ...

    bus.declare()
    # Two keys: the poison has neighbours before and behind it in its own, and others.
    bus.publish_many([Step(n=n, key=f"k{n % 2}") for n in range(EVENTS)])
    log = tmp_path / "log"
    spawn = multiprocessing.get_context("spawn")
    codes: list[int] = []

    def over() -> bool:
        return bool(list(bus.dead_letters("billing"))) and bus.wait_idle(0.01)

    def serve_until_death(process: Any) -> bool:
        if not process.is_alive():
            codes.append(process.exitcode)
            return True
        return over()

    while not over() and codes == [9] * len(codes):
        process = spawn.Process(
            target=serve, args=(bus_dsn, log), kwargs={"batches": batches}, daemon=True
        )
        process.start()
        try:
            eventually(lambda: serve_until_death(process), timeout=30)  # noqa: B023 - waited for
        finally:
            process.kill()
            process.join()
    assert codes == [9] * DEATHS
    [letter] = bus.dead_letters("billing")
    assert (letter.body["n"], letter.attempts) == (POISON, DEATHS)
    done = [line.split() for line in log.read_text().splitlines() if line.startswith("done")]
    assert {int(n) for _, n, _ in done} == {*range(EVENTS)} - {POISON}
    # However often they were in the hands of a process that died, none of the others is blamed.
    assert Counter(attempt for _, _, attempt in done).keys() == {"1"}
