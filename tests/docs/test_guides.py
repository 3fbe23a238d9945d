"""The README and every guide do what they say; see ``player`` for what is run."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.player import blocks

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# These speak of the embedded PostgreSQL; the others run on the server of the suite.
EMBEDDED = {"README.md", "embedded.md"}
PATIENCE = 500


@pytest.fixture
def environment(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """What a guide's programs see; ``environment(dsn)``, where ``""`` is the embedded server."""

    def make(dsn: str) -> dict[str, str]:
        made = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PGBUS_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",
            # Of a guide's own pytest, which needs none, they take more time than its tests.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "TZ": "UTC",
        }
        return {**made, "PGBUS_DSN": dsn} if dsn else made

    return make


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_guide(
    guide: Path, dsn: str, tmp_path: Path, environment: Callable[[str], dict[str, str]]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.docs.player", guide],
        cwd=folder,
        env=environment("" if guide.name in EMBEDDED else dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        pytest.fail(f"{guide.name} does not end: {said}")
    assert process.returncode == 0, said


def test_every_guide_shows_something() -> None:
    for guide in GUIDES:
        shown = {block.kind for block in blocks(guide.read_text(encoding="utf-8"))}
        index = guide == ROOT / "docs" / "README.md"
        assert shown & {"python", "console"} or index, guide.name


def test_links_lead_somewhere() -> None:
    """Relative links, and the headings behind their ``#``."""
    for guide in GUIDES:
        text = guide.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if "://" in target:
                continue
            name, _, heading = target.partition("#")
            file = guide if not name else (guide.parent / name).resolve()
            assert file.exists(), f"{guide.name}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in titles}
                assert heading in slugs, f"{guide.name}: {target}"


def test_the_readme_says_what_make_does() -> None:
    """Its lines for those without make are those of the Makefile."""
    recipes = dict(
        re.findall(
            r"^(\w+):[^\n]*\n((?:\t[^\n]+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
    for target in ("demo", "lint", "test"):
        command, *_ = recipes[target].replace("$(BIN)", ".venv/bin").split(" $(ARGS)")
        for line in command.strip().split("\n\t"):
            assert line in readme, f"make {target}: {line}"
