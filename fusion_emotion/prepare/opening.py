"""How a media file or an address is opened, and the limits that it is read within."""

from typing import Any

import av

from fusion_emotion.prepare.media_errors import reason

MOST_PIXELS = 100_000_000  # of a frame; one of 8K has 33 million
SILENT_S = 20.0  # a server may say nothing for so long
# libav decodes a picture already to tell its size: a larger one has none.
DECODING = {"max_pixels": str(MOST_PIXELS)}
# Titles need not be UTF-8. PyAV before 19 raises an error if it is not told otherwise; since then it keeps the bytes.
_METADATA: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def opened(source: str) -> "av.container.InputContainer":
    """Open a file or an address. Raises av.FFmpegError, also later if an address falls silent."""
    wait_s = SILENT_S if "://" in source else None
    return av.open(source, options=dict(DECODING), timeout=wait_s, **_METADATA)


def told(error: av.FFmpegError) -> str:
    """Return the reason of an error in reading what `opened` has opened."""
    return f"nothing came for {SILENT_S:.0f} s" if isinstance(error, av.error.ExitError) else reason(error)
