"""The reasons for which a media file cannot be read."""

import errno

import av

_OF_THE_MACHINE = (errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EACCES)


class MediaError(Exception):
    """A file that cannot be read; the message becomes the reason in its quarantine row."""


def reason(error: av.FFmpegError) -> str:
    """Return FFmpeg's last message, or the meaning of its error number: no path and no time, so equal in each run."""
    log: tuple = error.log or ()  # level, part of FFmpeg and message, where `media.quiet` captures them
    message = str(log[-1]) if log else ""
    return " ".join((message or error.strerror or type(error).__name__).split())[:200].rstrip(".")


def undecodable(track: str, error: av.FFmpegError) -> Exception:
    """Return the error of a track that cannot be decoded; one of the disk or of memory stays that, and is retried."""
    if isinstance(error, OSError | MemoryError) and error.errno in _OF_THE_MACHINE:
        return error
    return MediaError(f"the {track} cannot be decoded: {reason(error)}")
