"""Looking at subscriptions, and looking after them: the part of a bus that operators use."""

from collections.abc import Iterable, Iterator
from functools import partial
from uuid import UUID

from pgbus.model.checks import check_whole
from pgbus.model.names import check_name
from pgbus.model.status import Binding, DeadLetter, SubscriptionStatus
from pgbus.store import letters, topology
from pgbus.threads.pool import Pool

MOST = 2**63 - 1


class Administration:
    """The operators' methods of :class:`pgbus.Bus`."""

    _pool: Pool

    def _names(self) -> list[str]:
        """Return the names of the bus's own subscriptions."""
        raise AssertionError("a bus has names")

    def status(self, *names: str) -> list[SubscriptionStatus]:
        """Return what subscriptions hold, counted now.

        Parameters:
            names: of which; those that there are not are left out. Without names, this bus's own,
                or all of the database where it has none.

        Raises:
            StoreError: the database refused or could not be reached.
        """
        chosen = list(names) or self._names() or None
        return self._pool.run(lambda: topology.status(chosen))

    def bindings(self) -> list[Binding]:
        """Return every binding of the database.

        Raises:
            StoreError: the database refused or could not be reached.
        """
        return self._pool.run(topology.bindings)

    def dead_letters(self, name: str) -> Iterator[DeadLetter]:
        """Iterate over a subscription's dead letters, oldest first.

        Parameters:
            name: the subscription's.

        Raises:
            ConfigurationError: there is no such subscription.
            StoreError: the database refused or could not be reached.
        """
        check_name(name)
        return self._pages(name, self._pool.run(partial(letters.page, name, 0)))

    def _pages(self, name: str, page: list[DeadLetter]) -> Iterator[DeadLetter]:
        yield from page
        while len(page) == letters.PAGE:
            page = self._pool.run(partial(letters.page, name, page[-1].number))
            yield from page

    def redrive(
        self, name: str, ids: Iterable[UUID] | None = None, limit: int | None = None
    ) -> int:
        """Put dead letters back into their subscription, at their old place within their key.

        Parameters:
            name: the subscription's.
            ids: the events' ids; left out, all.
            limit: how many at most, from 0, the oldest first; left out, all.

        Returns:
            How many were put back.

        Raises:
            ConfigurationError: there is no such subscription, or ``limit`` is no such number.
            StoreError: the database refused or could not be reached.
        """
        check_name(name)
        if limit is not None:
            check_whole("limit", limit, 0, MOST)
        chosen = None if ids is None else list(ids)
        return self._pool.run(lambda: letters.redrive(name, chosen, limit), changes=True)

    def drop_dead_letters(self, name: str, ids: Iterable[UUID] | None = None) -> int:
        """Drop dead letters for good.

        Parameters:
            name: the subscription's.
            ids: the events' ids; left out, all.

        Returns:
            How many were dropped.

        Raises:
            ConfigurationError: there is no such subscription.
            StoreError: the database refused or could not be reached.
        """
        check_name(name)
        chosen = None if ids is None else list(ids)
        return self._pool.run(lambda: letters.drop(name, chosen), changes=True)

    def drop_subscription(self, name: str, *, force: bool = False) -> None:
        """Drop a subscription: its queue, bindings and dead letters.

        Parameters:
            name: the subscription's.
            force: also where it still holds events or dead letters.

        Raises:
            ConfigurationError: there is none, or it is not empty and ``force`` is false.
            StoreError: a running worker uses it, or the database could not be reached.
        """
        check_name(name)
        self._pool.run(lambda: topology.drop(name, force=force), changes=True)

    def rename_subscription(self, old: str, new: str) -> None:
        """Rename a subscription with its events, bindings and dead letters.

        Raises:
            ConfigurationError: there is no subscription ``old``.
            InvalidName: ``new`` is no name.
            StoreError: a running worker uses it, ``new`` exists, or the database could not be
                reached.
        """
        check_name(old)
        check_name(new)
        self._pool.run(lambda: topology.rename(old, new), changes=True)
