"""What a handler's signature says."""

import functools
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Optional, TypeVar

import msgspec
import psycopg
import pytest
from psycopg.rows import TupleRow

from pgbus.core.bodies import UnknownType
from pgbus.core.decoding import read_headers
from pgbus.core.handler import Handler, Kinds, inspect_handler, subscription_name
from pgbus.errors import ConfigurationError, InvalidName, PayloadError
from pgbus.model.event import Event

T = TypeVar("T")


class Context:
    pass


class Narrower(Context):
    pass


class BatchContext: ...


KINDS = Kinds(Context, BatchContext, psycopg.Connection, psycopg.AsyncConnection)


class Created(Event, topic="orders.created", key="order_id"):
    order_id: str


class Created2(Event, topic="orders.created", version=2, key="order_id"):
    order_id: str
    total: int


class Created3(Event, topic="orders.created", version=3):
    order_id: str
    total: int
    currency: str


class Twin(Event, topic="orders.created"):
    order_id: str


class Cancelled(Event, topic="orders.cancelled"):
    reason: str


class Abstract(Event):
    order_id: str


class Line(msgspec.Struct):
    sku: str


@dataclass
class Plain:
    sku: str


class Page(Event, Generic[T], topic="pages.made"):
    items: list[T]


class Foreign:
    pass


class Holder(msgspec.Struct):
    lines: list[Foreign]


class Tree(msgspec.Struct):
    children: list["Tree"]


PATTERNS = ("orders.*",)


def look(function: Callable[..., Any]) -> Handler:
    return inspect_handler(function, PATTERNS, KINDS)


def headers(topic: str | None, version: int | None = None) -> Any:
    said: dict[str, Any] = {}
    if topic is not None:
        said["pgbus-topic"] = topic
    if version is not None:
        said["pgbus-version"] = version
    return read_headers(msgspec.json.encode(said))


