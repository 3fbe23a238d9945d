"""A service as a process of its own: ``python -m tests.threads.service <part>`` on ``$PGBUS_DSN``.

It prints a line for whatever happens, so that a test can follow.
"""

import logging
import os
import signal
import sys
import threading
from typing import Any

from pgbus import Bus, ConfigurationError, Event
from pgbus.threads.crew import Crew
from tests.unhurried import unhurry
from tests.waiting import eventually


class Created(Event, topic="orders.created", key="order"):
    order: str
    n: int = 0


def say(*words: object) -> None:
    print(*words, flush=True)


def stubborn(timeout: float = 60) -> None:
    """Handle events until a signal comes: they wait for it, but for event 1, which hangs."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log: %(message)s")
    bus = Bus(service="stubborn")

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        say("begin", event.n)
        if event.n == 1:
            threading.Event().wait(60)
        else:
            eventually(lambda: bus._subscriptions[0].closed)
        say("end", event.n)

    bus.run(timeout)
    say("drained")


def hasty() -> None:
    """The same, with less patience."""
    stubborn(timeout=0.5)


def forking() -> None:
    """Fork while the bus runs: the child is refused, the parent goes on."""
    bus = Bus(service="forking")

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        say("handled", event.n)

    with bus.running():
        child = os.fork()
        if child == 0:
            in_child(bus)
        os.waitpid(child, 0)
        bus.publish(Created(order="a", n=1))
        assert bus.wait_idle(10)
    say("stopped")


def in_child(bus: Bus) -> None:
    for name, attempt in (
        ("publish", lambda: bus.publish(Created(order="a"))),
        ("start", bus.start),
    ):
        try:
            attempt()
        except ConfigurationError as error:
            say(f"{name} refused:", error)
    bus.close()
    # As a web server's child ends: finalizers run, and must not touch what is the parent's.
    sys.exit(0)


def preloaded() -> None:
    """Make the bus, use it, and only then fork the workers, as gunicorn does with preload."""
    bus = Bus(service="preloaded")

    @bus.subscribe("orders.*", name="billing")
    def on_order(event: Created) -> None:
        say("handled", event.n)

    bus.publish(Created(order="a", n=1))
    children = []
    for n in (2, 3):
        child = os.fork()
        if child == 0:
            bus.publish(Created(order="a", n=n))
            with bus.running():
                assert bus.wait_idle(10)
            bus.close()
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    bus.publish(Created(order="a", n=4))
    say("children ended with", *codes)
    bus.close()


def forked_amid() -> None:
    """Fork while another thread is within each of the locks, and publish in the child."""
    bus = Bus(service="amid")
    bus.publish("orders.created", {"order": "a"})  # whose type is not recorded by that
    locks = (bus._publisher._lock, bus._contracts._lock, bus._pool._lock, bus._lock)
    for n, lock in enumerate(locks):
        held, forked = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold, args=(lock, held, forked))
        holder.start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(15)
            bus.publish(Created(order="a", n=n))
            bus.close()
            os._exit(0)
        say("child", n, "ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        forked.set()
        holder.join()
    bus.close()


def forked_amid_a_start() -> None:
    """Fork while another thread starts a worker, and start a bus of its own in the child."""
    held, forked = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold, args=(Crew._stack_size, held, forked))
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(15)
        bus = Bus(service="amid")
        bus.subscribe("orders.*", name="billing")(lambda event: None)
        with bus.running():
            assert bus.wait_idle(10)
        bus.close()
        os._exit(0)
    say("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    forked.set()
    holder.join()


def hold(lock: Any, held: threading.Event, until: threading.Event) -> None:
    with lock:
        held.set()
        until.wait()


PARTS: dict[str, Any] = {
    one.__name__: one
    for one in (stubborn, hasty, forking, preloaded, forked_amid, forked_amid_a_start)
}

if __name__ == "__main__":
    unhurry()
    PARTS[sys.argv[1]]()
