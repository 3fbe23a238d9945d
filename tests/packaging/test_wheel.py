"""What is built can be installed and works, far from the checkout.

The sdist is built from a copy of the sources, the wheel from the sdist, and the wheel is installed
into an environment of its own, as a user would.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src", "sql")
BUILD = "from setuptools import build_meta; build_meta.build_{kind}({folder!r})"
PATIENCE = 240
SQL = sorted((ROOT / "sql").rglob("*.sql"))


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command to its good end, and return what it printed."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PGBUS_DSN")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def new_environment(folder: Path, *packages: object) -> Path:
    """Make a virtual environment with packages in it, and return its folder of programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    options = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run(*pip, "install", *options, *packages, cwd=folder.parent)
    return programs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "copy"
    copy.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            # What an editable install leaves must not decide what is packed.
            litter = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(source, copy / name, ignore=litter)
        else:
            shutil.copy(source, copy / name)
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    python = new_environment(folder / "builder", *requires) / "python"
    run(python, "-c", BUILD.format(kind="sdist", folder=str(folder)), cwd=copy)
    (sdist,) = folder.glob("*.tar.gz")
    run("tar", "-xf", sdist, cwd=folder)
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    run(python, "-c", BUILD.format(kind="wheel", folder=str(folder)), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def wanted() -> set[str]:
    """The files of the package, as they are called in the wheel."""
    source = ROOT / "src" / "pgbus"
    code = {f"pgbus/{path.relative_to(source)}" for path in source.rglob("*.py")}
    statements = {f"pgbus/sql/{path.relative_to(ROOT / 'sql')}" for path in SQL}
    return code | statements | {"pgbus/py.typed", "pgbus/sql/__init__.py"}


def test_the_wheel_holds_the_package_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        files = {name for name in wheel.namelist() if not name.endswith("/")}
    packed = {name for name in files if ".dist-info/" not in name}
    assert len(SQL) > 10
    assert packed == wanted()
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)


def test_the_sdist_holds_what_the_wheel_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        files = {name.partition("/")[2] for name in sdist.getnames()}
    needed = {f"sql/{path.relative_to(ROOT / 'sql')}" for path in SQL}
    assert needed | {"README.md", "LICENSE", "src/pgbus/py.typed", "sql/__init__.py"} <= files


@pytest.fixture(scope="module")
def programs(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel and its extra."""
    folder = tmp_path_factory.mktemp("user")
    return new_environment(folder / "venv", f"{built[1]}[embedded]")


def test_the_wheel_works_far_from_the_checkout(programs: Path, tmp_path: Path) -> None:
    where = "import pgbus, pgbus.sql; print(pgbus.__file__, *pgbus.sql.__path__)"
    for place in run(programs / "python", "-c", where, cwd=tmp_path).split():
        assert Path(place).is_relative_to(programs.parent), place
    assert "demo" in run(programs / "pgbus", "--help", cwd=tmp_path)
    assert "create schema" in run(programs / "pgbus", "install", "--print", cwd=tmp_path).lower()
    played = run(
        *(programs / "pgbus", "demo", "--events", "100", "--json"),
        cwd=tmp_path,
        PGBUS_HOME=str(tmp_path / "home"),
    )
    verdict = json.loads(played)
    assert verdict["good"] is True, verdict


def test_a_user_of_the_wheel_is_type_checked(programs: Path, tmp_path: Path) -> None:
    """``py.typed`` is found: mypy knows the types of an installed pgbus."""
    (tmp_path / "shop.py").write_text("import pgbus\n\nreveal_type(pgbus.Bus().install())\n")
    python = f"--python-executable={programs / 'python'}"
    cache = f"--cache-dir={tmp_path / 'cache'}"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", python, cache, "shop.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "import-untyped" not in done.stdout
    assert 'Revealed type is "None"' in done.stdout, done.stdout + done.stderr
