"""The worlds the conformance suites run against: the real one whole, the real one lacking each feature, and memory."""

from __future__ import annotations

from pathlib import Path

from kbroker.env import Disk, Net
from kbroker.env.features import Features
from kbroker.env.real_disk import RealDisk
from kbroker.env.real_net import RealNet
from kbroker.testing.disk import MemoryDisk
from kbroker.testing.net import MemoryNetwork

MEMORY = "memory"
REAL = "real"
BARE = "real-without-anything"
NET_FEATURES = ("sendfile", "sendmsg")
DISK_WORLDS = [MEMORY, REAL, BARE, *(f"real-without-{name}" for name in Features.names() if name not in NET_FEATURES)]
NET_WORLDS = [MEMORY, REAL, BARE, *(f"real-without-{name}" for name in NET_FEATURES)]


def features_of(world: str) -> Features:
    """The features of a real world by its name."""
    features = Features.detect()
    if world == REAL:
        return features
    return Features() if world == BARE else features.without(world.removeprefix("real-without-"))


def make_disk(world: str, root: Path) -> Disk:
    return MemoryDisk(seed=1) if world == MEMORY else RealDisk(str(root), features_of(world))


def make_net(world: str) -> Net:
    return MemoryNetwork(seed=1).host("here") if world == MEMORY else RealNet(features_of(world))
