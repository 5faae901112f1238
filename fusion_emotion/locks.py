"""A folder that one process works in."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from fusion_emotion.errors import UserError


@contextlib.contextmanager
def held(lock: pathlib.Path, busy: str) -> Iterator[None]:
    """Hold the file `lock`; the system lets go of it when the process ends, however it ends.

    Raises UserError where another process holds it; `busy` is the message, with {process} for its number.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(busy.replace("{process}", file.read().strip() or "unknown")) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
