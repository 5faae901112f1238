"""Worker processes that one bad clip cannot take down."""

import collections
import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_START = multiprocessing.get_context("spawn")  # a fork would copy the parent's threads' locks
_STARTUP_S = 120.0


def run(
    tasks: Iterable[Any],
    make_work: Callable[[Any], Callable[[Any], Any]],
    argument: Any,
    *,
    workers: int,
    timeout_s: float,
) -> Iterator[tuple[Any, Any, str]]:
    """Yield (task, result, reason) as tasks finish, in any order; `reason` is empty unless the task's worker was lost.

    `make_work(argument)` runs once in each spawned worker and returns the function of a task. A worker that dies
    (a segmentation fault in a decoder, the kernel's out-of-memory killer) or needs longer than `timeout_s` for one
    task costs that task only; a new worker takes its place. An exception in `make_work` is raised here.
    """
    waiting = collections.deque(tasks)
    pool: list[_Worker] = []
    try:
        while waiting or any(worker.task is not None for worker in pool):
            for worker in pool:
                if waiting and worker.task is None and worker.ready:
                    worker.give(waiting.popleft(), timeout_s)
            while waiting and len(pool) < workers:
                pool.append(_Worker(make_work, argument))
            first = max(0.0, min(worker.deadline for worker in pool) - time.monotonic())
            multiprocessing.connection.wait(
                [handle for worker in pool for handle in (worker.pipe, worker.process.sentinel)],
                min(first, 3600),
            )
            for worker in list(pool):
                lost = ""
                try:
                    if worker.pipe.poll():
                        kind, value = worker.pipe.recv()
                        if kind == "failed":
                            raise value
                        if kind == "done":
                            yield worker.task, value, ""
                        worker.rest()
                        continue
                    if not worker.process.is_alive():
                        lost = _death(worker.process)
                    elif time.monotonic() > worker.deadline:
                        lost = f"took longer than {timeout_s:g} s"
                except (EOFError, ConnectionResetError):
                    worker.process.join(5)
                    lost = _death(worker.process)
                if lost:
                    pool.remove(worker)
                    worker.stop()
                    if worker.task is None:
                        raise RuntimeError(f"a worker process {lost} before its first task")
                    yield worker.task, None, lost
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    def __init__(self, make_work: Callable[[Any], Callable[[Any], Any]], argument: Any):
        self.pipe, theirs = _START.Pipe()
        # Daemonic: it ends with its parent, also when the parent is interrupted.
        self.process = _START.Process(target=_serve, args=(theirs, make_work, argument), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None
        self.ready = False
        self.deadline = time.monotonic() + _STARTUP_S

    def give(self, task: Any, timeout_s: float) -> None:
        self.task = task
        self.deadline = time.monotonic() + timeout_s
        self.pipe.send(task)

    def rest(self) -> None:
        self.task, self.ready, self.deadline = None, True, float("inf")

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _death(process: Any) -> str:
    code = process.exitcode
    return f"died of signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _serve(pipe: Any, make_work: Callable[[Any], Callable[[Any], Any]], argument: Any) -> None:
    parent = os.getppid()
    try:
        work = make_work(argument)
    except BaseException as error:
        pipe.send(("failed", error))
        return
    pipe.send(("ready", None))
    while True:
        # A parent killed outright closes nothing in time: look for it now and then.
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            result = work(task)
        except BaseException as error:
            pipe.send(("failed", error))
            return
        pipe.send(("done", result))
