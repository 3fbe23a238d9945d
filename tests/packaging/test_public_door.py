"""The public names are those that were promised, and each says what it does."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import pgbus

EVENTS = {
    *("CloudEvent", "Event", "Outgoing", "Receipt"),
    *("downcast", "from_cloudevent", "to_cloudevent", "upcast"),
}
BUS = {"BatchContext", "Binding", "Bus", "Context", "DeadLetter", "Incident", "SubscriptionStatus"}
OUTCOMES = {"REJECT", "Reject", "Retry", "RetryAfter"}
ERRORS = {
    "PgbusError",
    "ConfigurationError",
    "InvalidTopic",
    "InvalidPattern",
    "InvalidName",
    "PayloadError",
    "PayloadTooLarge",
    "Unroutable",
    "LeaseLost",
    "IncompatibleDatabase",
    "SchemaConflict",
    "StoreError",
}
METHODS = {
    "Bus": {
        *("bindings", "close", "dead_letters", "declare", "drop_dead_letters", "drop_subscription"),
        *("dsn", "install", "on_error", "publish", "publish_many", "redrive"),
        *("rename_subscription", "run", "running", "start", "status", "stop", "subscribe"),
        "wait_idle",
    },
    "BatchContext": {
        *("count", "extend", "index", "lease_lost", "publish", "reject", "retry"),
    },
    "Context": {
        *("attempt", "causation_id", "correlation_id", "extend", "headers", "id", "key"),
        *("lease_lost", "log_extra", "publish", "published_at", "source", "subscription"),
        *("to_cloudevent", "topic"),
    },
}


# Whatever becomes of the database: these wait for it, or need it not.
RAISE_NOTHING = {"errors", "log_extra", "on_error"}


def functions(kind: str) -> Iterator[Any]:
    """Those of a class that are not a sequence's."""
    for name, member in inspect.getmembers(getattr(pgbus, kind), inspect.isfunction):
        if not name.startswith("_") and not hasattr(Sequence, name):
            yield pytest.param(member, id=f"{kind}.{name}")


def test_the_names_are_those_promised() -> None:
    assert set(pgbus.__all__) == EVENTS | BUS | OUTCOMES | ERRORS
    assert len(pgbus.__all__) == len(set(pgbus.__all__))


def test_nothing_else_is_at_the_door() -> None:
    public = {name for name, value in vars(pgbus).items() if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(pgbus, name))}
    assert public - modules == set(pgbus.__all__)


@pytest.mark.parametrize("kind", METHODS)
def test_a_class_has_the_members_promised_and_no_others(kind: str) -> None:
    assert {name for name in dir(getattr(pgbus, kind)) if not name.startswith("_")} == METHODS[kind]


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_error_is_a_pgbus_error(name: str) -> None:
    assert issubclass(getattr(pgbus, name), pgbus.PgbusError)


@pytest.mark.parametrize("name", [name for name in pgbus.__all__ if name != "REJECT"])
def test_every_name_has_a_docstring_of_its_own(name: str) -> None:
    thing = getattr(pgbus, name)
    inherited = [base.__doc__ for base in getattr(thing, "__mro__", ())[1:]]
    assert thing.__doc__, name
    assert thing.__doc__ not in inherited, name
    assert not thing.__doc__.startswith(f"{name}("), "what dataclass wrote"


@pytest.mark.parametrize("kind", [pgbus.Bus, pgbus.Retry, pgbus.StoreError])
def test_what_a_class_is_made_with_is_documented(kind: Callable[..., Any]) -> None:
    for parameter in inspect.signature(kind).parameters:
        assert mentions(kind.__doc__, parameter) or parameter == "message", parameter


@pytest.mark.parametrize("method", [one for kind in METHODS for one in functions(kind)])
def test_every_method_says_what_it_takes_gives_and_raises(method: Callable[..., Any]) -> None:
    text = inspect.getdoc(method)
    assert text
    signature = inspect.signature(method)
    if "Parameters are those of" not in text:
        for parameter in list(signature.parameters)[1:]:
            assert mentions(text, parameter), f"{parameter} is not explained"
    if signature.return_annotation is not None:
        assert re.search(r"\b(returns?|iterate|yield)\b", text, re.IGNORECASE), "gives what?"
    assert ("Raises:" in text) is (method.__name__ not in RAISE_NOTHING)


def mentions(text: str | None, parameter: str) -> bool:
    """As an entry of a list, or in the prose as ``code``."""
    found = re.search(
        rf"^\s*[\w, ]*\b{parameter}\b[\w, ]*:|``{parameter}\b", text or "", re.MULTILINE
    )
    return found is not None
