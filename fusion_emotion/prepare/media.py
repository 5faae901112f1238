"""Media files to frames at 5 Hz and sound at 16 kHz."""

import contextlib
import pathlib
from collections.abc import Iterator

import av
import decord
import librosa
import numpy as np
from jaxtyping import Float, Float32, Int, Int16, UInt8

from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

# decord does not report a track's own rate. It is asked for RAVDESS's rate, so it leaves those tracks as they are and
# librosa does the only resampling.
_DECODE_RATE_HZ = 48_000

_DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError, ValueError)
KEPT_BYTES = 100_000_000  # frames kept for a second pass: 36 of 720p, 7 s
CHUNK_BYTES = 20_000_000  # frames decoded at a time in longer clips; decord itself needs several times as much


class MediaError(Exception):
    """A file that cannot be read; the message becomes the reason in its quarantine row."""


def sample_times(duration_s: float) -> Float[np.ndarray, "T"]:
    """Return the times (k + 0.5) / 5 s within a clip; at least one."""
    return (np.arange(max(1, int(np.ceil(duration_s * FRAME_RATE_HZ - 0.5)))) + 0.5) / FRAME_RATE_HZ


def nearest(timestamps: Float[np.ndarray, "frames"], times: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """Return the index of the frame nearest to each time; `timestamps` ascend."""
    right = np.clip(np.searchsorted(timestamps, times), 1, max(1, len(timestamps) - 1))
    left = right - 1
    right = np.minimum(right, len(timestamps) - 1)
    return np.where(times - timestamps[left] <= timestamps[right] - times, left, right)


def check_whole(path: pathlib.Path) -> None:
    """Raise MediaError for an empty file or an mp4 that ends before its boxes do.

    Decoders accept a truncated mp4 without an error if its index is at the front. The layout of the boxes is that of
    ISO/IEC 14496-12, 4.2: a 32-bit size, a type and, for size 1, a 64-bit size.
    """
    size = path.stat().st_size
    if not size:
        raise MediaError("the file is empty: fetch it again")
    if path.suffix.lower() not in (".mp4", ".mov", ".m4v"):
        return
    with path.open("rb") as file:
        start = 0
        while start + 8 <= size:
            file.seek(start)
            header = file.read(16)
            size_field = header[8:] if header[:4] == b"\0\0\0\1" else header[:4]
            length = int.from_bytes(size_field, "big")
            if length == 0 or not header[4:8].isalnum():  # the box reaches to the end of the file, or this is no mp4
                return
            start += max(length, 8)
    if start > size:
        raise MediaError(
            f"the file is cut short, {size} of at least {start} bytes: it cannot be decoded whole, fetch it again"
        )


class Video:
    """The frames of a video nearest to its sample times; `decoder` is "cpu" or "gpu" (NVDEC). Raises MediaError."""

    def __init__(self, path: pathlib.Path, *, decoder: str = "cpu"):
        try:
            # One thread: the workers run in parallel.
            context = decord.gpu(0) if decoder == "gpu" else decord.cpu(0)
            self._video = decord.VideoReader(str(path), ctx=context, num_threads=1)
            if not len(self._video):
                raise MediaError("no frame can be decoded")
            spans = np.asarray(self._video.get_frame_timestamp(np.arange(len(self._video))), np.float64)
        except _DECORD_ERRORS as error:
            raise MediaError(f"the picture cannot be decoded: {_one_line(error)}") from error
        start_s, end_s = spans[0, 0], spans[-1, 1]
        if not np.isfinite(end_s) or end_s <= start_s:
            raise MediaError("the frames carry no usable time stamps")
        self._path = path
        self._indices = nearest(spans[:, 0] - start_s, sample_times(float(end_s - start_s)))
        self.shape: tuple[int, int] = (0, 0)  # height and width; set when the first frame is decoded
        self._kept: UInt8[np.ndarray, "T H W 3"] | None = None

    def __len__(self) -> int:
        """Return the number of sample times, T."""
        return len(self._indices)

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the RGB frame of each sample time, in order.

        Short clips are decoded once and kept in memory for a second pass. Long clips are decoded again in each pass, a
        bounded number of frames at a time.
        """
        if self._kept is None:
            first = self._decode(self._indices[:1])
            self.shape = first.shape[1:3]
            if len(self) * first.nbytes > KEPT_BYTES:
                chunk = max(1, CHUNK_BYTES // first.nbytes)
                for start in range(0, len(self), chunk):
                    yield from self._decode(self._indices[start : start + chunk])
                return
            self._kept = self._decode(self._indices)
        yield from self._kept

    def _decode(self, indices: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W 3"]:
        try:
            return self._video.get_batch(indices).asnumpy()
        except _DECORD_ERRORS as error:
            # decord fails on some HEVC files that PyAV reads: it treats FFmpeg's EAGAIN as an error.
            frames = _decode_with_av(self._path, indices)
            if len(frames) < len(indices):
                raise MediaError(f"the picture cannot be decoded: {_one_line(error)}") from error
            return np.stack(frames)


def _decode_with_av(path: pathlib.Path, indices: Int[np.ndarray, "n"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return the frames of `indices` up to the first that cannot be decoded; none if the film needs rotation."""
    wanted_indices: list[int] = indices.tolist()
    frames: list[np.ndarray] = []
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as reader:
        for index, frame in enumerate(reader.decode(video=0)):
            if len(frames) == len(wanted_indices) or frame.rotation:
                break
            if index == wanted_indices[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames


def read_audio(path: pathlib.Path) -> Int16[np.ndarray, "N"]:
    """Read the sound of a media file as 16 kHz mono. Raises MediaError, also if there is no audio track."""
    mono, rate_hz = decode_audio(path)
    if not np.isfinite(mono).all():
        raise MediaError("the sound holds samples that are not finite numbers")
    return resample(mono, rate_hz)


def decode_audio(path: pathlib.Path) -> tuple[Float32[np.ndarray, "n"], int]:
    """Read the sound of a media file as mono in [-1, 1], and its rate in Hz. Raises MediaError."""
    if path.suffix.lower() in (".wav", ".flac"):
        import soundfile

        try:
            sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise MediaError(f"the sound cannot be decoded: {_one_line(error)}") from error
        return sound.mean(axis=1), rate_hz
    try:
        # decord's own mono is the sum of the channels over the square root of two, which clips loud sound. Its `[:]`
        # makes a Python list of all sample indices (2.5 GB for ten minutes), hence its private array.
        channels = decord.AudioReader(str(path), sample_rate=_DECODE_RATE_HZ, mono=False)._array
    except _DECORD_ERRORS as error:
        reason = f"the sound cannot be decoded: {_one_line(error)}"
        raise MediaError("no audio track" if "Can't find audio stream" in reason else reason) from error
    return channels.mean(axis=0), _DECODE_RATE_HZ


def resample(mono: Float32[np.ndarray, "n"], rate_hz: int) -> Int16[np.ndarray, "N"]:
    """Resample mono sound in [-1, 1] from `rate_hz` to 16 kHz and convert it to int16."""
    if rate_hz != SAMPLE_RATE_HZ:
        # The first call in a process loads numba and SciPy: 1.6 s and 170 MB. `fix` would pad by a zero.
        mono = librosa.resample(mono, orig_sr=rate_hz, target_sr=SAMPLE_RATE_HZ, res_type="soxr_hq", fix=False)
    return np.round(np.clip(mono, -1, 1) * np.iinfo(np.int16).max).astype(np.int16)


def _one_line(error: BaseException) -> str:
    """Return the message of a decord error without its stack."""
    text = str(error).strip().split("\n")[0]
    # "[12:00:00] /source/file.cc:123: Check failed: ... message"
    return text.split(".cc:", 1)[-1].split(": ", 1)[-1][:200] or type(error).__name__
