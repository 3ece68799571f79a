"""
A TCP link that tests can cut, slow down and garble: real servers at both ends, trouble in between.
"""

from __future__ import annotations

import asyncio
import contextlib


class Link:
    """
    Forwards a loopback port to another one, counts what comes back, and breaks when told.

    Args:
        port: of the server behind it.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0
        self.received = 0
        # After how many more bytes from the server the link breaks; None means never.
        self.break_after: int | None = None
        # Seconds that what comes back takes longer.
        self.delay = 0.0
        # What comes back in place of what the server says; None means the truth.
        self.garbage: bytes | None = None
        # Whether what goes to the server passes, and what comes back.
        self._there, self._back = asyncio.Event(), asyncio.Event()
        self.release()

    async def up(self) -> None:
        """
        Accept connections, on the port of the last time.
        """
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """
        Refuse connections, and break those there are.
        """
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        if pumps := set(self._pumps):
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        await asyncio.sleep(0)

    def cut(self) -> None:
        """
        Break every connection, accept new ones.
        """
        for writer in tuple(self._writers):
            writer.transport.abort()

    def hang(self, *, there: bool = True, back: bool = True) -> None:
        """
        Keep connections and pass nothing on: to the server, or back from it.
        """
        if there:
            self._there.clear()
        if back:
            self._back.clear()

    def go_on(self) -> None:
        """
        Pass on again, over new connections.
        """
        self.cut()
        self.release()

    def release(self) -> None:
        """
        Pass on again what was held meanwhile, late.
        """
        self._there.set()
        self._back.set()

    @property
    def open(self) -> int:
        """
        How many connections there are.
        """
        return len(self._writers) // 2

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            # Nobody is there; so is nobody here.
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        pumps = [
            asyncio.create_task(self._pump(reader, back, counted=False)),
            asyncio.create_task(self._pump(there, writer, counted=True)),
        ]
        self._pumps.update(pumps)
        try:
            await asyncio.wait(pumps)
        finally:
            self._pumps.difference_update(pumps)
            self._writers -= {writer, back}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await (self._back if counted else self._there).wait()
                if counted:
                    self._count(len(data))
                    await asyncio.sleep(self.delay)
                    data = self.garbage or data
                sink.write(data)
                await sink.drain()
        sink.close()

    def _count(self, size: int) -> None:
        self.received += size
        if self.break_after is not None and self.received >= self.break_after:
            self.break_after = None
            self.cut()
