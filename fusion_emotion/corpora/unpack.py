"""Unpacks an archive of RAVDESS: clips only, below the target only, never half a file under its own name."""

import copy
import errno
import os
import pathlib
import re
import shutil
import stat
import struct
import zipfile
import zlib

from fusion_emotion.errors import UserError
from fusion_emotion.files import sync

_CLIP = re.compile(r"Actor_\d\d/[\w-]+\.(?:mp4|wav)", re.ASCII)
_BLOCK_BYTES = 1 << 20
# The wav files shrink to about 40 %, the mp4 files not at all: more than this is no archive of the record.
_MOST_EXPANSION = 20


def unpack(archive: pathlib.Path, root: pathlib.Path) -> tuple[dict[str, int], list[str]]:
    """The clips of `archive`, written below `root`, with their sizes in bytes, and the members passed over.

    Nothing is written before every member's path has been looked at. A clip is written under a temporary
    name and gets its own once its size and CRC are those of the archive's directory: what is there is whole.

    Raises UserError for an archive that is not what it says (a path that leaves `root`, a link, a bomb) or
    that the disk cannot hold, and zipfile.BadZipFile for a damaged one.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            clips, passed_over = _clips(archive, opened)
            free = shutil.disk_usage(root).free
            needed = sum(info.file_size for info in clips)
            if needed > free:
                raise UserError(
                    f"{root}: {archive.name} unpacks to {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free: "
                    "make room and run the same command again"
                )
            for info in clips:
                _extract(opened, info, root / info.filename)
    except (zlib.error, struct.error, EOFError, NotImplementedError, ValueError) as error:
        # zipfile lets these through where a damaged archive misleads it
        raise zipfile.BadZipFile(f"{archive.name}: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which is a place before the archive's beginning
            raise
        raise zipfile.BadZipFile(f"{archive.name}: its directory is damaged") from error
    for folder in {(root / info.filename).parent for info in clips}:
        sync(folder)
    return {info.filename: info.file_size for info in clips}, passed_over


def _clips(archive: pathlib.Path, opened: zipfile.ZipFile) -> tuple[list[zipfile.ZipInfo], list[str]]:
    clips: dict[str, zipfile.ZipInfo] = {}
    passed_over = []
    for info in opened.infolist():
        fault = _fault(info)
        if info.filename in clips:
            fault = "is there twice"
        if fault:
            raise UserError(
                f"{archive}: member {info.filename!r} {fault}, which no archive of RAVDESS has; nothing was "
                "unpacked: delete the archive and check where it came from"
            )
        if _CLIP.fullmatch(info.filename):
            clips[info.filename] = info
        elif not info.filename.endswith("/"):  # folders are made as their clips need them
            passed_over.append(info.filename)
    if not clips:
        raise UserError(f"{archive}: no clip in it (Actor_XX/*.mp4 or *.wav): check where it came from")
    announced, packed = sum(info.file_size for info in clips.values()), archive.stat().st_size
    if announced > _MOST_EXPANSION * packed:
        raise UserError(
            f"{archive}: would unpack from {packed} to {announced} bytes, more than {_MOST_EXPANSION} times "
            "as much, which no archive of RAVDESS does; nothing was unpacked: delete the archive and check "
            "where it came from"
        )
    return list(clips.values()), passed_over


def _fault(info: zipfile.ZipInfo) -> str | None:
    name = info.filename
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "has an absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "has a path with .."
    if "\\" in name:
        return "has a path with a backslash"
    # Archives that were not made on Unix leave the kind of file at 0
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a symbolic link or a device"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed by an unusual method"
    return None


def _extract(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: pathlib.Path) -> None:
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    # zipfile stops at the announced size without a word: one byte more is asked for, to notice what goes on
    asked = copy.copy(info)
    asked.file_size += 1
    written = 0
    try:
        with opened.open(asked) as source, temporary.open("wb") as file:
            while block := source.read(_BLOCK_BYTES):
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if written != info.file_size:
            raise zipfile.BadZipFile(f"{info.filename} does not hold the {info.file_size} bytes announced")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
