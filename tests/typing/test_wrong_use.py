"""mypy refuses wrong use of the public names, on the line where it is wrong.

Those lines, and no others, say ``# refused``. The codes of errors differ between mypy's releases.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 240
WRONG = """
from datetime import timedelta
from pgbus import Bus, Context, Event, Outgoing, Retry, RetryAfter

class Created(Event, topic="orders.created", key="order_id"):
    order_id: str
    total: int

Created(order_id=17, total=1)  # refused
Created(order_id="17")  # refused
Created(order_id="17", total=1, colour="red")  # refused
Created("17", 1)  # refused
event = Created(order_id="17", total=1)
event.total = 2  # refused
event.colour  # refused

bus = Bus("", lease="long")  # refused
Bus(on_unroutable="complain")  # refused
Bus("", "shop")  # refused

bus.publish(17)  # refused
bus.publish(event, key=17)  # refused
bus.publish(event, headers={"tries": 1})  # refused
bus.publish(event, delay="1 s")  # refused
bus.publish(event, at=timedelta(1))  # refused
bus.publish(event, id="17")  # refused
bus.publish(event, connection="db")  # refused
bus.publish_many(event)  # refused
bus.publish_many(["orders.created"])  # refused
Outgoing(payload={})  # refused
bus.publish(event).queue  # refused

bus.subscribe(["orders.*"], name="billing")  # refused
bus.subscribe("orders.*", retry=5)  # refused
bus.subscribe("orders.*", timeout=timedelta(1))  # refused
bus.subscribe("orders.*", on_exhausted="drop")  # refused

@bus.subscribe("orders.*", name="billing")
def on_order(event: Created, context: Context) -> None:
    context.publish(17)  # refused
    context.attempt.upper()  # refused

on_order("17")  # refused

Retry(5)  # refused
Retry(on={"ValueError": 1})  # refused
RetryAfter(timedelta(1))  # refused

bus.redrive("billing", ids=["17"])  # refused
bus.redrive(17)  # refused
bus.drop_subscription("billing", True)  # refused
bus.dead_letters("billing")[0]  # refused
names: list[str] = bus.status()  # refused
"""


def test_wrong_use_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", wrong],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    refused = {int(line) for line in re.findall(r"wrong\.py:(\d+): error:", done.stdout)}
    lines = WRONG.split("\n")
    wanted = {number for number, line in enumerate(lines, 1) if line.endswith("# refused")}
    assert refused == wanted, done.stdout + done.stderr
