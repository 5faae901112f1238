"""Workers follow the cores that are granted, not those of the machine."""

import os
import pathlib
import subprocess
import sys

import pytest

from conftest import ROOT
from fusion_emotion.cores import cores

GRANTED = len(os.sched_getaffinity(0))


def test_the_affinity_mask_counts() -> None:
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{first}]); from fusion_emotion.cores import cores; print(cores())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "1\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/job\n", {"job/cpu.max": "50000 100000"}, 1),
        (
            "0::/job/step\n",
            {"cpu.max": "max 100000", "job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000"},
            1,
        ),
        ("0::/job\n", {"job/cpu.max": "6400000 100000"}, GRANTED),
        ("0::/elsewhere\n", {"cpu.max": "100000 100000"}, 1),  # a container sees its own group as the root
        ("4:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "90000", "cpu/job/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, GRANTED),
        ("4:memory:/job\n", {"cpu/job/cpu.cfs_quota_us": "1", "cpu/job/cpu.cfs_period_us": "100000"}, GRANTED),
    ],
)
def test_the_quota_of_a_cgroup_counts(tmp_path: pathlib.Path, own: str, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert cores(cgroups=tmp_path / "fs", own=tmp_path / "own") == expected
