"""The README's figures are those of the results, which a command printed."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_was_printed() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    overview = _table(results)
    assert "publish_many of 1,000 to raw COPY" in overview
    assert overview in readme
    machine = results.rstrip().splitlines()[-1].strip("_")
    assert machine in readme


def _table(text: str) -> str:
    lines = text.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("|"))
    last = next(n for n, line in enumerate(lines[first:], first) if not line.startswith("|"))
    return "\n".join(lines[first:last])
