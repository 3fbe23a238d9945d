"""Python source from values and names that others chose: nothing of them is ever taken for code."""

import builtins
import keyword
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

OFFERED = {
    "pgbus": ("Event",),
    "msgspec": ("Meta", "Struct", "UNSET", "UnsetType", "convert", "field"),
    "typing": ("Annotated", "Any", "Literal"),
    "datetime": ("date", "datetime", "time", "timedelta"),
    "decimal": ("Decimal",),
    "enum": ("Enum",),
    "uuid": ("UUID",),
    "builtins": tuple(name for name in dir(builtins) if not name.startswith("_")),
}
"""What generated code may use, by module."""
_MODULE_OF = {name: module for module, names in OFFERED.items() for name in names}


class Imports:
    """The names that a module uses of others.

    Parameters:
        taken: the names of fields: in a class they hide those of the module, so what is called the
            same is imported under another name.
    """

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = taken
        self._used: dict[str, set[str]] = defaultdict(set)

    def use(self, name: str) -> str:
        """Return what a name of :data:`OFFERED` is called here."""
        alias = name
        while alias in self._taken:
            alias += "_"
        module = _MODULE_OF[name]
        if module != "builtins":
            self._used[module].add(name if alias == name else f"{name} as {alias}")
        elif alias != name:
            self._used[module].add(f"{name} as {alias}")
        return alias

    def lines(self) -> Iterator[str]:
        """Yield the import statements: those of Python itself, then the others."""
        yield "from __future__ import annotations"
        for ours in (False, True):
            modules = sorted(one for one in self._used if (one in ("msgspec", "pgbus")) == ours)
            if modules:
                yield ""
            for module in modules:
                names = sorted(self._used[module], key=_rank)
                yield f"from {module} import {', '.join(names)}"


def _rank(name: str) -> tuple[bool, bool, str]:
    """Order constants before classes before functions, as import sorters do."""
    plain = name.partition(" ")[0]
    return not plain.isupper(), not plain[0].isupper(), name


def identifier(name: str, taken: Collection[str] = ()) -> str:
    """Return a name of Python that is most like another.

    Parameters:
        name: any text.
        taken: names that it must not be.
    """
    # As the compiler reads it.
    made = re.sub(r"\W", "_", unicodedata.normalize("NFKC", name))
    made = re.sub(r"\A__+", "_", made)  # in a class those would be private, or special
    if not made.isidentifier():
        made = f"field_{made}"
    if not made.isidentifier():
        made = re.sub(r"[^A-Za-z0-9_]", "_", made)
    chosen = f"{made}_" if keyword.iskeyword(made) else made
    number = 1
    while chosen in taken:
        number += 1
        chosen = f"{made}_{number}"
    return chosen


def text(value: str) -> str:
    """Return a string literal."""
    if not value.isprintable():
        return repr(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def literal(value: Any) -> str:
    """Return the literal of decoded JSON."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(name)}: {literal(one)}' for name, one in value.items())}}}"
    return repr(value)


def docstring(value: str, indent: str) -> Iterator[str]:
    """Yield the lines of a docstring."""
    safe = value.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    safe = "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in safe)
    if safe.endswith('"'):
        safe = f'{safe[:-1]}\\"'
    first, *rest = safe.split("\n")
    if not rest:
        yield f'{indent}"""{first}"""'
        return
    yield f'{indent}"""{first}'
    for line in rest:
        yield f"{indent}{line}".rstrip()
    yield f'{indent}"""'
