"""A stop while the way to the database is stalled: it must not wait for the watchdog."""

import time
from typing import Any

from pgbus import Bus
from tests.proxy import FaultProxy
from tests.waiting import eventually

LEASE = 0.6


def test_a_stalled_link_holds_up_no_stop(bus_dsn: str) -> None:
    with FaultProxy(bus_dsn) as way, Bus(way.dsn, lease=LEASE) as bus:

        @bus.subscribe("a", name="billing")
        def handle(event: Any) -> None: ...

        bus.start()
        eventually(lambda: way.connections >= 3, message="the bus did not connect")
        way.stall()
        began = time.monotonic()
        bus.stop(timeout=0.5)
        # The watchdog would shut the sockets after 15 s, and a new attempt would take 10.
        assert time.monotonic() - began < 5.0
        way.resume()
        bus.start()
        bus.publish("a", {})
        assert bus.wait_idle()
