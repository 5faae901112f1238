"""Media files to frames at 5 Hz and sound at 16 kHz."""

import pathlib

import decord
import numpy as np
import soxr
from jaxtyping import Float, Float32, Int, Int16, UInt8

from fusion_emotion.prepare.settings import SAMPLE_RATE_HZ, STRIP_FRAMES

# decord does not tell a track's own rate, so it is asked for RAVDESS's (which then is untouched), and soxr does the
# one resampling that matters.
_DECODE_RATE_HZ = 48_000


class MediaError(Exception):
    """A file that cannot be read; the message is a quarantine's reason."""


def sample_times(duration_s: float) -> Float[np.ndarray, "T"]:
    """The times (k + 0.5) / 5 s within a clip, at least one."""
    return (np.arange(max(1, int(np.ceil(duration_s * STRIP_FRAMES - 0.5)))) + 0.5) / STRIP_FRAMES


def nearest(timestamps: Float[np.ndarray, "frames"], times: Float[np.ndarray, "T"]) -> Int[np.ndarray, "T"]:
    """The index of the frame nearest to each time; `timestamps` ascend."""
    right = np.clip(np.searchsorted(timestamps, times), 1, max(1, len(timestamps) - 1))
    left = right - 1
    right = np.minimum(right, len(timestamps) - 1)
    return np.where(times - timestamps[left] <= timestamps[right] - times, left, right)


def read_frames(path: pathlib.Path) -> UInt8[np.ndarray, "T H W 3"]:
    """The RGB frames of a video nearest to its sample times. Raises MediaError."""
    try:
        # One thread: the workers are the parallelism.
        video = decord.VideoReader(str(path), num_threads=1)
        if not len(video):
            raise MediaError("no frame can be decoded")
        spans = np.asarray(video.get_frame_timestamp(np.arange(len(video))), np.float32)
        start_s, end_s = spans[0, 0], spans[-1, 1]
        if not np.isfinite(end_s) or end_s <= start_s:
            raise MediaError("the frames carry no usable time stamps")
        indices = nearest(spans[:, 0] - start_s, sample_times(float(end_s - start_s)))
        return video.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
        raise MediaError(f"the picture cannot be decoded: {_one_line(error)}") from error


def read_audio(path: pathlib.Path) -> Int16[np.ndarray, "N"]:
    """The sound of a media file as 16 kHz mono. Raises MediaError, also where there is no audio track."""
    if path.suffix.lower() in (".wav", ".flac"):
        import soundfile

        try:
            sound, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise MediaError(f"the sound cannot be decoded: {_one_line(error)}") from error
        return resample(sound.mean(axis=1), rate_hz)
    try:
        # decord's own mono is the channels' sum over the square root of two, which clips what is loud.
        sound = decord.AudioReader(str(path), sample_rate=_DECODE_RATE_HZ, mono=False)[:].asnumpy()
    except (decord.DECORDError, RuntimeError, IndexError, ValueError) as error:
        message = _one_line(error)
        if "Can't find audio stream" in message:
            raise MediaError("no audio track") from error
        raise MediaError(f"the sound cannot be decoded: {message}") from error
    return resample(sound.mean(axis=0), _DECODE_RATE_HZ)


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
