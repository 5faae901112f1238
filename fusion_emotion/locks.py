"""A lock file, so that only one process works in a folder."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from fusion_emotion.errors import UserError


def held_workdir(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Hold the lock of a workdir, which is made if needed. Raises UserError if it is held or cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(workdir, os.W_OK) else "no permission"
    except OSError as error:
        reason = os.strerror(error.errno or 0)
    if reason:
        raise UserError(f"{workdir} cannot be written ({reason}): choose another --workdir")
    busy = f"{workdir} is in use by process {{process}}: wait for it or stop it, or choose another --workdir"
    return held(workdir / ".lock", busy)


@contextlib.contextmanager
def held(lock: pathlib.Path, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `lock`; the system frees it when the process ends.

    If another process holds it, raise UserError with the message `busy`, in which {process} stands for its number. With
    `wait`, print the message and wait instead.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            message = busy.replace("{process}", file.read().strip() or "unknown")
            if not wait:
                raise UserError(message) from error
            print(message, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
