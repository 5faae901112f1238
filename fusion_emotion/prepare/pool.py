"""Worker processes: a clip that crashes or hangs one of them costs only that clip."""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy locks that the parent's threads hold
_STARTUP_S = 120.0
_LONGEST_WAIT_S = 3600.0
_CHECK_PARENT_S = 1.0

MakeWork = Callable[[Any], Callable[[Any], Any]]


def run(
    tasks: Iterable[Any], make_work: MakeWork, argument: Any, *, workers: int, timeout_s: float
) -> Iterator[tuple[Any, Any, str]]:
    """Yield (task, result, reason) as tasks finish, in any order; `reason` is empty unless the task's worker was lost.

    `make_work(argument)` runs once in each spawned worker and returns the function that does a task. If a worker dies
    (a segmentation fault in a decoder, the out-of-memory killer) or needs longer than `timeout_s` for a task, only that
    task is lost, and a new worker replaces it. Exceptions of `make_work` and of the function are raised here.
    """
    waiting = collections.deque(tasks)
    pool: list[_Worker] = []
    try:
        while waiting or any(worker.task is not None for worker in pool):
            for worker in pool:
                if waiting and worker.is_ready and worker.task is None:
                    worker.begin(waiting.popleft(), timeout_s)
            while waiting and len(pool) < workers:
                pool.append(_Worker(make_work, argument))
            # Until a worker sends a message, ends or reaches its deadline.
            wait_s = max(0.0, min(worker.deadline for worker in pool) - time.monotonic())
            handles = [handle for worker in pool for handle in (worker.pipe, worker.process.sentinel)]
            multiprocessing.connection.wait(handles, min(wait_s, _LONGEST_WAIT_S))
            for worker in list(pool):
                event, value = worker.poll()
                if event == "failed":
                    raise value
                if event == "done":
                    yield worker.task, value, ""
                    worker.rest()
                if event == "lost":
                    pool.remove(worker)
                    worker.stop()
                    if not worker.is_ready:
                        raise RuntimeError(f"a worker process {value} before its first task")
                    if worker.task is not None:
                        yield worker.task, None, value
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    def __init__(self, make_work: MakeWork, argument: Any):
        self.pipe, child_pipe = _SPAWN.Pipe()
        # Daemonic: it ends with its parent, also when the parent is interrupted.
        self.process = _SPAWN.Process(target=_serve, args=(child_pipe, make_work, argument), daemon=True)
        # Ctrl-C in a terminal reaches all processes: the workers inherit that they do not receive it. The tracker's
        # start would end the blocking.
        multiprocessing.resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child_pipe.close()
        self.task: Any = None
        self.is_ready = False
        self._set_limit(_STARTUP_S)

    def begin(self, task: Any, timeout_s: float) -> None:
        self.task = task
        self._set_limit(timeout_s)
        with contextlib.suppress(BrokenPipeError):  # the worker has died, which `poll` will report
            self.pipe.send(task)

    def rest(self) -> None:
        self.task = None
        self._set_limit(float("inf"))

    def poll(self) -> tuple[str, Any]:
        """Return "done" and the result, "failed" and the error, "lost" and the reason, or an event without meaning."""
        try:
            if self.pipe.poll():
                event, value = self.pipe.recv()
                if event == "ready":
                    self.is_ready = True
                    self.rest()
                return event, value
        except (EOFError, ConnectionResetError):
            self.process.join(5)
            return "lost", self._cause_of_death()
        if not self.process.is_alive():
            return "lost", self._cause_of_death()
        if time.monotonic() > self.deadline:
            return "lost", f"took longer than {self._limit_s:g} s"
        return "nothing", None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _set_limit(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self.deadline = time.monotonic() + limit_s

    def _cause_of_death(self) -> str:
        code = self.process.exitcode
        return f"died of signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


def _serve(pipe: Any, make_work: MakeWork, argument: Any) -> None:
    """Do the tasks that come through the pipe until the parent ends; runs in the worker."""
    parent = os.getppid()
    # The pipe closes when the parent ends; if it was killed, the pipe may stay open.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        event, work = _attempt(make_work, argument)
        pipe.send((event, work) if event == "failed" else ("ready", None))
        while event != "failed":
            while not pipe.poll(_CHECK_PARENT_S):
                if os.getppid() != parent:
                    return
            event, result = _attempt(work, pipe.recv())
            pipe.send((event, result))


def _attempt(function: Callable[[Any], Any], argument: Any) -> tuple[str, Any]:
    """Return "done" and what the function returns, or "failed" and what it raises."""
    try:
        return "done", function(argument)
    except BaseException as error:
        return "failed", error
