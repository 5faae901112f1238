"""A worker that dies or hangs costs one task; there are as many as the process may use cores."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from fusion_emotion.cores import cores
from fusion_emotion.prepare import pool


def make_work(argument):
    if argument == "fails":
        raise RuntimeError("no such detector")

    def work(task):
        kind, value = task
        if kind == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "leave":
            os._exit(3)
        if kind == "hang":
            time.sleep(60)
        if kind == "raise":
            raise value
        return value * 2

    return work


def test_every_task_comes_back_once_with_its_result():
    tasks = [("double", i) for i in range(20)]
    done = list(pool.run(tasks, make_work, None, workers=2, timeout_s=30))
    assert sorted(done) == [(task, task[1] * 2, "") for task in tasks]


def test_lost_workers_cost_their_task_only():
    tasks = [("double", 1), ("die", 2), ("double", 3), ("leave", 4), ("hang", 5), ("double", 6)]
    done = {task: (result, lost) for task, result, lost in pool.run(tasks, make_work, None, workers=2, timeout_s=2)}
    assert done == {
        ("double", 1): (2, ""),
        ("die", 2): (None, "died of signal 11"),
        ("double", 3): (6, ""),
        ("leave", 4): (None, "ended with exit code 3"),
        ("hang", 5): (None, "took longer than 2 s"),
        ("double", 6): (12, ""),
    }


def test_a_failing_start_is_raised():
    with pytest.raises(RuntimeError, match="no such detector"):
        list(pool.run([("double", 1)], make_work, "fails", workers=1, timeout_s=30))


@pytest.mark.parametrize("error", [ValueError("a bug"), EOFError("a bug")])
def test_an_error_of_the_work_is_raised(error):
    with pytest.raises(type(error), match="a bug"):
        list(pool.run([("raise", error)], make_work, None, workers=1, timeout_s=30))


def make_slow_work(argument):
    def work(task):
        time.sleep(0.1)
        return os.getpid()

    return work


@pytest.mark.slow
def test_workers_end_soon_after_their_parent_is_killed():
    code = (
        "import test_pool; from fusion_emotion.prepare import pool\n"
        "for _, worker, _ in pool.run(range(1000), test_pool.make_slow_work, None, workers=2, timeout_s=30):\n"
        "    print(worker, flush=True)"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    workers = {parent.stdout.readline().strip() for _ in range(10)}
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while any(pathlib.Path("/proc", worker).exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "5000 100000"}, 1),
        ("0::/a/b", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, 4),  # of a parent
        ("0::/not/mounted/here", {"cpu.max": "200000 100000"}, 2),
        ("3:cpuset:/\n4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "50000"}, 3),
        ("4:cpu,cpuacct:/a", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_cores_follow_the_quota_of_the_cgroup(tmp_path, monkeypatch, own, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    assert cores(cgroups=tmp_path, own=tmp_path / "own") == expected


def test_cores_follow_the_affinity():
    code = "import os; from fusion_emotion.cores import cores; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; print(cores())"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1\n"
