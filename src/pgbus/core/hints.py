"""Reading annotations: what stands behind aliases, wrappers and unions."""

import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union

from pgbus.model.event import Event


def plain_type(hint: Any) -> Any:
    """Return a type without its ``Annotated``, and what an alias stands for."""
    while True:
        if typing.get_origin(hint) is Annotated:
            hint = hint.__origin__
        elif type(hint).__name__ == "TypeAliasType":  # `type X = …`, Python 3.12
            hint = hint.__value__
        else:
            return hint


def members(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, or the type itself."""
    bare = plain_type(hint)
    if typing.get_origin(bare) in (Union, types.UnionType):
        for member in typing.get_args(bare):
            yield from members(member)
    elif isinstance(bare, type) and issubclass(bare, Event):
        yield bare
    else:
        # Constraints for msgspec (`Annotated[int, Meta(ge=1)]`) stay.
        yield hint


def unwrapped(function: Any) -> Any:
    """Return the function behind ``functools.partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def name_of(thing: Any) -> str:
    """Return what people call a function or a type."""
    thing = unwrapped(thing)
    found = getattr(thing, "__qualname__", None)
    if found is None:
        # str() of an instance might show anything; of an annotation it shows its type.
        return str(thing) if typing.get_origin(thing) is not None else type(thing).__qualname__
    return str(found).replace("<locals>.", "")
