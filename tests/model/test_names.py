"""What subscriptions and topics may be called."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbus.errors import InvalidName, InvalidTopic
from pgbus.model.names import (
    DEAD_LETTER_SUFFIX,
    MAX_NAME,
    MAX_TOPIC,
    check_name,
    check_topic,
)

BAD = ["", " ", "a\n", "%s", "'", '"', ";", "a--;", "$", "é", "a b", "a\0", "\uff41"]


@pytest.mark.parametrize("name", ["a", "billing", "a_1", "a" * MAX_NAME, "dlq", "a_dlq_b"])
def test_names(name: str) -> None:
    assert check_name(name) == name
    # pgmq takes 47 characters.
    assert len(name + DEAD_LETTER_SUFFIX) <= 47


@pytest.mark.parametrize(
    "name",
    [*BAD, "Orders", "--", "1a", "_a", "a-b", "a.b", "a_dlq", "a" * 44, "a" * 48, "a" * 256],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize("topic", ["a", "A.b-c._", "1.2", "a" * MAX_TOPIC])
def test_topics(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    "topic",
    [*BAD, "a..b", ".a", "a.", ".", "a*b", "or#", "##", "*", "#", "a/b", "a(", "a" * 256],
)
def test_topics_that_are_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        check_topic(topic)


@given(st.text(max_size=50))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        check_name(text)
    except InvalidName:
        return
    assert re.fullmatch("[a-z][a-z0-9_]{0,42}", text)
