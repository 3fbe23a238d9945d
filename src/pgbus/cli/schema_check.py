"""``schema check``: may this code be deployed?"""

from collections.abc import Iterator
from typing import Any

import typer

from pgbus.cli.access import be_quiet
from pgbus.cli.contracts import code_subjects, code_takers, read_known
from pgbus.cli.loader import load_bus
from pgbus.cli.options import Json, ModuleDsn, Target
from pgbus.cli.printer import age, clean, count, say, write_json
from pgbus.core.changes import Change
from pgbus.core.review import Broken, Finding, review, unread

_AGAINST = {"new": "new; compared with version", "changed": "changed; compared with version"}
_PLAIN = {"unchanged": "unchanged", "first": "first of its topic"}


def check(target: Target, dsn: ModuleDsn = None, as_json: Json = False) -> None:
    """Compare the event types of the code with the registry, and with who runs now.

    Says, field by field, what changed and whom it hurts: live subscriptions that could not read
    the code's types, and types that the code's subscriptions could not read. Nothing is recorded.
    Exits 1 where something would break.
    """
    be_quiet()
    with load_bus(target, dsn) as bus:
        takers = code_takers(bus)
        known = read_known(bus)
        findings = review(code_subjects(), takers, bus._given_service, known)
        deaf = {name: faults for name, faults in unread(takers, known).items() if faults}
    good = not deaf and all(one.good for one in findings)
    if as_json:
        write_json(
            {
                "good": good,
                "types": [_finding_object(one) for one in findings],
                "subscriptions": [
                    {"name": name, "faults": faults} for name, faults in deaf.items()
                ],
            }
        )
    else:
        for line in _report(findings, deaf):
            say(clean(line))
    if not good:
        raise typer.Exit(1)


def _report(findings: list[Finding], deaf: dict[str, list[str]]) -> Iterator[str]:
    for one in findings:
        how = _PLAIN.get(one.state) or f"{_AGAINST[one.state]} {one.against}"
        yield f"{'ok  ' if one.good else 'FAIL'}  {one.topic} version {one.version}  {how}"
        for change in one.changes:
            yield f"        {describe(change)}"
        for fault in one.faults:
            yield f"      {fault}"
        for broken in one.breaks:
            yield f"      {breaks(broken)}"
        for broken in one.already:
            yield f"      already {breaks(broken)}"
    for name, faults in deaf.items():
        yield f"FAIL  subscription {name}"
        for fault in faults:
            yield f"      cannot read {fault}"
    bad = sum(not one.good for one in findings) + len(deaf)
    yield f"{count(len(findings), 'event type')}, {count(bad, 'fault') if bad else 'no faults'}"


def describe(change: Change) -> str:
    """Return a change with whom it hurts."""
    hurt = []
    if not change.backward:
        hurt.append("the newer cannot read the older")
    if not change.forward:
        hurt.append("the older cannot read the newer")
    return f"{change}" + (f" ({'; '.join(hurt)})" if hurt else "")


def breaks(one: Broken) -> str:
    """Return ``breaks billing 1.4 on 2 hosts, seen 12 s ago: …``."""
    release = f" {one.service_version}" if one.service_version else ""
    who = f"{one.subscription}{release}"
    if one.service != one.subscription:
        who = f"{one.subscription} ({one.service}{release})"
    return f"breaks {who} on {count(one.hosts, 'host')}, seen {age(one.seen)} ago: {one.why}"


def _finding_object(one: Finding) -> dict[str, Any]:
    return {
        "topic": one.topic,
        "version": one.version,
        "state": one.state,
        "against": one.against,
        "good": one.good,
        "changes": [change_object(change) for change in one.changes],
        "faults": one.faults,
        "breaks": [_broken_object(broken) for broken in one.breaks],
        "already_breaks": [_broken_object(broken) for broken in one.already],
    }


def change_object(change: Change) -> dict[str, Any]:
    """Return a change as an object of JSON."""
    return {
        "path": change.path,
        "what": change.what,
        "backward": change.backward,
        "forward": change.forward,
    }


def _broken_object(one: Broken) -> dict[str, Any]:
    return {
        "subscription": one.subscription,
        "service": one.service,
        "service_version": one.service_version,
        "hosts": one.hosts,
        "seen": round(one.seen.total_seconds(), 3),
        "why": one.why,
    }
