"""Deploys the second release amid traffic: the publisher first, or the subscriber.

::

    python -m examples.shared_events.rollout publisher-first
    python -m examples.shared_events.rollout subscriber-first

It ends with what was ordered and billed by which releases, and with status 1 where the two differ
or an event became a dead letter. It uses ``$PGBUS_DSN``, or else the embedded PostgreSQL.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psycopg

from pgbus import Bus

TABLES = """
drop schema if exists shop cascade;
create schema shop;
create table shop.orders (
    order_id text primary key, total numeric not null, currency text not null,
    cancelled boolean not null, release int not null
);
create table shop.bills (like shop.orders including all);
"""
BILLED_BY = """
select o.release, b.release, count(*)
from shop.orders o join shop.bills b using (order_id) group by 1, 2 order by 1, 2
"""
DIFFER = """
select count(*) from shop.orders o full join shop.bills b using (order_id)
where (o.total, o.currency, o.cancelled) is distinct from (b.total, b.currency, b.cancelled)
"""
PROCESSES = {"ordering": 1, "billing": 2}
STAGE = 60
"""Orders that have to be billed before the next service is deployed."""
PATIENCE = 60.0

Process = subprocess.Popen[bytes]


class Rollout:
    """The processes of both services, and what they have done so far."""

    def __init__(self, bus: Bus, connection: psycopg.Connection) -> None:
        self._bus = bus
        self._connection = connection
        self._running: dict[str, list[Process]] = {"ordering": [], "billing": []}

    def deploy(self, service: str, release: int) -> None:
        """Start the processes of a release, and then stop those of the one before."""
        old = self._running[service]
        environment = {**os.environ, "PGBUS_DSN": self._bus.dsn}
        command = [sys.executable, "-m", f"examples.shared_events.release_{release}.{service}"]
        new = [
            subprocess.Popen(command, env=environment)  # noqa: S603 - nothing of it comes from outside
            for _ in range(PROCESSES[service])
        ]
        self._running[service] = old + new
        if service == "billing":
            self._wait("new subscribers", lambda: self._workers() == len(old + new))
        for process in old:
            self.stop(service, process)

    def stop(self, service: str, process: Process) -> None:
        """End a process: it finishes what it has begun."""
        process.send_signal(signal.SIGTERM)
        if process.wait(PATIENCE) != 0:
            raise RuntimeError(f"{service} ended with {process.returncode}")
        self._running[service].remove(process)

    def traffic(self) -> None:
        """Let so many orders pass that were placed from now on."""
        placed = self._count("select count(*) from shop.orders") + STAGE
        self._wait("orders", lambda: self._count("select count(*) from shop.bills") >= placed)

    def finish(self) -> None:
        """Stop ordering, let billing handle what is left, and stop that, too."""
        for service in ("ordering", "billing"):
            if service == "billing":
                self._wait("bills", lambda: self._count(DIFFER) == 0)
            for process in list(self._running[service]):
                self.stop(service, process)

    def kill(self) -> None:
        """End whatever runs still, because something went wrong."""
        for process in self._running["ordering"] + self._running["billing"]:
            process.kill()
            process.wait()

    def report(self) -> int:
        """Say what was done; returns the exit status."""
        for placed_by, billed_by, count in self._connection.execute(BILLED_BY):
            print(f"placed by ordering {placed_by}.0, billed by billing {billed_by}.0: {count}")
        differ = self._count(DIFFER)
        letters = len(list(self._bus.dead_letters("billing")))
        print(f"{differ} orders differ from their bills, {letters} dead letters")
        return 1 if differ or letters else 0

    def _workers(self) -> int:
        return sum(status.workers for status in self._bus.status("billing"))

    def _count(self, query: str) -> int:
        row = self._connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {PATIENCE:g} s for {what}")
            time.sleep(0.02)


@contextmanager
def rollout() -> Generator[Rollout]:
    """Prepare the database, and see to it that no process outlives the block."""
    with Bus(service="rollout") as bus:
        bus.install()
        for left_behind in bus.status("billing"):
            bus.drop_subscription(left_behind.name, force=True)
        with psycopg.connect(bus.dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            made = Rollout(bus, connection)
            try:
                yield made
            finally:
                made.kill()


def main(order: str) -> int:
    """Deploy release 1, then release 2 in the order that is asked for; returns the status."""
    services = ["ordering", "billing"] if order == "publisher-first" else ["billing", "ordering"]
    with rollout() as made:
        made.deploy("billing", 1)
        made.deploy("ordering", 1)
        made.traffic()
        for service in services:
            made.deploy(service, 2)
            made.traffic()
        made.finish()
        return made.report()


if __name__ == "__main__":
    if sys.argv[1:] not in (["publisher-first"], ["subscriber-first"]):
        sys.exit("say publisher-first or subscriber-first")
    sys.exit(main(sys.argv[1]))
