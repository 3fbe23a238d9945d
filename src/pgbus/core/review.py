"""Whether code may be deployed: its event types against the registry and those who run now."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from pgbus.core.changes import Change, Verdict, compare
from pgbus.core.evolution import downcast_versions, upcast_versions
from pgbus.core.patterns import matches
from pgbus.core.recorded import Acceptor, Publishing, Recorded
from pgbus.core.schema import EventSchema, describe
from pgbus.model.event import Event

RECENT: Final = timedelta(days=7)
"""Publishers that were not heard of for longer are taken to be gone."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An event type of the code."""

    schema: EventSchema
    upcasts: frozenset[int]
    """The versions whose bodies become the type's."""
    downcasts: frozenset[int]
    """The versions that are sent along with it."""


@dataclass(frozen=True, slots=True)
class Taker:
    """A subscription of the code."""

    name: str
    patterns: tuple[str, ...]
    types: frozenset[str]
    """``topic@version`` of all that it decodes, by upcasts, too; ``topic@``: without a version."""
    accepted: tuple[EventSchema, ...]
    """Of its handler's annotation."""
    any_type: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry says."""

    recorded: Sequence[Recorded]
    publishers: Sequence[Publishing]
    acceptors: Sequence[Acceptor]
    """The live workers."""


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
    already: list[Broken] = field(default_factory=list)
    """Whom the service's present release breaks."""

    @property
    def good(self) -> bool:
        """Whether nothing keeps the type from being deployed."""
        return not self.faults and not self.breaks


def subject(kind: type[Event]) -> Subject:
    """Return an event type with what its casts lead to.

    Raises:
        ConfigurationError: its schema cannot be told, or upcasts lead nowhere.
    """
    return Subject(
        describe(kind), frozenset(upcast_versions(kind)), frozenset(downcast_versions(kind))
    )


def review(
    subjects: Sequence[Subject], takers: Sequence[Taker], service: str | None, known: Known
) -> list[Finding]:
    """Compare the code's types with what is recorded, and with what live subscriptions take.

    Parameters:
        subjects: the event types of the code.
        takers: its subscriptions.
        service: the code's, as the registry names it; ``None`` where that cannot be told.
        known: what the registry says.
    """
    return [
        _Review(one, subjects, takers, service, known).finding()
        for one in sorted(subjects, key=lambda one: (one.schema.topic, one.schema.version))
    ]


