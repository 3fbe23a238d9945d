"""Whether code may be deployed: its event types against the registry and those who run now."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from pgbus.core.changes import Change, Verdict, compare
from pgbus.core.evolution import upcast_versions
from pgbus.core.patterns import matches
from pgbus.core.recorded import Acceptor, Recorded
from pgbus.core.schema import EventSchema, describe
from pgbus.model.event import Event


@dataclass(frozen=True, slots=True)
class Subject:
    """An event type of the code."""

    schema: EventSchema
    upcasts: frozenset[int]
    """The versions whose bodies become the type's."""
    downcasts: frozenset[int]
    """The versions that are sent along with it."""


@dataclass(frozen=True, slots=True)
class Broken:
    """Live workers of one release that could not take the type."""

    subscription: str
    service: str
    service_version: str
    hosts: int
    seen: timedelta
    """How long ago the last of them was heard of."""
    why: str


@dataclass(slots=True)
class Finding:
    """What is to be said of one event type."""

    topic: str
    version: int
    state: Literal["unchanged", "first", "new", "changed"]
    """``first`` of its topic; a ``new`` version; ``changed`` under the same version."""
    against: int | None = None
    """The version that ``changes`` compares it with."""
    changes: tuple[Change, ...] = ()
    faults: list[str] = field(default_factory=list)
    breaks: list[Broken] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing keeps the type from being deployed."""
        return not self.faults and not self.breaks


def subject(kind: type[Event]) -> Subject:
    """Return an event type with what its casts lead to.

    Raises:
        ConfigurationError: its schema cannot be told, or upcasts lead nowhere.
    """
    downcasts = set()
    version = kind.__event_version__ - 1
    while version in kind.__event_downcasts__:
        downcasts.add(version)
        version -= 1
    return Subject(describe(kind), frozenset(upcast_versions(kind)), frozenset(downcasts))


def review(
    subjects: Sequence[Subject], recorded: Iterable[Recorded], acceptors: Sequence[Acceptor]
) -> list[Finding]:
    """Compare the code's types with what is recorded, and with what live subscriptions take.

    Parameters:
        subjects: the event types of the code.
        recorded: what the registry knows.
        acceptors: the live workers.
    """
    known: dict[str, dict[int, EventSchema]] = defaultdict(dict)
    for one in recorded:
        known[one.schema.topic][one.schema.version] = one.schema
    own: dict[str, set[int]] = defaultdict(set)
    for each in subjects:
        own[each.schema.topic].add(each.schema.version)
    return [
        _look_at(one, known[one.schema.topic], own[one.schema.topic], acceptors)
        for one in sorted(subjects, key=lambda one: (one.schema.topic, one.schema.version))
    ]


def _look_at(
    one: Subject,
    known: dict[int, EventSchema],
    own: Collection[int],
    acceptors: Sequence[Acceptor],
) -> Finding:
    schema = one.schema
    topic, version = schema.topic, schema.version
    same = known.get(version)
    if same is not None and same.fingerprint == schema.fingerprint:
        return Finding(topic, version, "unchanged")
    if same is not None:
        found = Finding(topic, version, "changed", version, _compare(same, schema).changes)
        found.faults.append(
            f"it changed under the same version: give it version={max(known) + 1}, or it is refused"
        )
    elif known:
        nearest = min(known, key=lambda other: (other > version, abs(other - version)))
        found = Finding(topic, version, "new", nearest, _compare(known[nearest], schema).changes)
        found.faults += _unreadable(one, known, own)
    else:
        found = Finding(topic, version, "first")
    found.breaks += _broken(one, acceptors)
    return found


def _compare(one: EventSchema, other: EventSchema) -> Verdict:
    older, newer = sorted((one, other), key=lambda schema: schema.version)
    if one.version == other.version:
        older, newer = one, other
    return compare(older.document, newer.document)


def _unreadable(one: Subject, known: dict[int, EventSchema], own: Collection[int]) -> Iterable[str]:
    """Say which recorded older versions the type does not read."""
    for version, schema in known.items():
        if version > one.schema.version or version in one.upcasts or version in own:
            continue
        hurt = [change for change in _compare(schema, one.schema).changes if not change.backward]
        if hurt:
            yield (
                f"it does not read version {version} ({hurt[0]}): add @upcast(…, "
                f"from_version={version})"
            )


def _broken(one: Subject, acceptors: Sequence[Acceptor]) -> list[Broken]:
    groups: dict[tuple[str, str, str, str], list[Acceptor]] = defaultdict(list)
    for worker in acceptors:
        if not any(matches(pattern, one.schema.topic) for pattern in worker.patterns):
            continue
        why = _obstacle(one, worker)
        if why is not None:
            groups[worker.subscription, worker.service, worker.service_version, why].append(worker)
    return [
        Broken(
            subscription,
            service,
            version,
            len({worker.host for worker in workers}),
            min(worker.seen for worker in workers),
            why,
        )
        for (subscription, service, version, why), workers in sorted(groups.items())
    ]


def _obstacle(one: Subject, worker: Acceptor) -> str | None:
    """Return why a live worker could not take the type; ``None`` where it could."""
    topic, version = one.schema.topic, one.schema.version
    takes = {each.version: each.document for each in worker.accepted if each.topic == topic}
    if version in takes:
        return _hurt(compare(takes[version], one.schema.document), version, forward=True)
    if worker.any_type or f"{topic}@{version}" in worker.types or takes.keys() & one.downcasts:
        return None
    if not takes:
        return f"it has no type for {topic}"
    obstacles = []
    for other, document in takes.items():
        if other < version:
            why = _hurt(compare(document, one.schema.document), other, forward=True)
        else:
            why = _hurt(compare(one.schema.document, document), other, forward=False)
        if why is None:
            return None
        obstacles.append(why)
    return obstacles[-1]


def _hurt(verdict: Verdict, version: int, *, forward: bool) -> str | None:
    for change in verdict.changes:
        if not (change.forward if forward else change.backward):
            return f"it knows version {version} ({change})"
    return None
