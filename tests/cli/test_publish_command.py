import json
import os
import pty
import subprocess
from pathlib import Path

import psycopg
import pytest

from pgbus import Bus
from tests.cli.command import COMMAND, PATIENCE, at_hand, call, environment, pgbus
from tests.waiting import eventually


@pytest.fixture
def inbox(bus: Bus) -> Bus:
    """A bus whose subscription ``inbox`` keeps what is published under ``orders.#``."""

    @bus.subscribe("orders.#", name="inbox")
    def handle(event: dict[str, int]) -> None: ...

    bus.declare()
    return bus


def depth(bus: Bus) -> int:
    return bus.status()[0].ready


def test_one_event_from_the_argument(inbox: Bus, bus_dsn: str) -> None:
    wanted = "01a1fc10-fa07-7846-8c76-470c8eba2a25"
    first = call(bus_dsn, "publish", "orders.new", '{"n": 1.10}', "--id", wanted, "--json")
    assert first.json == {"id": wanted, "topic": "orders.new", "queues": 1, "duplicate": False}
    again = call(bus_dsn, "publish", "orders.new", '{"n": 1.10}', "--id", wanted)
    assert "published before" in again.stdout
    assert "to 0 queues" in call(bus_dsn, "publish", "nobody.cares", "null").stdout
    assert call(bus_dsn, "publish", "nobody.cares", "null", "--strict").code == 1
    assert depth(inbox) == 1


def test_key_headers_delay_and_exact_numbers(inbox: Bus, bus_dsn: str) -> None:
    body = '{"n": 1.10, "big": 123456789012345678901234567890.5}'
    arguments = ("--key", "k", "-H", "a=b=c", "-H", "d=", "--delay", "0.01")
    assert call(bus_dsn, "publish", "orders.new", body, *arguments).code == 0
    look = "select m.message::text, m.headers from pgmq.q_inbox m"
    with psycopg.connect(bus_dsn, autocommit=True) as connection:
        eventually(lambda: connection.execute("select pgbus.promote(1)").fetchone() == (1,))
        message, headers = connection.execute(look).fetchone() or ("", {})
    assert "1.10" in message
    assert "123456789012345678901234567890.5" in message
    assert headers["x-pgmq-group"] == "k"
    assert (headers["a"], headers["d"]) == ("b=c", "")


@pytest.mark.parametrize("body", ['{"secret": ', "NaN", '"\\u0000"', "", "\udcff"])
def test_a_bad_body_is_refused_and_not_quoted(inbox: Bus, bus_dsn: str, body: str) -> None:
    done = call(bus_dsn, "publish", "orders.new", body)
    assert done.code == 1
    assert "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert depth(inbox) == 0


def test_lines_name_their_topic_and_key(inbox: Bus, bus_dsn: str) -> None:
    lines = (
        b'\xef\xbb\xbf{"type": "orders.new", "order": {"id": 5}}\r\n\n'
        b'{"order": {"id": null}}\n{"type": "orders.paid", "order": {"id": "x"}}'
    )
    arguments = ("--topic-field", "type", "--key-field", "order.id", "--json")
    done = call(bus_dsn, "publish", "orders.other", "-", *arguments, stdin=lines)
    receipts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [receipt["topic"] for receipt in receipts] == [
        "orders.new",
        "orders.other",
        "orders.paid",
    ]
    without = call(bus_dsn, "publish", "--topic-field", "type", '{"type": "orders.z"}', "--json")
    assert without.json["topic"] == "orders.z"
    assert depth(inbox) == 4


def test_a_file_goes_in_batches_and_an_error_says_how_far(
    inbox: Bus, bus_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    lines = [json.dumps({"n": n}) for n in range(1, 1301)]
    lines[1099] = '{"secret": oops}'
    file.write_text("\n".join(lines))
    done = pgbus("publish", "orders.new", "--file", str(file), dsn=bus_dsn)
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("pgbus: line 1100: ")
    assert "1,000 events up to line 1000 were published, and nothing from line 1001 on" in line
    assert "secret" not in line
    assert depth(inbox) == 1000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"k": [1]}', "line 2: field 'k' is neither text nor a number"),
        (b"{}", "line 2: it has no field 'k' for the key"),
        (b'{"k": oops}', "line 2: no JSON that can be read"),
        (b'{"k": "\xff"}', "line 2: no JSON that can be read"),
        (b'{"k": "a", "z": "\\u0000"}', "line 2: orders.new: "),
    ],
)
def test_a_bad_line_is_named(inbox: Bus, bus_dsn: str, line: bytes, reason: str) -> None:
    stdin = b'{"k": "fine"}\n' + line + b"\n"
    done = call(bus_dsn, "publish", "orders.new", "-", "--key-field", "k", stdin=stdin)
    assert done.code == 1
    assert reason in done.stderr
    assert "(nothing was published)" in done.stderr
    assert depth(inbox) == 0


def test_a_file_that_is_not_there(bus_dsn: str) -> None:
    done = call(bus_dsn, "publish", "a", "--file", "/nowhere/x")
    assert done.code == 1
    assert "cannot read /nowhere/x: No such file" in done.stderr


def test_what_trickles_through_a_pipe_is_not_held_up(inbox: Bus, bus_dsn: str) -> None:
    with at_hand(
        subprocess.Popen(
            [*COMMAND, "publish", "orders.new", "-"],
            env=environment(bus_dsn),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    ) as process:
        assert process.stdin is not None
        for n in (1, 2):
            process.stdin.write(b"%d\n" % n)
            process.stdin.flush()
            eventually(lambda n=n: depth(inbox) == n)  # type: ignore[misc]
        out, _ = process.communicate(timeout=PATIENCE)
    assert out.startswith(b"2 events published under 1 topic ")


def test_a_progress_bar_on_a_terminal(inbox: Bus, bus_dsn: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("1\n" * 3000)
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "publish", "orders.new", "--file", str(file)],
            env=environment(bus_dsn, {"TERM": "xterm"}),
            stdout=subprocess.PIPE,
            stderr=theirs,
            check=False,
            timeout=PATIENCE,
        )
        drawn = os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert done.stdout.startswith(b"3,000 events published")
    assert "publishing" in drawn
    assert "━" in drawn
