"""The command ``pgbus``: one module a command, and what they share."""

import sys

_NEEDED = ("typer", "rich")


def main() -> None:
    """Run the command line; the entry point of the console script."""
    try:
        from pgbus.cli.app import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write("pgbus: the command line is an extra: pip install 'pgbus[cli]'\n")
        sys.exit(1)
    app(prog_name="pgbus")
