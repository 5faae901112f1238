"""A folder that one process works in."""

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator
from typing import TextIO

from fusion_emotion.errors import UserError

_LOOK_EVERY_S = 0.2


@contextlib.contextmanager
def held(lock: pathlib.Path, busy: str, *, wait_for_heirs_s: float = 0.0) -> Iterator[int]:
    """Hold the file `lock`; the system lets go of it when the process ends, however it ends. Yields its descriptor.

    Processes that inherit the descriptor hold it too: where the one that they have it from is gone, they are waited for
    so many seconds. Raises UserError where others hold it; `busy` is the message, with {process} for their number.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_for_heirs_s
    with lock.open("a+") as file:
        while not _locks(file):
            file.seek(0)
            holder = file.read().strip()
            if _is_running(holder) or time.monotonic() >= deadline:
                raise UserError(busy.replace("{process}", holder or "unknown"))
            time.sleep(_LOOK_EVERY_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _locks(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
