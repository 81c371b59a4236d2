"""What lies under a path, by the table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbroker.env.features import Features
from kbroker.env.machine import filesystem_in, filesystem_of
from kbroker.env.real_disk import RealDisk

MOUNTS = r"""
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:25 / /mnt/data rw - nfs4 server:/export rw
31 30 0:26 / /mnt/data/local rw master:2 propagate_from:3 - xfs /dev/vdb rw
32 27 0:27 / /mnt/with\040space rw - cifs //server/share rw
33 27 0:28 / /mnt/stacked rw - ext4 /dev/vdc rw
34 33 0:29 / /mnt/stacked rw - tmpfs tmpfs rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/kafka", "ext4"),
        ("/mnt/data", "nfs4"),
        ("/mnt/data/broker-1", "nfs4"),
        ("/mnt/database", "ext4"),
        ("/mnt/data/local/1", "xfs"),
        ("/mnt/with space/x", "cifs"),
        ("/mnt/stacked/x", "tmpfs"),
    ],
)
def test_the_mount_that_covers_a_path_says_its_file_system(path: str, kind: str) -> None:
    assert filesystem_in(MOUNTS, path) == kind


def test_nothing_is_known_without_a_table(tmp_path: Path) -> None:
    assert filesystem_in("", "/home") == ""


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux tells")
def test_a_disk_knows_its_own(tmp_path: Path) -> None:
    disk = RealDisk(str(tmp_path / "data"), Features.detect())
    assert disk.filesystem() == filesystem_of(str(tmp_path)) != ""
    assert disk.elsewhere(str(tmp_path / "other"), create=True).root == str(tmp_path / "other")
