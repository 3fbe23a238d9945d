"""Patterns: what is one, and that pgmq's bindings of it match what AMQP 0-9-1 says."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgbus.core.patterns import MAX_HASHES, MAX_PATTERN, check_pattern, expand, matches
from pgbus.errors import InvalidPattern

GOOD = ["orders", "orders.*", "orders.#", "#", "*", "a.#.b", "#.error", "*.*", "#.#", "A-1._x.*"]
MOST_HASHES = ".".join(["#.a"] * MAX_HASHES)
BAD = [
    "",
    "a..b",
    ".a",
    "a.",
    ".",
    "a*b",
    "or#",
    "##",
    "**",
    "*#",
    "#*",
    "orders.or#",
    "a b",
    "a\n",
    "orders.*\n",
    "%s",
    "'",
    '"',
    ";",
    "--;",
    "$",
    "^a",
    "a+",
    "(a)",
    "[a]",
    "a|b",
    "a\\b",
    "é",
    "a.é",
    "a\0",
    "a/b",
    "#.a.#.b.#.c.#.d.#.e.#.f.#",
]


@pytest.mark.parametrize("pattern", [*GOOD, MOST_HASHES, "a" * MAX_PATTERN, "#." * 100 + "#"])
def test_check_accepts(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", [*BAD, "a" * (MAX_PATTERN + 1), "a." * 128])
def test_check_refuses(pattern: str) -> None:
    with pytest.raises(InvalidPattern):
        check_pattern(pattern)
    with pytest.raises(InvalidPattern):
        expand(pattern)


@pytest.mark.parametrize("pattern", [None, 3, b"orders"])
def test_check_refuses_other_types(pattern: object) -> None:
    with pytest.raises(InvalidPattern, match=type(pattern).__name__):
        check_pattern(pattern)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "bindings"),
    [
        ("orders.created", ("orders.created",)),
        ("orders.*", ("orders.*",)),
        ("#", ("#",)),
        ("#.#", ("#",)),
        ("orders.#", ("orders.#", "orders")),
        ("#.error", ("#.error", "error")),
        ("a.#.b", ("a.#.b", "a.b")),
        ("a.#.#.b", ("a.#.b", "a.b")),
        ("#.*", ("#.*", "*")),
        ("#.*.#", ("#.*.#", "*.#", "#.*", "*")),
        ("#.a.#", ("#.a.#", "a.#", "#.a", "a")),
    ],
)
def test_expand(pattern: str, bindings: tuple[str, ...]) -> None:
    assert expand(pattern) == bindings


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("orders.*", "orders.created", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.created.eu", False),
        ("orders.#", "orders", True),
        ("orders.#", "orders.created.eu", True),
        ("orders.#", "ordersx", False),
        ("#", "a.b.c", True),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "a.b.c", False),
        ("#.error", "error", True),
        ("*.#", "a", True),
        ("#.b.#.b", "b", False),
        ("#.b.#.b", "b.b", True),
        ("a.b", "aXb", False),
    ],
)
def test_matches(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


def test_matching_many_hashes_is_not_exponential() -> None:
    pattern = ".".join(["#", "a"] * MAX_HASHES + ["b"])
    assert not matches(pattern, ".".join(["a"] * 127))


def pgmq_matches(binding: str, topic: str) -> bool:
    """What pgmq does: the generated column compiled_regex of pgmq.topic_bindings."""
    escaped = re.sub(r"([.+?{}()|\[\]\\^$])", r"\\\1", binding)
    regex = "^" + escaped.replace("*", "[^.]+").replace("#", ".*") + "$"
    return re.search(regex, topic) is not None


def amqp_matches(pattern: list[str], topic: list[str]) -> bool:
    """AMQP 0-9-1 §3.1.3.3, word for word."""
    if not pattern:
        return not topic
    head, *rest = pattern
    if head == "#":
        return any(amqp_matches(rest, topic[taken:]) for taken in range(len(topic) + 1))
    return bool(topic) and head in ("*", topic[0]) and amqp_matches(rest, topic[1:])


words = st.sampled_from(["a", "b", "ab", "a-b"])
topics = st.lists(words, min_size=1, max_size=6)
patterns = st.lists(st.one_of(words, st.just("*"), st.just("#")), min_size=1, max_size=7)


@given(patterns, topics)
@example(["#", "*", "#"], ["a"])
@example(["a", "#", "b"], ["a", "b"])
def test_the_bindings_match_what_the_pattern_does(pattern: list[str], topic: list[str]) -> None:
    expected = amqp_matches(pattern, topic)
    text, key = ".".join(pattern), ".".join(topic)
    assert matches(text, key) is expected
    assert any(pgmq_matches(binding, key) for binding in expand(text)) is expected


@given(patterns)
def test_bindings_are_few_valid_and_unique(pattern: list[str]) -> None:
    bindings = expand(".".join(pattern))
    assert 1 <= len(bindings) <= 2**MAX_HASHES
    assert len(set(bindings)) == len(bindings)
    assert bindings == expand(".".join(pattern))
    for binding in bindings:
        assert check_pattern(binding) == binding
        assert "#.#" not in binding


@given(st.text(max_size=20))
def test_whatever_the_text_it_is_a_pattern_or_refused_by_name(text: str) -> None:
    try:
        check_pattern(text)
    except InvalidPattern:
        return
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.*#-")
