"""The picture of a media file: the frames nearest to given times, upright and with square pixels."""

import collections
import contextlib
import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import av
import decord
import numpy as np
from av.stream import Disposition
from jaxtyping import Float, Int, UInt8

from fusion_emotion.prepare.media_errors import MediaError, undecodable
from fusion_emotion.prepare.opening import opened

KEPT_BYTES = 100_000_000  # frames kept for a second pass: 36 of 720p, 7 s

# It shows wrong frames after a seek in an MPEG transport stream, and has no time stamps in an AVI.
_DECORD_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv")
_DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError, ValueError)
_MOST_DELAYED = 32  # packets before a decoder's first frame; H.264 and HEVC hold back 16 at most
_FRAME_S = 0.04  # duration of a film's only frame, if the file does not say
_LOST_SHARE = 0.1  # of the frames; a film that loses more is damaged
Turn = tuple[int, int, int, int]  # a, b, c, d of a display matrix, each -1, 0 or 1
_UPRIGHT: Turn = (1, 0, 0, 1)
_QUARTERS: tuple[Turn, ...] = (_UPRIGHT, (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))  # counter-clockwise
Seconds = float | np.ndarray

decord.logging.set_level(decord.logging.QUIET)


def nearest(timestamps: Float[np.ndarray, "frames"], times: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return the index of the frame nearest to each time, the earlier of two; `timestamps` ascend."""
    right = np.clip(np.searchsorted(timestamps, times), 1, max(1, len(timestamps) - 1))
    left = right - 1
    right = np.minimum(right, len(timestamps) - 1)
    return np.where(is_earlier_nearest(timestamps[left], times, timestamps[right]), left, right)


def is_earlier_nearest(before: Seconds, time: Seconds, after: Seconds) -> Any:
    """True if a time is nearer to `before` than to `after`, or as near: every sample time of a film of 25 fps is."""
    # Rounded, because time stamps are floats.
    return np.round(2 * time - before - after, 6) <= 0


def picture_start_s(path: pathlib.Path) -> float | None:
    """The time of the first frame, as the file says it; None without a picture."""
    with contextlib.suppress(av.FFmpegError, MediaError), opened(str(path)) as file:
        stream = picture_stream(file)
        if stream.start_time is not None and stream.time_base:
            return float(stream.start_time * stream.time_base)
    return None


class Video:
    """The frames nearest to `times_s`, in seconds on the clock of the file. Raises MediaError.

    The packets give the time of each frame. decord decodes plain films. PyAV decodes the films that decord cannot open
    or gets wrong: other containers, frames that an edit list leaves out, pixels that are not square, a display matrix.
    """

    def __init__(self, path: pathlib.Path, *, decoder: str = "cpu"):
        self._path = path
        try:
            is_plain = self._scan()
        except av.FFmpegError as error:
            raise undecodable("picture", error) from error
        self.start_s = float(self._frame_s[0])
        self.times_s: Float[np.ndarray, "T"] = self._frame_s
        self.shape: tuple[int, int] = (0, 0)  # height and width; set when the first frame is decoded
        self._kept: list[UInt8[np.ndarray, "H W 3"]] = []
        self._reader = self._open_decord(decoder) if is_plain else None

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the RGB frame of each time, in order.

        Short clips are decoded once and kept in memory for a second pass. Long clips are decoded again in each pass, by
        PyAV and so on the CPU: it keeps two frames in memory, decord more than twenty.
        """
        if self._kept:
            yield from self._kept
            return
        kept = []
        is_short = len(self.times_s) * self._frame_bytes <= KEPT_BYTES
        for frame in self._with_decord(self._reader) if self._reader and is_short else self._with_av():
            self.shape = frame.shape[:2]
            if is_short:
                kept.append(frame)
            yield frame
        self._kept = kept

    def _scan(self) -> bool:
        """Read the times of all frames, their turn and the shape of their pixels; True if decord gets them right."""
        stamps, ends = list[int](), list[int]()
        turn, is_plain = None, True
        with opened(str(self._path)) as file:
            stream = picture_stream(file)
            stream.codec_context.thread_count = 1
            for packet in file.demux(stream):
                is_plain &= not packet.is_discard
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size and stamp is not None and not packet.is_discard:
                    stamps.append(stamp)
                    ends.append(stamp + (packet.duration or 0))
                if turn is None and len(stamps) <= _MOST_DELAYED:
                    turn = _turn(packet)
            form, self._frame_bytes = file.format.name, max(1, 3 * stream.width * stream.height)
            self._unit_s, self._aspect = float(stream.time_base or 0), float(stream.sample_aspect_ratio or 1)
        if not stamps:
            raise MediaError("the picture cannot be decoded: it has no frame with a time stamp")
        self._frame_s = np.unique(stamps) * self._unit_s
        last_s = float(np.median(np.diff(self._frame_s))) if len(self._frame_s) > 1 else _FRAME_S
        self.end_s = max(ends) * self._unit_s + (last_s if max(ends) == max(stamps) else 0.0)
        self._turn = turn or _UPRIGHT
        return is_plain and form in _DECORD_FORMATS and self._aspect == 1 and self._turn == _UPRIGHT

    def _open_decord(self, decoder: str) -> decord.VideoReader | None:
        """Return decord's reader, or None if it cannot open the film or counts other frames."""
        context = decord.gpu(0) if decoder == "gpu" else decord.cpu(0)
        with contextlib.suppress(*_DECORD_ERRORS):
            # One thread: the workers run in parallel.
            reader = decord.VideoReader(str(self._path), ctx=context, num_threads=1)
            if len(reader) == len(self._frame_s):
                return reader
        return None

    def _with_decord(self, reader: decord.VideoReader) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        try:
            frames = reader.get_batch(nearest(self._frame_s, self.times_s)).asnumpy()
        except _DECORD_ERRORS:
            # decord fails on some HEVC files that PyAV reads: it treats FFmpeg's EAGAIN as an error.
            frames = self._with_av()
        yield from frames

    def _with_av(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Decode from the start, and yield the frame nearest to each time; only two frames are in memory."""
        wanted = collections.deque(self.times_s.tolist())
        before: tuple[float, av.VideoFrame] | None = None
        n_decoded = 0
        try:
            for time_s, frame in self._decoded():
                n_decoded += 1
                while wanted and wanted[0] <= time_s:
                    is_nearer = before and is_earlier_nearest(before[0], wanted[0], time_s)
                    yield upright(before[1] if before and is_nearer else frame, self._aspect, self._turn)
                    wanted.popleft()
                before = time_s, frame
                if not wanted:
                    break
        except av.FFmpegError as error:
            raise undecodable("picture", error) from error
        expected = int(np.searchsorted(self._frame_s, self.times_s[-1:]).sum())
        if before is None or n_decoded < (1 - _LOST_SHARE) * expected:
            raise MediaError(f"the picture cannot be decoded: {n_decoded} of {expected} frames are whole")
        for _ in wanted:
            yield upright(before[1], self._aspect, self._turn)

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield each frame with its time, passing over packets that cannot be decoded."""
        # Frames without a stamp of their own come in the order of those of the packets.
        count = itertools.count()
        with opened(str(self._path)) as file:
            stream = picture_stream(file)
            stream.codec_context.thread_count = 1
            for packet in file.demux(stream):
                with contextlib.suppress(av.error.InvalidDataError):
                    for frame in packet.decode():
                        place = min(next(count), len(self._frame_s) - 1)
                        yield self._frame_s[place] if frame.pts is None else frame.pts * self._unit_s, frame


def upright(frame: av.VideoFrame, aspect: float, turn: Turn) -> UInt8[np.ndarray, "H W 3"]:
    """Return a frame with square pixels, turned as its display matrix says; `aspect` is of a pixel."""
    # Stretch, never shrink, so that no pixel is lost.
    width, height = round(frame.width * max(1, aspect)), round(frame.height * max(1, 1 / aspect))
    picture = frame.to_ndarray(format="rgb24", width=width, height=height)
    a, b, c, d = turn
    if b or c:
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: d or 1, :: a or 1])


