"""A process that looks after dead letters: it puts them back, mended or not, and drops some.

It is struck like the publishers: its connection fails, and it is killed. What it meant to drop it
writes down before, and which redrives were committed after it has seen that they are.
"""

import contextlib
import random
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psycopg

from pgbus import Bus, DeadLetter, PgbusError
from tests.torture import audit
from tests.torture.behaviour import BATCH, BULK, LEDGER, PARK, PLAIN
from tests.torture.records import Dropping, Log, Over, now
from tests.torture.workers import asked_to_end, settle_in

ROUND = 0.4
"""Seconds between two looks at the dead letters of a subscription."""
MOST = 50
"""Dead letters that are looked at in one round."""
CHOICES = {"mend": 0.6, "repeat": 0.15, "drop": 0.1, "leave": 0.15}
"""What becomes of a dead letter in a round; what is redriven as it is becomes one again."""
COSTLY = ("poison", "exit")
"""What would end processes again: it is mended before it is redriven."""


class Duty(NamedTuple):
    """What the process is told."""

    dsn: str
    straight: str
    """The way past the proxy, to see what was committed."""
    log: Path
    output: Path
    mended: Path
    seed: int


def operate(duty: Duty) -> None:
    """Look after the dead letters until SIGTERM."""
    settle_in(duty.output)
    stop = asked_to_end()
    with Log(duty.log) as log, Bus(duty.dsn, service="torture") as bus:
        operator = Operator(bus, duty, log)
        while not stop.wait(ROUND / 2):
            with contextlib.suppress(PgbusError, psycopg.Error):
                operator.go_round()
            # Also after an error: the reply may be all that was lost.
            with contextlib.suppress(psycopg.Error):
                operator.confirm()


class Operator:
    """See the module."""

    def __init__(self, bus: Bus, duty: Duty, log: Log) -> None:
        self._bus = bus
        self._duty = duty
        self._log = log
        self._random = random.Random(duty.seed)

    def go_round(self) -> None:
        """Decide on some dead letters of one subscription.

        Raises:
            PgbusError, psycopg.Error: what was done of it is not known.
        """
        name = self._random.choice([PLAIN, LEDGER, BATCH, BULK, PARK, PARK])
        chosen: dict[str, list[DeadLetter]] = {choice: [] for choice in CHOICES}
        for letter in islice(self._bus.dead_letters(name), MOST):
            chosen[self._choose(letter)].append(letter)
        for letter in chosen["mend"]:
            (self._duty.mended / letter.body["uid"]).touch()
        self._redrive(name, chosen["mend"] + chosen["repeat"])
        self._drop(name, chosen["drop"])

    def _choose(self, letter: DeadLetter) -> str:
        choice = self._random.choices([*CHOICES], [*CHOICES.values()])[0]
        costly = letter.body["how"] in COSTLY
        return "mend" if costly and choice == "repeat" else choice

    def _redrive(self, name: str, letters: list[DeadLetter]) -> None:
        ids = [letter.id for letter in letters if letter.id is not None]
        if len(ids) > 1 and self._random.random() < 0.3:
            # The first alone, and then the rest: a limit, too, must keep their places.
            self._bus.redrive(name, ids=ids, limit=1)
        if ids:
            self._bus.redrive(name, ids=ids)

    def _drop(self, name: str, letters: list[DeadLetter]) -> None:
        ids = [letter.id for letter in letters if letter.id is not None]
        if ids:
            self._log.write(Dropping(name, [letter.body["uid"] for letter in letters], now()))
            self._bus.drop_dead_letters(name, ids=ids)

    def confirm(self) -> None:
        """Write down which redrives have been committed, whoever got their replies.

        Raises:
            psycopg.Error: the server is away.
        """
        with psycopg.connect(self._duty.straight, autocommit=True, connect_timeout=5) as connection:
            xids = audit.confirm(connection)
        if xids:
            self._log.write(Over(xids, now()))
