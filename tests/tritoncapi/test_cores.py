"""Cores that a thread may take to wait awake: a container's share of them counts, not what the host has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tritoncapi as tc


def limit(library: tc.Library, folder: Path, groups: str, files: dict[str, str]) -> int:
    """What these groups leave, with these files under the mount."""
    listed = folder / "cgroup"
    listed.write_text(groups)
    for name, text in files.items():
        file = folder / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return int(library.native.cores_of_groups(bytes(listed), bytes(folder / "mount")))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 0),
        ("0::/\n", {}, 0),
        ("", {}, 0),
        ("nonsense\n0:\n0:x\n0::relative\n", {"cpu.max": "200000 100000\n"}, 0),
        ("0::/\n", {"cpu.max": "many\n"}, 0),
        ("0::/\n", {"cpu.max": ""}, 0),
        ("0::/\n", {"cpu.max": "2200000000000 1000\n"}, 1 << 20),
        ("0::/\n", {"cpu.max": "4294967297 1\n"}, 1 << 20),
        # The least of all above.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "cpu.max": "800000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "300000 100000\n"}, 2),
        # A container without a name space of its own for groups: its group is mounted at the top.
        ("0::/system.slice/one.scope\n", {"cpu.max": "200000 100000\n"}, 2),
        # Version 1, alone and beside version 2.
        (
            "3:cpu,cpuacct:/d\n",
            {"cpu,cpuacct/d/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/d/cpu.cfs_period_us": "50000\n"},
            5,
        ),
        ("4:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0),
        ("2:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, 0),
        ("1:cpu:/d\n0::/d\n", {"cpu/d/cpu.cfs_quota_us": "600000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 6),
    ],
)
def test_limits_of_control_groups(
    library: tc.Library, tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    assert limit(library, tmp_path, groups, files) == cores


def test_long_names_are_no_harm(library: tc.Library, tmp_path: Path) -> None:
    deep = "/".join("a" * 90 for _ in range(8))
    assert limit(library, tmp_path, f"0::/{deep}\n", {f"{deep}/cpu.max": "700000 100000\n"}) == 7
    assert limit(library, tmp_path, f"0::/{'a' * 5000}\n0::/b\n", {"b/cpu.max": "200000 100000\n"}) == 2
    assert limit(library, tmp_path, "0::/\n", {"cpu.max": "3" * 5000}) == 0
    assert library.native.cores_of_groups(b"/nowhere", b"/nowhere") == 0


def test_no_more_than_may_be_used(library: tc.Library) -> None:
    assert 1 <= library.native.cores() <= len(os.sched_getaffinity(0))
    library.native.cores_set(1000)
    assert library.native.cores() == 1000
    library.native.cores_set(0)
    assert library.native.cores() < 1000
