"""The webhooks of GitHub as typed events: nothing of the declared fields is lost or made up."""

import gzip
import json
import typing
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import msgspec
import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from examples.github_events import Activity, Pushed, topic_of
from examples.github_events.issues import IssueActivity
from examples.github_events.pull_requests import PullRequestActivity, PullRequestOpened
from examples.github_events.releases import ReleaseActivity
from msgspec import UNSET

from pgbus import Bus, Context, Event, Outgoing, from_cloudevent, to_cloudevent
from pgbus.core.schema import describe

TYPES: dict[str, type[Event]] = {
    str(kind.__event_topic__): kind for kind in typing.get_args(Activity)
}
KNOWN = ("issues", "pull_request", "push", "release")


class Webhook(typing.NamedTuple):
    topic: str
    payload: dict[str, Any]

    @property
    def kind(self) -> type[Event]:
        return TYPES[self.topic]


@pytest.fixture(scope="module")
def webhooks(shared_data: Path) -> list[Webhook]:
    with gzip.open(shared_data / "github-webhooks.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [Webhook(topic_of(one["event"], one["payload"]), one["payload"]) for one in found]


@pytest.fixture(scope="module")
def known(webhooks: list[Webhook]) -> list[Webhook]:
    found = [one for one in webhooks if one.topic.split(".")[1] in KNOWN]
    count = Counter(one.topic.split(".")[1] for one in found)
    assert set(count) == set(KNOWN)
    assert min(count.values()) >= 4
    return found


def check_same(value: Any, raw: Any, path: str) -> int:
    """Compare what was decoded with the JSON; returns how many values were compared."""
    if isinstance(value, msgspec.Struct):
        assert isinstance(raw, dict), path
        count = 0
        for field in msgspec.structs.fields(value):
            found, place = getattr(value, field.name), f"{path}.{field.name}"
            if field.encode_name not in raw:
                assert found is UNSET, f"{place} was made up"
            else:
                count += check_same(found, raw[field.encode_name], place)
        return count
    if isinstance(value, list):
        assert len(value) == len(raw), path
        return sum(check_same(*pair, f"{path}[]") for pair in zip(value, raw, strict=True))
    if isinstance(value, datetime):
        assert value == datetime.fromisoformat(raw), path
    else:
        assert value == raw, path
        assert type(value) is type(raw), path
    return 1


def test_every_example_is_decoded_without_loss(known: list[Webhook]) -> None:
    for one in known:
        event = msgspec.json.decode(json.dumps(one.payload), type=one.kind)
        compared = check_same(event, one.payload, one.topic)
        assert compared > 40, f"{one.topic}: {compared} values are hardly what it says"
        again = msgspec.json.decode(msgspec.json.encode(event), type=one.kind)
        assert again == event


def test_nested_parts_are_structs(known: list[Webhook]) -> None:
    [opened, *_] = [one for one in known if one.topic == "github.pull_request.opened"]
    event = msgspec.convert(opened.payload, PullRequestOpened)
    base = opened.payload["pull_request"]["base"]
    assert event.pull_request.base.repo
    assert event.pull_request.base.repo.owner.login == base["repo"]["owner"]["login"]


def test_what_github_leaves_out_or_nulls_is_no_fault() -> None:
    """All but what identifies a thing may be missing, or be null where that says something."""
    user = {"id": 1, "login": "octocat"}
    repository = {"id": 2, "name": "a", "full_name": "o/a", "owner": user}
    branch = {"ref": "main", "sha": "0f", "user": None, "repo": None}
    pull_request = {
        "id": 3,
        "number": 7,
        "title": "t",
        "head": branch,
        "base": branch,
        "body": None,
        "user": None,
        "merged": None,
        "requested_reviewers": [{"id": 9}],
    }
    payload = {
        "action": "opened",
        "number": 7,
        "pull_request": pull_request,
        "repository": repository,
        "sender": user,
        "unheard_of": {"a": [1]},
    }
    event = msgspec.convert(payload, PullRequestOpened)
    assert check_same(event, payload, "") > 20
    assert event.pull_request.merged_by is UNSET
    assert event.pull_request.body is None


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_each_type_has_a_schema_of_its_topic(kind: type[Event]) -> None:
    schema = describe(kind)
    assert schema.topic.startswith("github.")
    assert "Repository" in schema.document["$defs"]


def test_their_schemas_allow_what_came(known: list[Webhook]) -> None:
    """As others see them: by a validator of JSON Schema."""
    validators = {
        kind: jsonschema.Draft202012Validator(describe(kind).document)
        for kind in {one.kind for one in known}
    }
    for one in known:
        validator = validators[one.kind]
        validator.validate(one.payload)
        validator.validate(json.loads(msgspec.json.encode(msgspec.convert(one.payload, one.kind))))
        assert not validator.is_valid({**one.payload, "repository": {"id": "1"}})


def test_over_a_bus(bus: Bus, webhooks: list[Webhook], known: list[Webhook]) -> None:
    """Published as they came, and read by several subscriptions as what they need."""
    seen: dict[str, dict[int, Any]] = defaultdict(dict)

    def note(event: Any, context: Context) -> None:
        line = int(context.headers["line"])
        assert line not in seen[context.subscription]
        assert context.topic == webhooks[line].topic
        seen[context.subscription][line] = event

    @bus.subscribe("github.#", name="everything")
    def on_anything(event: Activity | dict[str, Any], context: Context) -> None:
        note(event, context)

    @bus.subscribe("github.issues.*", "github.pull_request.*", name="work")
    def on_work(event: IssueActivity | PullRequestActivity, context: Context) -> None:
        note(event, context)

    @bus.subscribe("github.push.#", "github.release.#", name="code")
    def on_code(event: Pushed | ReleaseActivity, context: Context) -> None:
        note(event, context)

    with bus.running():
        bus.publish_many(
            Outgoing(one.topic, one.payload, key=str(line % 7), headers={"line": str(line)})
            for line, one in enumerate(webhooks)
        )
        assert bus.wait_idle(30)

    for name in ("everything", "work", "code"):
        assert list(bus.dead_letters(name)) == []
    assert len(seen["everything"]) == len(webhooks)
    assert len(seen["work"]) + len(seen["code"]) == len(known)
    assert seen["work"] | seen["code"] == {
        line: event for line, event in seen["everything"].items() if not isinstance(event, dict)
    }
    for line, event in seen["everything"].items():
        topic, payload = webhooks[line]
        if isinstance(event, Event):
            assert type(event) is TYPES[topic]
            check_same(event, payload, topic)
        else:
            assert topic not in TYPES
            assert event == payload


def test_typed_events_are_published_as_what_they_are(bus: Bus, known: list[Webhook]) -> None:
    """Their types are recorded, and what arrives is what was sent."""
    events: list[Event] = [msgspec.convert(one.payload, one.kind) for one in known]
    got: dict[Any, Any] = {}

    @bus.subscribe("github.#", name="activity")
    def on_activity(event: Activity, context: Context) -> None:
        got[context.id] = event

    with bus.running():
        receipts = bus.publish_many(events)
        assert bus.wait_idle(30)
    assert [got[receipt.id] for receipt in receipts] == events
    assert list(bus.dead_letters("activity")) == []


def test_there_and_back_as_cloudevents(webhooks: list[Webhook]) -> None:
    """Written by pgbus, read and written by the official SDK, read by pgbus."""
    sdk = JSONFormat()
    for topic, payload in webhooks:
        sent: Any = msgspec.convert(payload, TYPES[topic]) if topic in TYPES else payload
        written = to_cloudevent(topic, sent, source="https://github.com", id=uuid4())
        theirs = sdk.read(CloudEvent, written)
        if isinstance(sent, Event):
            check_same(sent, theirs.get_data(), topic)
        else:
            assert theirs.get_data() == payload
        assert from_cloudevent(sdk.write(theirs), Activity | dict[str, Any]).data == sent