class TestParameters:
    def test_all_three_in_any_order(self) -> None:
        def handle(
            connection: psycopg.Connection[TupleRow], event: Created, context: Context
        ) -> None: ...

        handler = look(handle)
        assert handler.event_parameter == "event"
        assert handler.context_parameter == "context"
        assert handler.connection_parameter == "connection"
        assert not handler.is_async
        assert handler.types == (("orders.created", 1),)

    def test_call_gives_each_its_own(self) -> None:
        def handle(
            connection: psycopg.Connection[Any], event: Created, context: Context
        ) -> tuple[Any, Any, Any]:
            return connection, event, context

        event, context, connection = object(), object(), object()
        assert look(handle).call(event, context, connection) == (connection, event, context)

    def test_subclasses_of_the_context_count(self) -> None:
        def handle(event: Created, context: Narrower, *, log: bool = False) -> None: ...

        assert look(handle).context_parameter == "context"

    def test_strings_as_annotations(self) -> None:
        def handle(event: "Created | Cancelled", context: "Context") -> "Nowhere": ...  # type: ignore[name-defined]  # noqa: F821

        handler = look(handle)
        assert handler.types == (("orders.created", 1), ("orders.cancelled", 1))
        assert handler.context_parameter == "context"

    def test_without_annotation(self) -> None:
        def handle(event):  # type: ignore[no-untyped-def]
            return event

        handler = look(handle)
        assert handler.types == ()
        assert handler.decode(headers("orders.x"), b"[1]") == [1]

    def test_the_event_may_have_a_default(self) -> None:
        def handle(context: Context, event: Any = None) -> None: ...

        assert look(handle).event_parameter == "event"

    def test_methods_partials_and_callables(self) -> None:
        class Service:
            def on_order(self, event: Created, context: Context) -> Any:
                return self, event

            def __call__(self, event: Cancelled) -> Any:
                return event

        def logged(log: list[Any], event: Created, *, level: int) -> Any:
            return log, event, level

        service = Service()
        assert look(service.on_order).types == (("orders.created", 1),)
        assert look(service.on_order).call("e", "c") == (service, "e")
        assert look(service).types == (("orders.cancelled", 1),)
        assert look(service).call("e") == "e"
        log: list[Any] = []
        assert look(functools.partial(logged, log, level=3)).call("e") == (log, "e", 3)
        assert look(functools.partial(logged, log=log, level=3)).call("e") == (log, "e", 3)

    def test_decorated_functions(self) -> None:
        def twice(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                return [function(*args, **kwargs)] * 2

            return run

        @twice
        def handle(event: Created) -> Any:
            return event

        assert look(handle).types == (("orders.created", 1),)
        assert look(handle).call("e") == ["e", "e"]

    def test_parameters_that_have_no_name(self) -> None:
        seen: list[Any] = []
        look(seen.append).call("e")
        assert seen == ["e"]

        def handle(event: Created, /, context: Context) -> Any:
            return event, context

        assert look(handle).call("e", "c") == ("e", "c")

    def test_async(self) -> None:
        async def handle(event: Created, context: Context) -> None: ...

        assert look(handle).is_async
        assert look(functools.partial(handle)).is_async

    def test_async_callable(self) -> None:
        class Service:
            async def __call__(self, event: Created) -> None: ...

        assert look(Service()).is_async


async def _async_connection(event: Any, connection: psycopg.Connection[Any]) -> None: ...
def _unsupported(event: Any, connection: psycopg.AsyncConnection[Any]) -> None: ...
def _nothing() -> None: ...
def _only_context(context: Context) -> None: ...
def _stars(*args: Any, **kwargs: Any) -> None: ...
def _two(event: Created, other: Cancelled) -> None: ...
def _untyped_context(event, context):  # type: ignore[no-untyped-def]
    ...


def _two_contexts(event: Any, one: Context, two: Context) -> None: ...
def _maybe_context(event: Any, context: Context | None) -> None: ...
def _maybe(event: Created | None) -> None: ...
def _optional(event: Optional[Created]) -> None: ...  # noqa: UP045
def _abstract(event: Abstract) -> None: ...
def _base(event: Event) -> None: ...
def _twins(event: Created | Twin) -> None: ...
def _unresolved(event: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _two_others(event: Created | Line | Plain) -> None: ...
def _foreign(event: Foreign) -> None: ...
def _holder(event: Holder) -> None: ...
def _complex(event: complex) -> None: ...
def _parametrised(event: Created | Page[int]) -> None: ...
def _generator(event: Any) -> Iterator[int]:
    yield 1


async def _async_generator(event: Any) -> AsyncIterator[int]:
    yield 1


def _hidden(skipped: int = 0, event: Any = None, context: Context = Context(), /) -> None: ...  # noqa: B008


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_async_connection, "async handler cannot take a psycopg.Connection"),
        (_unsupported, "psycopg.AsyncConnection, which is not supported"),
        (_nothing, "no parameter for the event"),
        (_only_context, "no parameter for the event"),
        (_stars, "no parameter for the event"),
        (_two, "'other'"),
        (_untyped_context, "'context'.*annotate it as Context"),
        (_two_contexts, "both 'one' and 'two' ask for the context"),
        (_maybe_context, "annotate it with Context alone"),
        (_maybe, "never None"),
        (_optional, "never None"),
        (_abstract, "Abstract names no topic"),
        (_base, "Event names no topic"),
        (_twins, "Created and Twin have the same topic 'orders.created' and version 1"),
        (_unresolved, "'Missing' of 'event'"),
        (_two_others, "Line and Plain are both no Event"),
        (_foreign, "cannot decode Foreign$"),
        (_holder, "cannot decode Foreign, which is part of Holder"),
        (_complex, "cannot decode complex"),
        (_parametrised, r"Page\[int\] is not what is published"),
        (_generator, "generator"),
        (_async_generator, "generator"),
        (_hidden, "by position"),
        (Line, "a handler is a function"),
        ("text", "a handler is a function"),
        (type, "a handler is a function"),
    ],
)
def test_what_cannot_handle(function: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        look(function)


def test_a_type_that_no_pattern_delivers() -> None:
    def handle(event: Created) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Created .*'orders.created'.*'stock\.#', 'x'"):
        inspect_handler(handle, ("stock.#", "x"), KINDS)
    inspect_handler(handle, ("stock.#", "#.created"), KINDS)


class TestDecoding:
    def test_by_topic_and_version(self) -> None:
        def handle(event: Created | Created2 | Cancelled) -> None: ...

        handler = look(handle)
        body = b'{"order_id":"7","total":3,"reason":"late"}'
        assert handler.decode(headers("orders.created", 1), body) == Created(order_id="7")
        assert handler.decode(headers("orders.created", 2), body) == Created2(order_id="7", total=3)
        assert handler.decode(headers("orders.cancelled", 1), body) == Cancelled(reason="late")
        # Without a version: 1 where there are several, and the only one.
        assert handler.decode(headers("orders.created"), body) == Created(order_id="7")
        assert handler.decode(headers("orders.cancelled"), body) == Cancelled(reason="late")

    @pytest.mark.parametrize(
        ("topic", "version"), [("orders.created", 9), ("orders.x", 1), ("orders.x", None)]
    )
    def test_unknown(self, topic: str, version: int | None) -> None:
        def handle(event: Created) -> None: ...

        with pytest.raises(UnknownType) as caught:
            look(handle).decode(headers(topic, version), b"{}")
        assert (caught.value.topic, caught.value.version) == (topic, version)

    def test_no_version_and_none_is_1(self) -> None:
        def handle(event: Created2 | Created3) -> None: ...

        with pytest.raises(UnknownType):
            look(handle).decode(headers("orders.created"), b"{}")

    @pytest.mark.parametrize(
        ("annotation", "topics"),
        [
            (Created, ("orders.created",)),
            (Created2, ("orders.created",)),
            (Created2 | Created | Cancelled, ("orders.created", "orders.cancelled")),
            (Created2 | Created3, ()),
            (dict[str, int], ()),
        ],
    )
    def test_it_says_of_which_topics_it_takes_events_without_a_version(
        self, annotation: Any, topics: tuple[str, ...]
    ) -> None:
        def handle(event: Any) -> None: ...

        handle.__annotations__["event"] = annotation
        assert look(handle).unversioned == topics

    def test_the_only_version_need_not_be_1(self) -> None:
        def handle(event: Created2) -> None: ...

        event = look(handle).decode(headers("orders.created"), b'{"order_id":"7","total":3}')
        assert event == Created2(order_id="7", total=3)

    def test_fallback(self) -> None:
        def handle(event: Created | dict[str, int]) -> None: ...

        handler = look(handle)
        assert handler.decode(headers("orders.created", 9), b'{"a":1}') == {"a": 1}
        assert handler.decode(headers("orders.x"), b'{"a":1}') == {"a": 1}
        with pytest.raises(PayloadError):
            handler.decode(headers("orders.x"), b'{"a":"b"}')
        with pytest.raises(PayloadError):
            handler.decode(headers("orders.created", 1), b'{"a":1}')

    @pytest.mark.parametrize(
        ("annotation", "body", "expected"),
        [
            (Any, b"1", 1),
            (object, b"1", 1),
            (dict, b'{"a":1}', {"a": 1}),
            (dict[str, object], b'{"a":1}', {"a": 1}),
            (Line, b'{"sku":"x"}', Line("x")),
            (Plain, b'{"sku":"x"}', Plain("x")),
            (Tree, b'{"children":[]}', Tree([])),
            (Annotated[int, msgspec.Meta(ge=1)], b"2", 2),
            (Annotated[Created, "documented"], b'{"order_id":"1"}', Created(order_id="1")),
        ],
    )
    def test_types(self, annotation: Any, body: bytes, expected: object) -> None:
        def handle(event: Any) -> None: ...

        handle.__annotations__["event"] = annotation
        assert look(handle).decode(headers("orders.created"), body) == expected

    def test_constraints_of_an_annotation_hold(self) -> None:
        def handle(event: Annotated[int, msgspec.Meta(ge=1)]) -> None: ...

        with pytest.raises(PayloadError):
            look(handle).decode(headers("orders.x"), b"0")

    def test_a_message_without_topic_is_the_first_type_that_fits(self) -> None:
        def handle(event: Created2 | Created | Cancelled) -> None: ...

        handler = look(handle)
        nothing = headers(None)
        assert handler.decode(nothing, b'{"order_id":"7","total":1}') == Created2(
            order_id="7", total=1
        )
        assert handler.decode(nothing, b'{"order_id":"7"}') == Created(order_id="7")
        assert handler.decode(nothing, b'{"reason":"late"}') == Cancelled(reason="late")
        with pytest.raises(PayloadError, match=r"Created2: .*Created: .*Cancelled: "):
            handler.decode(nothing, b'{"secret":"marker"}')

    def test_a_message_without_topic_falls_back_last(self) -> None:
        def handle(event: dict[str, Any] | Created) -> None: ...

        handler = look(handle)
        assert handler.decode(headers(None), b'{"order_id":"7"}') == Created(order_id="7")
        assert handler.decode(headers(None), b'{"x":"7"}') == {"x": "7"}

    def test_null(self) -> None:
        def handle(event: Any) -> None: ...

        assert look(handle).decode(headers("orders.x"), b"null") is None
        with pytest.raises(PayloadError, match="NULL"):
            look(handle).decode(headers("orders.x"), None)


def on_order(event: Any) -> None: ...


class Charger:
    def charge(self, event: Any) -> None: ...
    def __call__(self, event: Any) -> None: ...


class TestNames:
    @pytest.mark.parametrize(
        ("function", "service", "name"),
        [
            (on_order, "billing", "billing_on_order"),
            (on_order, "Billing-Service.EU", "billing_service_eu_on_order"),
            (on_order, None, "tests_on_order"),
            (on_order, "9lives", "lives_on_order"),
            (on_order, "x" * 60, "x" * 43),
            (functools.partial(on_order), "billing", "billing_on_order"),
            (Charger().charge, "billing", "billing_charge"),
            (Charger(), "billing", "billing_charger"),
            ([].append, "billing", "billing_append"),
        ],
    )
    def test_names(self, function: Any, service: str | None, name: str) -> None:
        assert subscription_name(function, service) == name

    def test_a_lambda_has_none(self) -> None:
        with pytest.raises(ConfigurationError, match="name="):
            subscription_name(lambda event: None, "billing")

    def test_a_name_that_is_kept(self) -> None:
        def dlq(event: Any) -> None: ...

        with pytest.raises(InvalidName):
            subscription_name(dlq, "billing")

    @pytest.mark.parametrize(
        ("main", "name"),
        [
            ({"__file__": "/srv/Order-Worker.py", "__spec__": None}, "order_worker_on_order"),
            (
                {
                    "__file__": "/srv/shop/__main__.py",
                    "__spec__": types.SimpleNamespace(name="shop.__main__"),
                },
                "shop_on_order",
            ),
            ({"__spec__": None}, "main_on_order"),
        ],
    )
    def test_scripts(
        self, main: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def on_order(event: Any) -> None: ...

        on_order.__module__ = "__main__"
        monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(**main))
        assert subscription_name(on_order, None) == name
