"""Events in a version that a handler has no type for: what can be made of them.

In this order: the publisher sent an older form along (a downcast); the registry says that a type
of the handler reads that version without loss; else it is left to a worker that knows it.
"""

import logging
import time
from collections.abc import Callable

from pgbus.core.bodies import UnknownType
from pgbus.core.changes import compare
from pgbus.core.decoding import decode, read_downcasts
from pgbus.core.handler import Handler
from pgbus.core.recorded import Recorded
from pgbus.core.schema import EventSchema, describe
from pgbus.store import schemas
from pgbus.store.query import Operation

logger = logging.getLogger(__name__)

_Schemas = dict[int, EventSchema]
"""Of a topic, by version."""
REMEMBER = 2.0
"""Seconds for which an answer of the registry is remembered."""


class Versions:
    """See the module.

    Parameters:
        ask: asks the registry, or ``None`` where that is not to be asked.
    """

    def __init__(
        self, ask: Callable[[Callable[[], Operation[list[Recorded]]]], list[Recorded]] | None
    ) -> None:
        self._ask = ask
        # Any worker's thread writes these; what two write at once is the same.
        self._recorded: dict[str, tuple[float, _Schemas]] = {}
        self._fitting: dict[tuple[int, str, int], tuple[_Schemas, int | None, str]] = {}

    def decode(
        self, handler: Handler, unknown: UnknownType, body: str | None, headers: str | None
    ) -> object:
        """Return the event of a message whose version the handler has no type for.

        Parameters:
            unknown: what the handler said of it.

        Raises:
            UnknownType: nothing can be made of it, with the reason.
            PayloadError: the body does not fit after all.
            psycopg.Error, PgbusError: the database could not be asked.
        """
        topic, version = unknown.topic, unknown.version
        known = handler.versions(topic)
        if version is None or not known:
            raise unknown
        downcasts = read_downcasts(headers)
        for one in reversed(known):
            if one in downcasts:
                return decode(handler.decoders[topic, one], downcasts[one])
        fitting = self._find(handler, topic, version)
        handler.adopt(topic, version, fitting)
        logger.info("%s version %d is read as version %d, which it fits", topic, version, fitting)
        return decode(handler.decoders[topic, fitting], body)

    def _find(self, handler: Handler, topic: str, version: int) -> int:
        """Return the version of the handler's type that reads a version.

        Raises:
            UnknownType: there is none.
        """
        recorded = self._ask_for(topic, version)
        # Of the very answer, because many events of a version may wait for another worker.
        before, fitting, why = self._fitting.get((id(handler), topic, version), (None, None, ""))
        if before is not recorded:
            fitting, why = _choose(handler, recorded, topic, version)
            self._fitting[id(handler), topic, version] = recorded, fitting, why
        if fitting is None:
            raise UnknownType(topic, version, why)
        return fitting

    def _ask_for(self, topic: str, version: int) -> _Schemas:
        """Return a topic's recorded versions.

        A version that is not among those remembered may have been recorded since: types are
        recorded before the first event of them is published.
        """
        if self._ask is None:
            return {}
        asked_at, known = self._recorded.get(topic, (float("-inf"), {}))
        if version not in known or time.monotonic() - asked_at > REMEMBER:
            found = self._ask(lambda: schemas.event_types(topic))
            known = {one.schema.version: one.schema for one in found}
            self._recorded[topic] = (time.monotonic(), known)
        return known


def _choose(
    handler: Handler, recorded: _Schemas, topic: str, version: int
) -> tuple[int | None, str]:
    """Return the version of the handler's type that reads a version, or why there is none."""
    if version not in recorded:
        return None, "the registry does not know that version"
    faults = []
    # The nearest older type first, then the nearest newer one.
    for one in sorted(handler.versions(topic), key=lambda n: (n > version, abs(n - version))):
        own = describe(handler.decoders[topic, one].type)
        if one < version:
            found = compare(own.document, recorded[version].document)
            hurt = [change for change in found.changes if not change.forward]
        else:
            found = compare(recorded[version].document, own.document)
            hurt = [change for change in found.changes if not change.backward]
        if not hurt:
            return one, ""
        faults.append(f"it does not fit version {one} ({hurt[0]})")
    return None, "; ".join(faults)
