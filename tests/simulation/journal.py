"""A small service to try the simulated world on: clients hand in entries, a node writes them to a file.

    entry in the file and frame on the wire:   length (4 bytes), CRC-32 (4 bytes), text

The promise: an acknowledged entry is in the file once, whatever happens to the node. `early_ack` breaks it on purpose.
A failed sync leaves bytes that everybody can read and no later sync will write, not even another process's: so what
was not synced is cut off at once, before the program ends.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

import trio

from kbroker.env import Env, File, Stream
from kbroker.testing.world import Node, World

PORT = 7000
HEADER = struct.Struct(">II")
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, EOFError)


def frame(text: bytes) -> bytes:
    return HEADER.pack(len(text), zlib.crc32(text)) + text


def entries(data: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    """The whole entries from the beginning: (position behind it, text)."""
    position = 0
    while position + HEADER.size <= len(data):
        length, crc = HEADER.unpack_from(data, position)
        text = bytes(data[position + HEADER.size : position + HEADER.size + length])
        if len(text) < length or zlib.crc32(text) != crc or not length:
            return
        position += HEADER.size + length
        yield position, text


async def receive_frame(stream: Stream, buffer: bytearray) -> bytes:
    """The next frame; buffer holds what came after it."""
    space = memoryview(bytearray(4096))
    while True:
        for end, text in entries(buffer):
            del buffer[:end]
            return text
        received = await stream.receive_into(space)
        if not received:
            raise EOFError
        buffer += space[:received]


class Journal:
    """The node's program. early_ack: acknowledge what is not yet synced (a bug, planted)."""

    def __init__(self, env: Env, *, early_ack: bool = False) -> None:
        self.env = env
        self.early_ack = early_ack
        self.file: File
        self.known: set[bytes] = set()
        self.synced = 0  # bytes that are durable
        self.failed = False

    async def run(self) -> None:
        """Serve until the disk fails: then nothing can be trusted but a new scan by a new process."""
        lock = self.env.disk.lock(".lock")
        try:
            self.recover()
            listener = await self.env.net.listen("", PORT)
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(self.serve, await listener.accept(), nursery)
        except OSError:
            pass
        finally:
            lock.release()

    def recover(self) -> None:
        disk = self.env.disk
        self.file = disk.open("journal", create=True)
        disk.sync_dir("")
        for end, text in entries(disk.read("journal")):
            self.known.add(text)
            self.synced = end
        self.file.truncate(self.synced)
        self.file.sync()

    async def serve(self, stream: Stream, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        try:
            while True:
                text = await receive_frame(stream, buffer)
                await self.store(text)
                if self.failed:
                    nursery.cancel_scope.cancel()
                    return
                await stream.send([frame(text)])
        except BROKEN:
            await stream.aclose()

    async def store(self, text: bytes) -> None:
        """Append an entry once and make it durable; or note that the disk has failed."""
        try:
            if text not in self.known:
                self.file.append([frame(text)])
                self.known.add(text)
            if not self.early_ack:
                await self.env.offload(self.sync)
        except OSError:
            self.failed = True

    def sync(self) -> None:
        """Make durable what is there; cut it off when that fails."""
        size = self.file.size()
        try:
            self.file.sync()
            self.synced = max(self.synced, size)
        except OSError:
            self.failed = True
            self.file.truncate(self.synced)
            raise


async def hand_in(env: Env, node: str, texts: list[bytes], acknowledged: list[bytes]) -> None:
    """A client: hand in each text, again and again until it is acknowledged."""
    stream, buffer = None, bytearray()
    for text in texts:
        while text not in acknowledged:
            with trio.move_on_after(2):
                try:
                    if stream is None:
                        stream, buffer = await env.net.connect(node, PORT), bytearray()
                    await stream.send([frame(text)])
                    assert await receive_frame(stream, buffer) == text
                    acknowledged.append(text)
                    continue
                except BROKEN:
                    pass
            if stream:
                await stream.aclose()
            stream = None
            await env.clock.sleep(0.1)


class Nemesis:
    """Does something bad to a node every second or so."""

    def __init__(self, world: World, node: Node, early_ack: bool) -> None:
        self.world = world
        self.node = node
        self.early_ack = early_ack
        self.random: random.Random = world.random("fault")

    def start(self) -> None:
        """Start the node's program, if it does not run."""

        async def journal(env: Env) -> None:
            await Journal(env, early_ack=self.early_ack).run()

        if not self.node.running:
            self.node.start(journal)

    async def rage(self, seconds: float) -> None:
        """Faults for so long, then everything heals."""
        with trio.move_on_after(seconds):
            while True:
                await trio.sleep(self.random.expovariate(1))
                await self.random.choice([self.kill, self.power_loss, self.pause, self.cut, self.reset, self.fail])()
        self.world.network.heal()
        self.node.volume.heal()
        self.node.resume()
        self.start()
        while True:  # a failed sync may still end the program
            await trio.sleep(1)
            self.start()

    async def kill(self) -> None:
        self.node.kill()
        await trio.sleep(self.random.random())
        self.start()

    async def power_loss(self) -> None:
        self.node.power_loss()
        await trio.sleep(self.random.random())
        self.start()

    async def pause(self) -> None:
        self.node.pause()
        await trio.sleep(self.random.random() * 5)
        self.node.resume()

    async def cut(self) -> None:
        if self.random.random() < 0.5:
            self.world.network.cut(self.node.name, "*")
        else:
            self.world.network.isolate(self.node.name)
        await trio.sleep(self.random.random() * 5)
        self.world.network.heal()

    async def reset(self) -> None:
        self.world.network.reset(self.node.name)

    async def fail(self) -> None:
        self.node.volume.fail(self.random.choice(["sync", "append"]), nth=self.random.randint(1, 5))
        self.start()


async def journal_under_faults(world: World, *, early_ack: bool = False, seconds: float = 15) -> list[bytes]:
    """Three clients, one node, faults. Returns what was acknowledged; AssertionError when the promise is broken."""
    node = world.node("journal")
    nemesis = Nemesis(world, node, early_ack)
    acknowledged: list[bytes] = []
    nemesis.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(nemesis.rage, seconds)
        async with trio.open_nursery() as clients:
            for name in ("alice", "bob", "carol"):
                texts = [b"%s-%d" % (name.encode(), n) for n in range(60)]
                clients.start_soon(hand_in_slowly, world, name, texts, acknowledged)
        nursery.cancel_scope.cancel()
    node.kill()
    written = [text for _, text in entries(bytes(node.volume.inode("journal").data))]
    assert len(set(written)) == len(written), "written twice"
    assert set(acknowledged) <= set(written), "acknowledged and lost"
    return acknowledged


async def hand_in_slowly(world: World, name: str, texts: list[bytes], acknowledged: list[bytes]) -> None:
    """A client that works about as long as the nemesis rages."""
    env, pause = world.client_env(name), world.random(f"client/{name}")
    for text in texts:
        await env.clock.sleep(pause.random() * 0.5)
        await hand_in(env, "journal", [text], acknowledged)
