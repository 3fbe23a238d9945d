"""Program 6: where does the time of an event go? What limits the figures of the other programs."""

from contextlib import ExitStack

from benchmarks.meter import ELAPSED
from benchmarks.peers import PGBUS
from benchmarks.profile_handle import handle
from benchmarks.profile_publish import BATCH, at_once, one_by_one, together
from benchmarks.report import Report
from benchmarks.run import Run
from benchmarks.tally import THREADS


def profile(run: Run) -> Report:
    """Measure the parts that a publish and a handled event are made of."""
    with ExitStack() as stack:
        ours = stack.enter_context(run.contender(PGBUS, "order"))
        publishing = [
            *one_by_one(run, stack, ours),
            *together(run, stack),
            *at_once(run, stack, ours),
        ]
        series = run.rounds([*publishing, *handle(run, ours)])
    return Report(
        program="profile",
        question="where does the time of an event go?",
        setup=[
            "publish one by one: the median of calls; of the processor's time their mean",
            "raw INSERT, committed: into a queue of pgmq; pgbus's has an index more, and a trigger",
            "publish one by one, by 8 callers: an event of a fifth as many",
            f"publish {BATCH:,} at once: an event of {run.events:,}, each call one transaction",
            f"handle: what waits, in one process with {THREADS} threads, an event",
            "server: the time in its functions, in which they may wait for a core, too",
            "Python and the server's processes run side by side, on the cores there are",
            run.method.replace("events/s", "µs"),
        ],
        figures=[],
        series=series,
        left_out=run.taken_left_out(),
        machine=run.machine,
        baseline=ELAPSED,
    )
