"""The reasons for which a media file cannot be read."""

import av


class MediaError(Exception):
    """A file that cannot be read; the message becomes the reason in its quarantine row."""


def reason(error: av.FFmpegError) -> str:
    """Return FFmpeg's last message, or the meaning of its error number: no path and no time, so equal in each run."""
    log: tuple = error.log or ()  # level, part of FFmpeg and message, where `media.quiet` captures them
    message = str(log[-1]) if log else ""
    return " ".join((message or error.strerror or type(error).__name__).split())[:200].rstrip(".")