def picture_stream(file: "av.container.InputContainer") -> "av.VideoStream":
    """Return the best picture track. Raises MediaError if there is none but the cover of a song."""
    films = [stream for stream in file.streams.video if not stream.disposition & Disposition.attached_pic]
    best = file.streams.best("video")
    if not films or (films[0].codec_context is None and best is None):
        raise MediaError("no picture track")
    return best if best in films else films[0]


def _turn(packet: "av.Packet") -> Turn | None:
    """Decode a packet; return the turn of its frame, None before the first frame."""
    with contextlib.suppress(av.FFmpegError):
        for frame in packet.decode():
            return turn_of(frame)
    return None


def turn_of(frame: av.VideoFrame) -> Turn:
    """Return the signs of a frame's display matrix.

    A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2. Odd angles count as the nearest quarter.
    """
    try:
        side_data: Mapping[str, Any] = frame.side_data  # which PyAV's own annotation leaves out in part
    except ValueError:  # of a kind that PyAV 18 does not know, as EXIF is; degrees counter-clockwise
        return _QUARTERS[round(frame.rotation / 90) % 4]
    if "DISPLAYMATRIX" not in side_data:
        return _UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(side_data["DISPLAYMATRIX"]), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (1 if a >= 0 else -1, 0, 0, 1 if d >= 0 else -1)
    return (0, 1 if b >= 0 else -1, 1 if c >= 0 else -1, 0)
