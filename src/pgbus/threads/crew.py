"""The workers of one subscription, and those that take the place of stuck ones."""

import threading
import time

from pgbus.threads.batch import BatchWorker
from pgbus.threads.station import Station
from pgbus.threads.subscription import Subscription
from pgbus.threads.worker import STACK_SIZE, Worker

_stack_size = threading.Lock()


class Crew:
    """``concurrency`` workers; a worker that the watchdog gave up is replaced."""

    def __init__(self, subscription: Subscription, station: Station) -> None:
        self.subscription = subscription
        self._station = station
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
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
            _start(worker)
            self._workers.append(worker)

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
        for worker in workers:
            if not worker.join(deadline - time.monotonic()):
                worker.abandon()


def _start(worker: Worker) -> None:
    with _stack_size:  # the setting is the process's, and holds for threads started meanwhile
        before = threading.stack_size()
        if 0 < before < STACK_SIZE:
            threading.stack_size(STACK_SIZE)
        try:
            worker.start()
        finally:
            threading.stack_size(before)
