"""Finding the bus that ``module:bus`` names."""

import importlib
import os
import sys
from importlib.util import find_spec

import typer

from pgbus import Bus
from pgbus.errors import ConfigurationError


def load_bus(target: str, dsn: str | None) -> Bus:
    """Import a bus from a module of the current folder, or of the environment.

    What the module itself raises passes through: it is the user's code, and wants its traceback.

    Parameters:
        target: ``module:bus``; the part behind the colon may be dotted.
        dsn: the database of a bus that names none itself, or ``None``.

    Raises:
        typer.BadParameter: ``target`` is not of that form.
        ConfigurationError: there is no such module, it has no such attribute, that is no bus, or
            the bus names another database than ``dsn``.
    """
    module_name, _, attribute = target.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if not all(word.isidentifier() for word in words):
        raise typer.BadParameter(f"{target!r} is not of the form module:bus, as in shop.events:bus")
    folder = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    if dsn is not None:
        os.environ["PGBUS_DSN"] = dsn
    if not _exists(module_name):
        raise ConfigurationError(f"there is no module {module_name!r} (looked in {folder}, too)")
    found: object = importlib.import_module(module_name)
    for word in attribute.split("."):
        if not hasattr(found, word):
            raise ConfigurationError(f"module {module_name!r} has no {attribute!r}")
        found = getattr(found, word)
    if not isinstance(found, Bus):
        raise ConfigurationError(f"{target} is no pgbus.Bus, but of type {type(found).__name__}")
    if dsn is not None and found.dsn != dsn:
        raise ConfigurationError(f"{target} names its own database: --dsn is for a Bus() without")
    return found


def _exists(module_name: str) -> bool:
    """Tell whether a module can be found; its packages are imported, it is not."""
    parent, _, _ = module_name.rpartition(".")
    if parent and not _exists(parent):
        return False
    try:
        return find_spec(module_name) is not None
    except ModuleNotFoundError as error:
        if error.name in (parent, module_name):
            return False  # the parent is a module, but no package
        raise
    except ValueError:
        return module_name in sys.modules
