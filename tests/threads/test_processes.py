"""Signals and forks, as a service's process meets them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pgbus import Bus, Event
from pgbus.threads import signals

ROOT = Path(__file__).parents[2]
Start = Callable[[str], subprocess.Popen[str]]


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


@pytest.fixture
def start(bus: Bus, bus_dsn: str) -> Iterator[Start]:
    """Start a part of tests.threads.service, whose queue is declared."""
    started: list[subprocess.Popen[str]] = []

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None: ...

    bus.declare()

    def start(part: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.threads.service", part],
            cwd=ROOT,
            env={**os.environ, "PGBUS_DSN": bus_dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], *, log: str = "") -> str:
    """Return the next line that is none of the log's, or that of the log that begins so."""
    assert process.stdout is not None
    for one in process.stdout:
        if one.startswith(f"log: {log}") if log else not one.startswith("log: "):
            return one.strip()
    return ""


STOPPED = """
import os, signal
from pgbus import Bus
from pgbus.store import topology
from pgbus.threads import pooling

pooling.IDLE = 1.0
bind = topology.bind

def stop(*arguments, **options):
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    yield from bind(*arguments, **options)

with Bus() as bus:
    bus.subscribe("orders.*", name="billing")(lambda event: None)
    bus.declare()
    topology.bind = stop
    bus.start()
"""


def test_a_process_that_is_stopped_as_it_registers_keeps_nobody_waiting(
    bus: Bus, bus_dsn: str
) -> None:
    """It has locked its subscriptions, and the transaction is not over."""
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        env={**os.environ, "PGBUS_DSN": bus_dsn},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert line(process) == "stops"
        bus.subscribe("orders.*", name="billing")(lambda event: None)
        with bus.running():
            bus.publish(Created(order="a"))
            assert bus.wait_idle(10)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start: Start, bus: Bus, number: signal.Signals) -> None:
    process = start("stubborn")
    bus.publish_many([Created(order="a", n=n) for n in (0, 2, 3)])
    assert line(process) == "begin 0"
    process.send_signal(number)
    assert [line(process), line(process)] == ["end 0", "drained"]
    assert process.wait(10) == 0
    [status] = bus.status()
    assert (status.ready, status.in_flight, status.workers) == (2, 0, 0)


def test_a_handler_that_hangs_keeps_no_process_beyond_its_grace(start: Start, bus: Bus) -> None:
    process = start("hasty")
    bus.publish(Created(order="a", n=1))
    assert line(process) == "begin 1"
    process.terminate()
    assert line(process) == "drained"
    assert process.wait(10) == 0
    [status] = bus.status()
    assert (status.ready, status.in_flight, status.workers) == (1, 0, 0)


ECHOED = """
import signal
from pgbus.threads import signals

signals.ECHO = 2.0  # however slow the machine is
with signals.asked_to_stop() as request:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    request.wait()
    print("one wish", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("ignored")
"""


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    """As from GNU timeout, which signals its child and then its child's group."""
    done = subprocess.run([sys.executable, "-c", ECHOED], stdout=subprocess.PIPE, check=False)
    assert done.stdout == b"one wish\n"
    assert done.returncode == 128 + signal.SIGTERM


def test_a_signal_that_comes_as_its_thread_falls_asleep_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python heard it and the system call that it was to break off began afterwards: one in 50."""
    monkeypatch.setattr(signals, "GLANCE", 0.01)
    latch = signals.Latch()
    before = signal.signal(signal.SIGALRM, lambda *_: latch.set())
    try:
        for microseconds in range(500):
            latch = signals.Latch()
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + microseconds % 60), 30)
            latch.wait()
            assert time.monotonic() - began < 29, "only the second signal was heard"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


AT_EVERY_STEP = """
import signal, sys
from itertools import count
from threading import Thread
from pgbus.threads.signals import Latch, asked_to_stop, ended_by_signals

def trace(frame, event, argument):
    global left
    frame.f_trace_opcodes = True
    left -= 1
    if left == 0:
        signal.raise_signal(signal.SIGTERM)
    return trace

for steps in count(1):
    left = steps
    latch = Latch()
    with {signals} as request:
        latch = getattr(request, "_asked", latch)
        sys.settrace(trace)
        latch.wait(0.01)
        sys.settrace(None)
        assert latch.is_set() == (left <= 0)
        other = Thread(target=latch.set)
        other.start()
        other.join()
    if left > 0:
        break
print(steps)
"""


@pytest.mark.parametrize("signals", ["asked_to_stop()", "ended_by_signals(latch)"])
def test_a_signal_may_come_at_every_step_of_the_wait_for_it(signals: str) -> None:
    """Its handler runs in the thread that waits, which must hold no lock that it takes, or keep one
    that another thread needs."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EVERY_STEP.format(signals=signals)],
        stdout=subprocess.PIPE,
        timeout=30,
        check=True,
    )
    assert int(done.stdout) > 10


def test_a_second_signal_ends_at_once_and_the_event_comes_again(start: Start, bus: Bus) -> None:
    process = start("stubborn")
    bus.publish(Created(order="a", n=1))
    assert line(process) == "begin 1"
    process.terminate()
    assert line(process, log="stopping")
    # One that comes just as the thread falls asleep is only heard with the next.
    for _ in range(100):
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            break
    assert process.returncode == 128 + signal.SIGTERM
    [status] = bus.status()
    assert status.ready + status.in_flight == 1


def test_a_child_of_a_running_bus_is_refused_and_the_parent_goes_on(start: Start) -> None:
    output, errors = start("forking").communicate(timeout=30)
    lines = output.splitlines()
    assert [one.split(":")[0] for one in lines] == [
        "publish refused",
        "start refused",
        "handled 1",
        "stopped",
    ], errors
    assert "before a fork" in lines[0]


def test_a_bus_that_was_used_before_a_fork_works_in_the_children(start: Start, bus: Bus) -> None:
    output, errors = start("preloaded").communicate(timeout=60)
    assert "children ended with 0 0" in output, errors
    assert {"handled 1", "handled 2", "handled 3"} <= set(output.splitlines())
    [status] = bus.status()
    assert (status.ready, status.in_flight, status.workers) == (1, 0, 0)


def test_what_other_threads_did_at_a_fork_does_not_stop_the_child(start: Start, bus: Bus) -> None:
    output, errors = start("forked_amid").communicate(timeout=120)
    assert output.splitlines() == [f"child {n} ended with 0" for n in range(4)], errors
    [status] = bus.status()
    assert status.ready == 5


def test_a_worker_that_another_thread_starts_at_a_fork_does_not_stop_the_child(
    start: Start, bus: Bus
) -> None:
    output, errors = start("forked_amid_a_start").communicate(timeout=60)
    assert output.splitlines() == ["child ended with 0"], errors
