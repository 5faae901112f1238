"""Media files to frames at 5 Hz and sound at 16 kHz."""

import contextlib
import pathlib
from collections.abc import Iterator

import av
import decord
import numpy as np
import soxr
from jaxtyping import Float, Float32, Int, Int16, UInt8

from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

# decord does not tell a track's own rate, so it is asked for RAVDESS's (which then is untouched), and soxr does the
# one resampling that matters.
_DECODE_RATE_HZ = 48_000


_DECORD_ERRORS = (decord.DECORDError, RuntimeError, IndexError, ValueError)
_KEPT_BYTES = 100_000_000  # of the frames of a clip that is decoded once: 36 of 720p, 7 s
_CHUNK_BYTES = 20_000_000  # of a longer clip, at a time; decord holds several times as much itself


class MediaError(Exception):
    """A file that cannot be read; the message is a quarantine's reason."""


def sample_times(duration_s: float) -> Float[np.ndarray, "T"]:
    """The times (k + 0.5) / 5 s within a clip, at least one."""
    return (np.arange(max(1, int(np.ceil(duration_s * FRAME_RATE_HZ - 0.5)))) + 0.5) / FRAME_RATE_HZ


def nearest(timestamps: Float[np.ndarray, "frames"], times: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """The index of the frame nearest to each time; `timestamps` ascend."""
    right = np.clip(np.searchsorted(timestamps, times), 1, max(1, len(timestamps) - 1))
    left = right - 1
    right = np.minimum(right, len(timestamps) - 1)
    return np.where(times - timestamps[left] <= timestamps[right] - times, left, right)


def check_whole(path: pathlib.Path) -> None:
    """Raise MediaError for an empty file or an mp4 that ends before its boxes do.

    An mp4 with its index in front is decoded without complaint however much is missing behind. The boxes of the file
    are laid out by ISO/IEC 14496-12, 4.2: a 32-bit size, a type and, for size 1, a 64-bit size.
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
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length == 0 or not header[4:8].isalnum():  # to the end of the file; or no mp4 at all
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
            # One thread: the workers are the parallelism.
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
        self.shape: tuple[int, int] = (0, 0)  # height and width, known from the first frame on
        self._kept: UInt8[np.ndarray, "T H W 3"] | None = None

    def __len__(self) -> int:
        """The number of sample times, T."""
        return len(self._indices)

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The RGB frame of each sample time, in order.

        A clip of usual length is decoded once and kept, so that a second pass costs nothing; a long one is decoded
        again in each pass, a bounded number of frames at a time.
        """
        if self._kept is not None:
            yield from self._kept
            return
        first = self._decode(self._indices[:1])
        self.shape = first.shape[1:3]
        if len(self) * first.nbytes <= _KEPT_BYTES:
            self._kept = self._decode(self._indices)
            yield from self._kept
            return
        chunk = max(1, _CHUNK_BYTES // first.nbytes)
        for start in range(0, len(self), chunk):
            yield from self._decode(self._indices[start : start + chunk])

    def _decode(self, indices: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n H W 3"]:
        try:
            return self._video.get_batch(indices).asnumpy()
        except _DECORD_ERRORS as error:
            # Some HEVC files stop decord short (its decoder takes FFmpeg's "again" for an error), and not PyAV.
            frames = _decode_with_av(self._path, indices)
            if len(frames) < len(indices):
                raise MediaError(f"the picture cannot be decoded: {_one_line(error)}") from error
            return np.stack(frames)


def _decode_with_av(path: pathlib.Path, indices: Int[np.ndarray, "n"]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The frames of `indices`, as many as can be decoded; none of a film that is to be turned."""
    wanted: list[int] = indices.tolist()
    frames: list[np.ndarray] = []
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as reader:
        for index, frame in enumerate(reader.decode(video=0)):
            if len(frames) == len(wanted) or frame.rotation:
                break
            if index == wanted[len(frames)]:
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames


def read_audio(path: pathlib.Path) -> Int16[np.ndarray, "N"]:
    """The sound of a media file as 16 kHz mono. Raises MediaError, also where there is no audio track."""
    return resample(*decode_audio(path))


def decode_audio(path: pathlib.Path) -> tuple[Float32[np.ndarray, "n"], int]:
    """The sound of a media file as mono in [-1, 1] and its rate in Hz. Raises MediaError."""
    if path.suffix.lower() in (".wav", ".flac"):
        import soundfile

        try:
            sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise MediaError(f"the sound cannot be decoded: {_one_line(error)}") from error
        return sound.mean(axis=1), rate_hz
    try:
        # decord's own mono is the channels' sum over the square root of two, which clips what is loud. Its `[:]` makes
        # a Python list of every sample's index (2.5 GB for ten minutes), so its array is taken as it is.
        channels = decord.AudioReader(str(path), sample_rate=_DECODE_RATE_HZ, mono=False)._array
    except _DECORD_ERRORS as error:
        message = _one_line(error)
        if "Can't find audio stream" in message:
            raise MediaError("no audio track") from error
        raise MediaError(f"the sound cannot be decoded: {message}") from error
    return channels.mean(axis=0), _DECODE_RATE_HZ


def resample(mono: Float32[np.ndarray, "n"], rate_hz: int) -> Int16[np.ndarray, "N"]:
    """Mono sound in [-1, 1] at `rate_hz` as int16 at 16 kHz, by soxr's high-quality recipe (librosa's `soxr_hq`)."""
    if rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="HQ")
    return np.round(np.clip(mono, -1, 1) * np.iinfo(np.int16).max).astype(np.int16)


def _one_line(error: BaseException) -> str:
    """The message of decord's errors without their stack."""
    text = str(error).strip().split("\n")[0]
    # "[12:00:00] /source/file.cc:123: Check failed: ... message"
    return text.split(".cc:", 1)[-1].split(": ", 1)[-1][:200] or type(error).__name__