class _Review:
    """Of one type."""

    def __init__(
        self,
        one: Subject,
        subjects: Sequence[Subject],
        takers: Sequence[Taker],
        service: str | None,
        known: Known,
    ) -> None:
        topic = one.schema.topic
        self._one = one
        self._type = f"{topic}@{one.schema.version}"
        self._own = {each.schema.version for each in subjects if each.schema.topic == topic}
        self._known = {
            each.schema.version: each.schema
            for each in known.recorded
            if each.schema.topic == topic
        }
        self._workers = [
            worker
            for worker in known.acceptors
            if any(matches(pattern, topic) for pattern in worker.patterns)
        ]
        self._served = {each.subscription for each in known.acceptors if self._is_taken_by(each)}
        self._soon_served = {each.name for each in takers if self._is_taken_by(each)}
        publishers = {each.service for each in known.publishers if each.topic == topic}
        self._publishes = service in publishers
        self._publishes_it = any(
            (each.service, each.topic, each.version) == (service, topic, one.schema.version)
            for each in known.publishers
        )
        self._may_publish = self._publishes or service is None or not publishers

    def _is_taken_by(self, one: Taker | Acceptor) -> bool:
        return one.any_type or self._type in one.types

    def finding(self) -> Finding:
        schema, known = self._one.schema, self._known
        topic, version = schema.topic, schema.version
        same = known.get(version)
        if same is not None and same.fingerprint == schema.fingerprint:
            return self._unchanged()
        if same is not None:
            found = Finding(topic, version, "changed", version, _compare(same, schema).changes)
            found.faults.append(
                f"it changed under the same version: give it version={max(known) + 1}, or it is "
                "refused"
            )
        elif known:
            nearest = min(known, key=lambda other: (other > version, abs(other - version)))
            changes = _compare(known[nearest], schema).changes
            found = Finding(topic, version, "new", nearest, changes)
            found.faults += self._unreadable()
        else:
            found = Finding(topic, version, "first")
        found.breaks += self._broken()
        return found

    def _unchanged(self) -> Finding:
        """Return what is to be said of a type that is recorded as it is.

        Others may have recorded it, who take it, before this service publishes it.
        """
        topic, version = self._one.schema.topic, self._one.schema.version
        found = Finding(topic, version, "unchanged")
        if version == max(self._own):  # an earlier one is rather taken than published
            goes_back = self._publishes and version < max(self._known)
            if goes_back or (self._may_publish and not self._publishes_it):
                found.breaks += self._broken()
            elif self._publishes_it:
                found.already += self._broken()
        return found

    def _unreadable(self) -> Iterable[str]:
        """Say which recorded older versions the type does not read."""
        one = self._one
        for version, schema in self._known.items():
            if version > one.schema.version or version in one.upcasts or version in self._own:
                continue
            hurt = _hurt(schema, one.schema)
            if hurt is not None:
                yield (
                    f"it does not read version {version} ({hurt}): add @upcast(…, "
                    f"from_version={version})"
                )

    def _broken(self) -> list[Broken]:
        groups: dict[tuple[str, str, str, str], list[Acceptor]] = defaultdict(list)
        for worker in self._workers:
            why = self._obstacle(worker)
            if why is not None:
                key = (worker.subscription, worker.service, worker.service_version, why)
                groups[key].append(worker)
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

    def _obstacle(self, worker: Acceptor) -> str | None:
        """Return why a live worker could not take the type; ``None`` where it could."""
        schema = self._one.schema
        takes = {
            each.version: EventSchema(each.topic, each.version, "", each.document, each.fingerprint)
            for each in worker.accepted
            if each.topic == schema.topic
        }
        if schema.version in takes:
            hurt = _hurt(schema, takes[schema.version])
            return None if hurt is None else f"it knows version {schema.version} ({hurt})"
        # A worker that does not know the version gives it back to a colleague that does.
        if worker.subscription in self._served or takes.keys() & self._one.downcasts:
            return None
        why = f"it has no type for {schema.topic}" if not takes else _obstacle(schema, takes)
        if why is None or worker.subscription not in self._soon_served:
            return why
        # Where others publish, it is new here for this release to take it: the order to deploy in.
        return f"until workers of this release run, {why}" if self._may_publish else None


def unread(takers: Sequence[Taker], known: Known) -> dict[str, list[str]]:
    """Say what the code's subscriptions would be sent and could not read, by their names.

    Parameters:
        takers: the subscriptions.
        known: what the registry says. Of its publishers, those count that were heard of lately.
    """
    documents = {(one.schema.topic, one.schema.version): one.schema for one in known.recorded}
    faults: dict[str, list[str]] = {one.name: [] for one in takers}
    for one in takers:
        for publishing in known.publishers:
            schema = documents.get((publishing.topic, publishing.version))
            if schema is None or publishing.seen > RECENT:
                continue
            why = _unread(one, schema, publishing)
            if why is not None:
                who = f"{publishing.service} {publishing.service_version}".rstrip()
                faults[one.name].append(f"{schema.label}, which {who} publishes: {why}")
    return faults


def _unread(one: Taker, schema: EventSchema, publishing: Publishing) -> str | None:
    if one.any_type or f"{schema.topic}@{schema.version}" in one.types:
        return None
    if not any(matches(pattern, schema.topic) for pattern in one.patterns):
        return None
    takes = {each.version: each for each in one.accepted if each.topic == schema.topic}
    if takes.keys() & set(publishing.downcasts):
        return None
    if not takes:
        return f"it has no type for {schema.topic}"
    return _obstacle(schema, takes)


def _obstacle(schema: EventSchema, takes: dict[int, EventSchema]) -> str | None:
    """Return why none of a reader's types reads a version that it does not know by name."""
    obstacles = []
    for version, own in takes.items():
        hurt = _hurt(schema, own)
        if hurt is None:
            return None
        obstacles.append(f"it knows version {version} ({hurt})")
    return obstacles[-1]


def _hurt(writer: EventSchema, reader: EventSchema) -> Change | None:
    """Return the first change that keeps one type from reading another; ``None`` if it does."""
    if reader.version <= writer.version:
        changes = compare(reader.document, writer.document).changes
        return next((change for change in changes if not change.forward), None)
    changes = compare(writer.document, reader.document).changes
    return next((change for change in changes if not change.backward), None)


def _compare(one: EventSchema, other: EventSchema) -> Verdict:
    """Compare the older with the newer, or, of the same version, the recorded with the code's."""
    older, newer = sorted((one, other), key=lambda schema: schema.version)
    return compare(older.document, newer.document)
