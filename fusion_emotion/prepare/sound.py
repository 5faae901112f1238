"""The sound of a media file, at 16 kHz and mono."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Generator, Iterator

import av
import numpy as np
import soxr
from jaxtyping import Float32, Int16

from fusion_emotion.prepare.media_errors import MediaError, reason, undecodable
from fusion_emotion.prepare.opening import opened
from fusion_emotion.units import SAMPLE_RATE_HZ

BLOCK_S = 60  # longer sound is resampled in blocks, so that memory stays bounded

_JUDGED_S = 10  # of sound from the first signal on decide whether the channels cancel, where a film is read once
_CONTEXT_S = 1  # of sound on both sides of a block; soxr's filter is shorter
_SILENT_PEAK = 1e-3  # of full scale: dither and codec noise stay below
_WILD_PEAK = 10.0  # of full scale, which a file of floats may exceed a little
_CANCELLED = 0.1  # power of the mean of the channels, as a share of the loudest one's: 10 dB lost
_STEP_S = 0.01  # a smaller step between time stamps is rounding
LONGEST_GAP_S = 3600.0
_LOST_SHARE = 0.1  # of the packets; sound that loses more is damaged
_FULL_SCALE = np.iinfo(np.int16).max


@dataclasses.dataclass(frozen=True)
class Sound:
    """The sound of a file from its first sample on; `note` says what is unusual about it."""

    waveform: Int16[np.ndarray, "N"]
    start_s: float  # on the clock of the file
    note: str = ""


def read_sound(path: pathlib.Path) -> Sound:
    """Read the first audio track with a signal. Raises MediaError, also if there is none."""
    try:
        with opened(str(path)) as file:
            n_tracks = len(file.streams.audio)
        if not n_tracks:
            raise MediaError("no audio track")
        for track in range(n_tracks):
            sound = _read_track(path, track)
            if sound:
                return sound
    except av.FFmpegError as error:
        raise undecodable("sound", error) from error
    raise MediaError("a silent audio track" if n_tracks == 1 else f"{n_tracks} silent audio tracks")


def _read_track(path: pathlib.Path, track: int) -> Sound | None:
    """Read an audio track: the mean of its channels, or the loudest one if they cancel each other; None: silence."""
    decoder = Decoder(path, track)
    waveform = np.concatenate([*resampled(decoder)])
    # An offset (DC) is no signal.
    if decoder.channel_span.max() < 2 * _SILENT_PEAK:
        return None
    loudest = int(np.argmax(decoder.channel_energy))
    if decoder.energy >= _CANCELLED * decoder.channel_energy[loudest]:
        return Sound(waveform, decoder.start_s, decoder.note)
    decoder = Decoder(path, track, channel=loudest)
    notes = [f"the channels cancel each other, so the sound is channel {loudest + 1} alone", decoder.note]
    return Sound(np.concatenate([*resampled(decoder)]), decoder.start_s, "; ".join(filter(None, notes)))


def first_heard(path: pathlib.Path | str, n_tracks: int) -> tuple[int, int | None, float, int]:
    """Return the first of `n_tracks` audio tracks with a signal: its number, channel, start in seconds and rate in Hz.

    The start is on the clock of the file. The channel is None for the mean of all; it is the loudest one if they cancel
    each other in the first 10 s after the first signal. Reads no further than that. Raises MediaError if there is no
    signal.
    """
    if not n_tracks:
        raise MediaError("no audio track")
    for track in range(n_tracks):
        decoder, n_heard = Decoder(path, track), 0
        with contextlib.closing(iter(decoder)) as blocks:
            try:
                for block in blocks:
                    is_heard = decoder.channel_span.max() >= 2 * _SILENT_PEAK
                    n_heard += len(block) if is_heard else 0
                    if n_heard > _JUDGED_S * decoder.rate_hz:
                        break
            except (av.FFmpegError, MediaError):
                if not n_heard:
                    raise
        if decoder.channel_span.max() >= 2 * _SILENT_PEAK:
            loudest = int(np.argmax(decoder.channel_energy))
            cancels = decoder.energy < _CANCELLED * decoder.channel_energy[loudest]
            return track, loudest if cancels else None, decoder.start_s, decoder.rate_hz
    raise MediaError("a silent audio track" if n_tracks == 1 else f"{n_tracks} silent audio tracks")


class Decoder:
    """Yields the sound of a track as mono blocks in [-1, 1] without gaps, placed by their time stamps."""

    def __init__(self, path: pathlib.Path | str, track: int, channel: int | None = None):
        self._path, self._track, self._channel = path, track, channel
        self.rate_hz = 0
        self.start_s = 0.0
        self.note = ""
        self.energy = 0.0  # of the mono sound
        self.channel_energy, self._lowest, self._highest = (np.zeros(1) for _ in range(3))

    @property
    def channel_span(self) -> np.ndarray:
        """The distance from the lowest to the highest sample of each channel."""
        return self._highest - self._lowest

    def __iter__(self) -> Generator[Float32[np.ndarray, "n"]]:
        place = n_decoded = n_packets = 0
        lost: list[str] = []
        with opened(str(self._path)) as file:
            stream = file.streams.audio[self._track]
            if stream.codec_context is None:
                raise MediaError("the sound cannot be decoded: its codec is unknown")
            stream.codec_context.thread_count = 1
            for packet in file.demux(stream):
                n_packets += 1
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    lost.append(reason(error))
                    continue
                for frame in frames:
                    block = self._mono(frame)
                    n_decoded += len(block)
                    due = place if frame.time is None else round((frame.time - self.start_s) * self.rate_hz)
                    gap = due - place
                    if abs(gap) > LONGEST_GAP_S * self.rate_hz:
                        raise MediaError("the sound cannot be decoded: its time stamps jump by more than an hour")
                    if gap > _STEP_S * self.rate_hz:
                        yield np.zeros(gap, np.float32)
                        place = due
                    if gap < -_STEP_S * self.rate_hz:
                        block = block[-gap:]
                    place += len(block)
                    yield block
            self._check(file.format.name, stream, n_decoded, n_packets, lost)

    def _mono(self, frame: av.AudioFrame) -> Float32[np.ndarray, "n"]:
        """Return the mono sound of a frame, and add up its energy."""
        channels = channels_of(frame)
        if not self.rate_hz:
            self.rate_hz, self.start_s = frame.sample_rate, frame.time or 0.0
            self.channel_energy = np.zeros(len(channels))
            self._lowest, self._highest = channels[:, :1].min(axis=1), channels[:, :1].max(axis=1)
        if frame.sample_rate != self.rate_hz or len(channels) != len(self.channel_energy):
            raise MediaError("the sound cannot be decoded: its sampling rate or its channels change")
        self._lowest = np.minimum(self._lowest, channels.min(axis=1))
        self._highest = np.maximum(self._highest, channels.max(axis=1))
        peak = float(np.maximum(self._highest, -self._lowest).max())
        if not np.isfinite(peak):
            raise MediaError("the sound holds samples that are not finite numbers")
        if peak > _WILD_PEAK:
            raise MediaError(f"the sound holds samples of {peak:.3g} times full scale: it is no sound in [-1, 1]")
        mono = channels.mean(axis=0) if self._channel is None else channels[self._channel]
        self.energy += float(np.square(mono, dtype=np.float64).sum())
        self.channel_energy += np.square(channels, dtype=np.float64).sum(axis=1)
        return mono

    def _check(self, form: str, stream: av.AudioStream, n_decoded: int, n_packets: int, lost: list[str]) -> None:
        """Raise MediaError if too little of the track was decoded."""
        # FLAC's header has the number of samples, 0 if it was not known when the file was begun.
        expected = round((stream.duration or 0) * float(stream.time_base or 0) * self.rate_hz) if form == "flac" else 0
        if n_decoded < expected:
            raise MediaError(f"the file is cut short, {n_decoded} of {expected} samples: fetch it again")
        if not n_decoded or len(lost) > _LOST_SHARE * n_packets:
            raise MediaError(f"the sound cannot be decoded: {lost[-1] if lost else 'no sample of it'}")
        if lost:
            self.note = f"{len(lost)} of {n_packets} blocks of sound cannot be decoded and are silence"


def channels_of(frame: av.AudioFrame) -> Float32[np.ndarray, "channels n"]:
    """Return the samples of a frame as floats, full scale at 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    scale = 1.0 if samples.dtype.kind == "f" else 2.0 ** (8 * samples.itemsize - 1)
    return samples.astype(np.float32) / np.float32(scale)


