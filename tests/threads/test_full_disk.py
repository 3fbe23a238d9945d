"""A server that has no room: nothing is acknowledged that was not stored, and no key is stuck."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgbus import Bus, StoreError
from tests.servers import PostgresInstance
from tests.waiting import eventually

ROOM = 48
"""Megabytes: a database with pgbus takes a quarter of it."""
LARGE = "x" * 200_000


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system with little room, for tables."""
    disk = Path("/dev/shm") / f"pgbus-small-{os.getpid()}"
    disk.mkdir(mode=0o777)
    options = ["-t", "tmpfs", "-o", f"size={ROOM}m,mode=777", "pgbus-test"]
    try:
        if subprocess.run(["mount", *options, str(disk)], capture_output=True).returncode != 0:
            pytest.skip("this system lets us mount nothing")
        try:
            yield disk
        finally:
            eventually(lambda: subprocess.run(["umount", str(disk)]).returncode == 0)
    finally:
        disk.rmdir()


def fill(disk: Path) -> Path:
    """Leave no room; removing the file that is returned makes some again."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65_536)
        except OSError:
            return filler


def test_a_full_disk(own_server: Callable[..., PostgresInstance], small_disk: Path) -> None:
    server = own_server()
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"create tablespace small location '{small_disk}'")
        admin.execute("create database small tablespace small")
    stored: list[int] = []
    refused: list[StoreError] = []
    handled: list[int] = []

    with Bus(server.dsn("small")) as bus:
        bus.install()

        @bus.subscribe("large", name="billing")
        def handle(event: Any) -> None:
            handled.append(event["n"])

        def publish(n: int) -> None:
            try:
                bus.publish("large", {"n": n, "body": LARGE + str(n)}, key=f"k{n % 3}")
            except StoreError as error:
                refused.append(error)
            else:
                stored.append(n)

        with bus.running():
            publish(0)
            filler = fill(small_disk)
            for n in range(1, 200):
                publish(n)
            assert refused
            assert not any(error.outcome_unknown for error in refused)
            assert "53100" in str(refused[0])
            filler.unlink()
            publish(1_000)
            assert stored[-1] == 1_000
            assert bus.wait_idle(20)
    assert set(handled) == set(stored)


def test_a_server_without_resources_gets_its_leases_back_in_the_end(bus: Bus, bus_dsn: str) -> None:
    """Where not even letting go of a key is possible for a while, it is not forgotten."""
    handled: list[int] = []

    @bus.subscribe("a", name="billing")
    def handle(event: Any) -> None:
        handled.append(event)

    with psycopg.connect(bus_dsn, autocommit=True) as sql:
        sql.execute(
            """
            create sequence public.refusals;
            create function public.refuse() returns trigger language plpgsql as $$
            begin
                if nextval('public.refusals') <= 4 then
                    raise exception 'no room' using errcode = 'disk_full';
                end if;
                return null;
            end $$;
            create trigger refuse after delete on pgbus.lease
                for each statement execute function public.refuse();
            """
        )
    with bus.running():
        bus.publish("a", 1, key="k")
        bus.publish("a", 2, key="k")
        assert bus.wait_idle(20)
    assert handled[-1] == 2
    assert set(handled) == {1, 2}
