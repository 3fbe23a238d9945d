"""The workers of one subscription, and those that take the place of stuck ones."""

import os
import threading
import time

from pgbus.threads.batch import BatchWorker
from pgbus.threads.station import Station
from pgbus.threads.subscription import Subscription
from pgbus.threads.worker import STACK_SIZE, Worker


class Crew:
    """``concurrency`` workers; a worker that the watchdog gave up is replaced."""

    _stack_size = threading.Lock()

    def __init__(self, subscription: Subscription, station: Station) -> None:
        self.subscription = subscription
        self._station = station
        # A signal's handler may call ``stop`` in the thread that holds it.
        self._lock = threading.RLock()
        self._workers: list[Worker] = []
        self._late: list[Worker] = []
        self._count = 0
        # How many given up have nobody in their place: the system may have no more threads.
        self._vacant = 0

    def start(self) -> None:
        """Start the workers."""
        for _ in range(self.subscription.definition.concurrency):
            self._hire()

    def _hire(self) -> None:
        with self._lock:  # until it is one of them: its handler may ask at once whether it is
            self._count += 1
            kind = BatchWorker if self.subscription.definition.handler.is_batch else Worker
            worker = kind(self.subscription, self._station, self._count, self._replace)
            self._start(worker)
            self._workers.append(worker)

    def _start(self, worker: Worker) -> None:
        with self._stack_size:  # the setting is the process's: threads started meanwhile have it
            before = threading.stack_size()
            if 0 < before < STACK_SIZE:
                threading.stack_size(STACK_SIZE)
            try:
                worker.start()
            finally:
                threading.stack_size(before)

    def _replace(self, stuck: Worker) -> None:
        with self._lock:
            if stuck in self._workers:
                self._workers.remove(stuck)
            self._vacant += 1
        self.fill()

    def fill(self) -> None:
        """Start who is missing; the watchdog, in whose thread workers are given up, calls.

        Raises:
            RuntimeError: the system has no more threads.
        """
        while self._vacant and not self.subscription.closed:
            self._hire()
            self._vacant -= 1

    def is_here(self) -> bool:
        """Whether the calling thread is one of the workers."""
        with self._lock:
            return any(worker.is_here() for worker in self._workers)

    def join(self, deadline: float) -> None:
        """Wait for the workers of a closed subscription until ``deadline``, then give them up."""
        with self._lock:
            workers = list(self._workers)
        self._late = [
            worker
            for worker in workers
            if not (worker.join(deadline - time.monotonic()) or worker.abandon())
        ]

    def collect(self, until: float) -> None:
        """Wait for those that were between two calls at the deadline to hand in what is done."""
        for worker in self._late:
            worker.join(until - time.monotonic())

    @classmethod
    def renew(cls) -> None:
        """Make the lock of all crews anew, in the child of a fork."""
        cls._stack_size = threading.Lock()


os.register_at_fork(after_in_child=Crew.renew)