def resampled(decoder: Decoder) -> Iterator[Int16[np.ndarray, "n"]]:
    """Yield the blocks of a decoder at 16 kHz; long sound in blocks of its own, so that memory stays bounded.

    Raises what the decoder raises, after the sound before it.
    """
    held: list[np.ndarray] = []
    n_held = before = 0  # samples; those before the block, which are resampled already
    broken: av.FFmpegError | MediaError | None = None
    samples = iter(decoder)
    while True:
        try:
            held.append(next(samples))
        except StopIteration:
            break
        except (av.FFmpegError, MediaError) as error:
            broken = error
            break
        n_held += len(held[-1])
        block, context = BLOCK_S * decoder.rate_hz, _CONTEXT_S * decoder.rate_hz
        while n_held >= before + block + context:
            mono = np.concatenate(held)
            start = before // decoder.rate_hz * SAMPLE_RATE_HZ
            part = mono[: before + block + context]
            yield resample(part, decoder.rate_hz)[start : start + BLOCK_S * SAMPLE_RATE_HZ]
            held = [mono[before + block - context :]]
            n_held, before = len(held[0]), context
    if held:
        start = before // decoder.rate_hz * SAMPLE_RATE_HZ
        yield resample(np.concatenate(held), decoder.rate_hz)[start:]
    if broken is not None:
        raise broken


def resample(mono: Float32[np.ndarray, "n"], rate_hz: int) -> Int16[np.ndarray, "N"]:
    """Resample mono sound in [-1, 1] from `rate_hz` to 16 kHz and convert it to int16."""
    if rate_hz != SAMPLE_RATE_HZ:
        # As `librosa.resample(..., fix=False)` does, without loading numba and SciPy: 1.4 s and 165 MB of a process.
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, quality="soxr_hq")
    return np.round(np.clip(mono, -1, 1) * _FULL_SCALE).astype(np.int16)
