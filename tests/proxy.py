"""A proxy between a client and PostgreSQL that fails on command.

It listens on what its server listens on: a socket in a folder of mode 0700 for a server on a
socket, 127.0.0.1 for one on TCP. So it opens no door that the server keeps closed.

One event loop in a thread of its own relays; the test's thread gives the orders, and each order is
in force when its call returns.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CHUNK = 65_536
READY_FOR_QUERY = b"Z\x00\x00\x00\x05"  # and one byte: the state of the transaction


class Link:
    """One client's connection through the proxy. Only the loop's thread touches it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = (client, server)
        self.relaying = asyncio.current_task()
        self.loses_reply = False
        self.was_cut = False

    def cut(self) -> None:
        """Break both halves at once, with nothing flushed, and end the relaying."""
        self.was_cut = True
        self.abort()
        if self.relaying is not None:
            self.relaying.cancel()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class FaultProxy:
    """Relay to the server of ``dsn``; connect through ``.dsn``."""

    def __init__(self, dsn: str) -> None:
        upstream = conninfo_to_dict(dsn)
        self._host = str(upstream["host"])
        self._port = int(upstream.get("port") or 5432)
        self._original = dsn
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="fault-proxy")
        self._listening: Future[None] = Future()
        # Written and read by the loop's thread alone.
        self._finished = asyncio.Event()
        self._flowing = asyncio.Event()
        self._links: set[Link] = set()
        self._refusing = False
        self._marker: bytes | None = None
        # Written by the loop's thread, read by the test's.
        self.accepted = 0
        self.lost_replies = 0
        # Written by the test's thread, read by the loop's: seconds before each chunk, both ways.
        self.delay = 0.0
        self.dsn = dsn

    # Orders

    def cut(self) -> None:
        """Break all connections. New ones are accepted."""
        self._order(self._cut)

    def refuse(self) -> None:
        """Break all connections, and every new one at once, until accept()."""
        self._order(lambda: self._refuse(True))
        self._order(self._cut)

    def accept(self) -> None:
        """End refuse()."""
        self._order(lambda: self._refuse(False))

    def stall(self) -> None:
        """Keep every connection open and relay nothing, not even its end, until resume()."""
        self._order(self._flowing.clear)

    def resume(self) -> None:
        """End stall(): what was held back arrives."""
        self._order(self._flowing.set)

    def lose_reply(self, request: bytes = b"COMMIT") -> None:
        """Hand the next request that contains these bytes to the server, then lose its reply.

        The server has carried the request out when the client's connection breaks: the proxy
        waits for the whole reply first. ``lost_replies`` counts. The bytes must not straddle two
        chunks, which those of short requests never do.
        """
        self._order(lambda: self._arm(request))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    # Its life

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._finished.set)
        self._thread.join()

    def _order(self, action: Callable[[], object]) -> None:
        async def carry_out() -> None:
            action()
            ending = [link.relaying for link in self._links if link.was_cut and link.relaying]
            if ending:
                await asyncio.wait(ending)

        asyncio.run_coroutine_threadsafe(carry_out(), self._loop).result()

    def _cut(self) -> None:
        for link in self._links:
            link.cut()

    def _refuse(self, refusing: bool) -> None:
        self._refusing = refusing

    def _arm(self, marker: bytes) -> None:
        self._marker = marker

    # The loop's thread

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._listen())
            except BaseException as error:
                if self._listening.done():
                    raise
                self._listening.set_exception(error)

    async def _listen(self) -> None:
        self._flowing.set()
        if not self._host.startswith("/"):
            listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            port = listener.sockets[0].getsockname()[1]
            await self._listen_on(listener, "127.0.0.1", port)
            return
        folder = tempfile.mkdtemp(prefix="pgbus-proxy-", dir="/tmp")
        try:
            listener = await asyncio.start_unix_server(self._serve, f"{folder}/.s.PGSQL.5432")
            await self._listen_on(listener, folder, 5432)
        finally:
            shutil.rmtree(folder)

    async def _listen_on(self, listener: asyncio.AbstractServer, host: str, port: int) -> None:
        self.dsn = make_conninfo(self._original, host=host, port=port)
        self._listening.set_result(None)
        await self._finished.wait()
        listener.close()
        self._cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, server_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as halves:
                halves.create_task(self._relay(reader, server_writer, link, self._request))
                halves.create_task(self._relay(server_reader, writer, link, self._reply))
        except asyncio.CancelledError:
            if not link.was_cut:
                raise
        finally:
            link.abort()
            self._links.discard(link)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self._host}/.s.PGSQL.{self._port}")
        return await asyncio.open_connection(self._host, self._port)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link,
        passes: Callable[[bytes, Link], bool],
    ) -> None:
        try:
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                if passes(data, link):
                    writer.write(data)
                    await writer.drain()
            await self._flowing.wait()
        except OSError:
            pass  # the other end broke the connection
        finally:
            # Flushes, so that PostgreSQL's last words arrive; ends the other half as well.
            writer.close()

    def _request(self, data: bytes, link: Link) -> bool:
        if self._marker is not None and self._marker in data:
            self._marker = None
            link.loses_reply = True
        return True

    def _reply(self, data: bytes, link: Link) -> bool:
        if not link.loses_reply:
            return True
        if data[-6:-1] == READY_FOR_QUERY:
            self.lost_replies += 1
            link.cut()
        return False
