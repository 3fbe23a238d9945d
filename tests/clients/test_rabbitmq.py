"""Topics match as RabbitMQ was observed to match them; see ``observe_rabbitmq.py``."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pgmq import PGMQueue

from pgbus.core.patterns import expand, matches

ANSWERS = Path(__file__).with_name("rabbitmq_topics.json")


class Observed:
    """What the broker answered."""

    def __init__(self) -> None:
        found = json.loads(ANSWERS.read_text())
        self.topics: list[str] = found["topics"]
        self.answers: dict[str, str] = found["answers"]

    def __iter__(self) -> Iterator[tuple[str, str, bool]]:
        for pattern, answers in self.answers.items():
            for topic, answer in zip(self.topics, answers, strict=True):
                yield pattern, topic, answer == "1"


@pytest.fixture(scope="module")
def observed() -> Observed:
    return Observed()


def test_the_observation_is_of_everything_that_matters(observed: Observed) -> None:
    for length in range(1, 5):
        for words in itertools.product("ab*#", repeat=length):
            assert ".".join(words) in observed.answers
        for words in itertools.product("ab", repeat=length):
            assert ".".join(words) in observed.topics
    assert sum(1 for _ in observed) > 80_000
    assert sum(matched for *_, matched in observed) > 10_000


def test_matches_answers_as_the_broker_did(observed: Observed) -> None:
    assert [one for one in observed if matches(one[0], one[1]) != one[2]] == []


def test_bindings_route_as_the_broker_did(
    observed: Observed, client: PGMQueue, sql: psycopg.Connection
) -> None:
    client.create_queue("foreign")
    sql.cursor().executemany(
        "select pgmq.bind_topic(%s, 'foreign')",
        [(binding,) for binding in {one for text in observed.answers for one in expand(text)}],
    )
    routed = {
        topic: {route.pattern for route in client.test_routing(topic)} for topic in observed.topics
    }
    assert [
        one
        for one in observed
        if any(binding in routed[one[1]] for binding in expand(one[0])) != one[2]
    ] == []
