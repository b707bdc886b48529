"""A proxy between a service and a server, which cuts, freezes, slows or refuses its connections while a test runs.

It runs in a thread of the test. What it forwards is bytes; `resp_proxy.py` knows the commands in them.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

T = TypeVar("T")
CHUNK = 1 << 16


class Connection:
    """A client's connection and the one to the server that belongs to it."""

    def __init__(self, client: "Stream", server: "Stream") -> None:
        self.client, self.server = client, server

    def close(self) -> None:
        self.client.close()
        self.server.close()


class Stream:
    """Both directions of one socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class TcpProxy:
    """`with TcpProxy(port_of_the_server) as proxy:` the service connects to `proxy.port`."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece waits before it is forwarded."""
        self._open: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._flowing.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close every connection; new ones are accepted."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Close every connection and refuse new ones, as where no server runs."""
        self._do(self._refuse())

    def accept(self) -> None:
        """Accept connections again."""
        self._do(self._listen())

    def freeze(self) -> None:
        """Forward nothing; connections stay open and new ones are accepted, as by a server that stands still."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def thaw(self) -> None:
        """Forward what was held back, and what comes."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    @property
    def connections(self) -> int:
        return len(self._open)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        for connection in self._open.copy():
            connection.close()

    async def _refuse(self) -> None:
        self._server.close()
        await self._cut()

    async def _close(self) -> None:
        self._flowing.set()
        await self._refuse()
        mine = asyncio.current_task()
        if serving := [task for task in asyncio.all_tasks() if task is not mine]:
            await asyncio.wait(serving, timeout=5)  # to cancel them would make asyncio complain

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = Stream(reader, writer)
        await self._flowing.wait()
        try:
            server = Stream(*await asyncio.open_connection("127.0.0.1", self.server_port))
        except OSError:
            client.close()
            return
        connection = self.connected(client, server)
        self._open.add(connection)
        pumps = [asyncio.create_task(pump) for pump in (self.to_server(connection), self.to_client(connection))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(connection)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            connection.close()

    def connected(self, client: Stream, server: Stream) -> Connection:
        return Connection(client, server)

    async def to_server(self, connection: Connection) -> None:
        await self._forward(connection.client, connection.server)

    async def to_client(self, connection: Connection) -> None:
        await self._forward(connection.server, connection.client)

    async def passes(self) -> None:
        """Wait as long as what is forwarded now has to."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._flowing.wait()

    async def _forward(self, source: Stream, sink: Stream) -> None:
        with suppress(OSError):
            while data := await source.reader.read(CHUNK):
                await self.passes()
                await sink.write(data)
