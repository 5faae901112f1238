"""Files that are written whole or not at all."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

from fusion_emotion.errors import UserError


@contextlib.contextmanager
def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a partial file to write; it becomes `path` if the block succeeds, else it is removed."""
    # The random name keeps two processes, on one machine or on two, from writing the same partial file. It is short,
    # since that of `path` may be as long as a name can be.
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The rename itself is durable once its folder is synced.
    sync(path.parent)


def sync(path: pathlib.Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expanded(path: str, *, field: str) -> pathlib.Path:
    """Return the absolute path of a config field, with "~" as the home folder. Raises UserError if there is none."""
    try:
        return pathlib.Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(
            f"{field}={path!r} needs a home folder, and this user has none: give a full path, or set HOME"
        ) from error


def is_utf8(path: str | pathlib.Path) -> bool:
    """True if the absolute path is UTF-8: the libraries that write checkpoints and shards take no other."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(pathlib.Path(path).absolute()))
