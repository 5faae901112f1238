"""A worker that dies or hangs costs one task."""

import os
import signal
import time

import pytest

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
            raise ValueError("a bug")
        return value * 2

    return work


def test_every_task_comes_back_once_with_its_result():
    tasks = [("double", i) for i in range(20)]
    done = list(pool.run(tasks, make_work, None, workers=2, timeout_s=30))
    assert sorted(done) == [(task, task[1] * 2, "") for task in tasks]


def test_lost_workers_cost_their_task_only():
    tasks = [("double", 1), ("die", 2), ("double", 3), ("leave", 4), ("hang", 5), ("double", 6)]
    done = {task: (result, lost) for task, result, lost in pool.run(tasks, make_work, None, workers=2, timeout_s=3)}
    assert done == {
        ("double", 1): (2, ""),
        ("die", 2): (None, "died of signal 11"),
        ("double", 3): (6, ""),
        ("leave", 4): (None, "ended with exit code 3"),
        ("hang", 5): (None, "took longer than 3 s"),
        ("double", 6): (12, ""),
    }


def test_a_failing_start_is_raised():
    with pytest.raises(RuntimeError, match="no such detector"):
        list(pool.run([("double", 1)], make_work, "fails", workers=1, timeout_s=30))


def test_a_bug_in_the_work_is_raised():
    with pytest.raises(ValueError, match="a bug"):
        list(pool.run([("raise", 1)], make_work, None, workers=1, timeout_s=30))
