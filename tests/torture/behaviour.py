"""What handlers do, as the event in their hands says; and the handlers of a run."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import psycopg

from pgbus import BatchContext, Bus, Context, Incident, Reject, Retry
from tests.torture.history import FOLLOW, follow_up
from tests.torture.records import Begin, End, Fault, Log, Together, Told, now

PLAIN, LEDGER, LATE = "plain", "ledger", "late"
BATCH, BULK = "batch", "bulk"
"""Their handlers take lists; that of the second has a transaction."""
PARK = "park"
"""Its dead letters keep back the later events of their keys."""
WORK, DEED = "work.done", "work.deed"
"""Topics: the first goes to plain handlers, the second to transactional ones as well."""
FOLLOWED = "follow.up"
TIMEOUT = 1.5
"""Seconds that one call may take."""
ATTEMPTS = 4

HARMLESS = {"ok": 0.932, "slow": 0.02, "follow": 0.035, "fail": 0.009, "reject": 0.004}
"""How likely events are to make their handlers do what; what does harm, the schedule plans."""

_holding_the_gil = ctypes.PyDLL(None)  # unlike CDLL, it keeps the lock during the call


class Bad(Exception):
    """What handlers raise where the event asks for it."""


class Staff:
    """The handlers of one process, and the log they write.

    Parameters:
        mended: a folder with a file for each event whose fault is mended, see ``operators``.

    Attributes:
        began: whether any handler was called; its threads write it, and who runs the bus reads it.
    """

    def __init__(self, log: Log, lease: float, mended: Path) -> None:
        self._log = log
        self._lease = lease
        self._mended = mended
        self.began = False

    def hire(self, bus: Bus, *, late: bool) -> None:
        """Subscribe everything; ``late`` is the subscription that is declared in mid-run."""
        retry = Retry(max_attempts=ATTEMPTS, initial=0.05, maximum=0.5)
        usual: dict[str, Any] = {"retry": retry, "timeout": TIMEOUT}
        bus.subscribe("work.*", name=PLAIN, concurrency=6, **usual)(self.plain)
        bus.subscribe(DEED, name=LEDGER, concurrency=3, **usual)(self.ledger)
        bus.subscribe("follow.#", name=FOLLOW, concurrency=2, retry=retry)(self.ledger)
        bus.subscribe(WORK, name=BATCH, concurrency=2, batch=100, **usual)(self.batch)
        bus.subscribe(DEED, name=BULK, concurrency=2, batch=100, **usual)(self.bulk)
        bus.subscribe(DEED, name=PARK, concurrency=2, on_exhausted="park", **usual)(self.plain)
        if late:
            bus.subscribe(DEED, name=LATE, concurrency=2, retry=retry)(self.plain)
        bus.on_error(self.note)

    def note(self, incident: Incident) -> None:
        self._log.write(Told(incident.kind, incident.context.subscription, os.getpid(), now()))

    def plain(self, event: Any, context: Context) -> None:
        self._work(event, context)
        self._end(event, context)

    def ledger(self, event: Any, context: Context, connection: psycopg.Connection[Any]) -> None:
        """Leave an effect in the handler's own transaction."""
        began = now()
        self._work(event, context)
        self._leave_effect(event, context, connection, began)
        self._end(event, context)

    def batch(self, events: list[Any], context: BatchContext) -> None:
        for index in list(self._each(events, context)):
            self._end(events[index], context[index])

    def bulk(
        self, events: list[Any], context: BatchContext, connection: psycopg.Connection[Any]
    ) -> None:
        began = now()
        for index in list(self._each(events, context)):
            self._leave_effect(events[index], context[index], connection, began)
            self._end(events[index], context[index])

    def _each(self, events: list[Any], context: BatchContext) -> Iterator[int]:
        """Work on each event of a batch; yield the places of those that are done.

        Every other bad one is blamed by its place, the others by an exception, which fails all.
        """
        if not context:
            return
        self._log.write(Together(context[0].subscription, os.getpid(), now(), len(events)))
        again: set[str] = set()
        for index, event in enumerate(events):
            if context[index].key in again:
                continue  # it comes again, behind the one that is retried
            try:
                self._work(event, context[index])
            except (Bad, Reject) as fault:
                if _odd(event["uid"]):
                    raise
                if isinstance(fault, Reject):
                    context.reject(index, "as the event asked")
                else:
                    context.retry(index)
                    again.update(filter(None, [context[index].key]))
            else:
                yield index

    def _leave_effect(
        self, event: Any, context: Context, connection: psycopg.Connection[Any], began: int
    ) -> None:
        connection.execute(
            "insert into torture.effect (subscription, uid, key, pid, began, ended) "
            "values (%s, %s, %s, %s, %s, %s)",
            (context.subscription, event["uid"], context.key, os.getpid(), began, now()),
        )

    def _work(self, event: Any, context: Context) -> None:
        self.began = True
        self._log.write(
            Begin(
                context.subscription,
                event["uid"],
                context.key,
                context.attempt,
                os.getpid(),
                now(),
            )
        )
        act = _ACTS.get(event["how"])
        if act is not None:
            act(self, event, context)

    def _end(self, event: Any, context: Context) -> None:
        self._log.write(End(context.subscription, event["uid"], os.getpid(), now()))

    def _own(self, kind: str, seconds: float = 0.0) -> None:
        """Note a fault that the handler is about to inject into its own process."""
        at = now()
        self._log.write(Fault(kind, at, at + int(seconds * 1e9), [os.getpid()]))

    def _is_mended(self, event: Any) -> bool:
        return self._mended.joinpath(str(event["uid"])).exists()

    # What an event asks for.

    def _slow(self, event: Any, context: Context) -> None:
        time.sleep(0.02 + 0.03 * (len(event["uid"]) % 5))

    def _follow(self, event: Any, context: Context) -> None:
        uid = follow_up(event["uid"], context.subscription)
        context.publish(FOLLOWED, {"uid": uid, "how": "ok"}, key=context.key)

    def _fail(self, event: Any, context: Context) -> None:
        if context.attempt < 3:
            self._own("fail")
            raise Bad("as the event asked")

    def _reject(self, event: Any, context: Context) -> None:
        if self._is_mended(event):
            return
        self._own("reject")
        raise Reject("as the event asked")

    def _hang(self, event: Any, context: Context) -> None:
        if context.attempt < 3 and context.subscription in (PLAIN, LEDGER, BATCH):
            self._own("hang")
            threading.Event().wait(TIMEOUT + 1.0)
            raise RuntimeError("it came back after its timeout")

    def _gil(self, event: Any, context: Context) -> None:
        if context.attempt == 1 and context.subscription == PLAIN:
            seconds = self._lease + 0.7
            self._own("gil", seconds)
            _holding_the_gil.usleep(int(seconds * 1e6))

    def _exit(self, event: Any, context: Context) -> None:
        if context.attempt < 3 and context.subscription in (PLAIN, BATCH):
            self._own("exit")
            os._exit(3)

    def _poison(self, event: Any, context: Context) -> None:
        if context.subscription in (PLAIN, BATCH) and not self._is_mended(event):
            self._own("exit")
            os._exit(4)


_ACTS: dict[str, Callable[[Staff, Any, Context], None]] = {
    "slow": Staff._slow,
    "follow": Staff._follow,
    "fail": Staff._fail,
    "reject": Staff._reject,
    "hang": Staff._hang,
    "gil": Staff._gil,
    "exit": Staff._exit,
    "poison": Staff._poison,
}


def _odd(uid: str) -> bool:
    """One event in two, whoever asks."""
    return bool(crc32(uid.encode()) % 2)
