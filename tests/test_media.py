"""Frames are those nearest to the sample times, and sound is 16 kHz mono, whatever the file's own rates."""

import itertools
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import av
import librosa
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from fusion_emotion.prepare import media, sound, video
from fusion_emotion.prepare.media_errors import MediaError

NTSC = Fraction(30000, 1001)
BITS = 8  # of a frame's number, painted as black and white bars, which any codec keeps
BAR_WIDTH = 16


def write(
    path: pathlib.Path,
    *,
    frame_times_s: Sequence[Fraction] = (),
    sound: np.ndarray | None = None,
    rate_hz: int = 48_000,
) -> pathlib.Path:
    """A film of frames that show their number, and of sound [channels, n] in [-1, 1]; or a file of that sound alone."""
    if path.suffix != ".mp4":
        soundfile.write(path, sound.T, rate_hz)
        return path
    with av.open(str(path), "w") as out:
        if frame_times_s:
            base = Fraction(1, 30_000)
            video = out.add_stream("libx264", rate=30, options={"threads": "1", "preset": "ultrafast", "bf": "2"})
            video.width, video.height, video.pix_fmt = BITS * BAR_WIDTH, 16, "yuv420p"
            video.codec_context.time_base = base
        if sound is not None:
            layout = {1: "mono", 2: "stereo"}[len(sound)]
            audio = out.add_stream("aac", rate=rate_hz, layout=layout, bit_rate=128_000 * len(sound))
        for number, time_s in enumerate(frame_times_s):
            bars = 255 * np.array([number >> bit & 1 for bit in range(BITS)], np.uint8)
            picture = np.broadcast_to(np.repeat(bars, BAR_WIDTH)[None, :, None], (16, BITS * BAR_WIDTH, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = int(time_s / base), base
            out.mux(video.encode(frame))
        if frame_times_s:
            out.mux(video.encode())
        if sound is not None:
            samples = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout=layout)
            samples.sample_rate, samples.pts = rate_hz, 0
            out.mux(audio.encode(samples))
            out.mux(audio.encode())
    return path


def read_frames(path: pathlib.Path) -> np.ndarray:
    film = media.Film(path)
    if not film.shown.any():
        raise MediaError(film.lacks[0])
    return np.stack(list(film.frames()))


def read_sound(path: pathlib.Path) -> np.ndarray:
    return sound.read_sound(path).waveform


def assert_nearest(frames: np.ndarray, frame_times_s: Sequence[Fraction]) -> None:
    assert (frames.dtype, frames.shape[1:]) == (np.uint8, (16, BITS * BAR_WIDTH, 3))
    bars = frames.reshape(len(frames), 16, BITS, BAR_WIDTH, 3)[:, 4:12, :, 4:12].mean(axis=(1, 3, 4)) > 127
    distance_s = np.abs(np.array(frame_times_s, float)[None] - (np.arange(len(frames))[:, None] + 0.5) / 5)
    # Two frames may be equally near: either will do.
    shown = bars @ (1 << np.arange(BITS))
    np.testing.assert_allclose(distance_s[np.arange(len(frames)), shown], distance_s.min(axis=1), atol=1e-4)


def steady(rate_hz: Fraction | int, duration_s: float) -> list[Fraction]:
    return [Fraction(k) / rate_hz for k in range(round(duration_s * rate_hz))]


def tone(*frequencies_hz: float, amplitude: float = 0.5, seconds: float = 1.0, rate_hz: int = 48_000) -> np.ndarray:
    """One channel for each frequency."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([amplitude * np.sin(2 * np.pi * hz * time_s) for hz in frequencies_hz]).astype(np.float32)


def amplitude_at(waveform: np.ndarray, hz: float) -> float:
    """The amplitude of a tone over the middle of a second of 16 kHz sound, as a fraction of full scale."""
    middle = waveform[4_000:12_000] / 32767
    return 2 * float(np.abs(np.mean(middle * np.exp(-2j * np.pi * hz * np.arange(8_000) / 16_000))))


# Pictures


@given(st.floats(0.0, 3600.0))
def test_sample_times_are_the_middles_of_fifths_of_a_second_within_the_clip(duration_s):
    times = media.sample_times(duration_s)
    np.testing.assert_allclose(times, 0.1 + 0.2 * np.arange(len(times)))
    assert len(times) == 1 or times[-1] < duration_s
    assert times[-1] + 0.2 >= duration_s - 1e-9


seconds = st.integers(0, 1600).map(lambda n: n / 16)  # exact in float32, and so are their differences


@given(st.lists(seconds, min_size=1, max_size=30, unique=True).map(sorted), st.lists(seconds, max_size=30))
def test_nearest_is_the_minimum_of_all_distances(timestamps, times):
    distances = np.abs(np.array(timestamps, np.float32)[None] - np.array(times, np.float32)[:, None])
    chosen = video.nearest(np.array(timestamps, np.float32), np.array(times, np.float32))
    assert chosen.shape == (len(times),)
    np.testing.assert_array_equal(chosen, distances.argmin(axis=1))  # the earlier of two


@pytest.mark.parametrize("duration_s", [0.05, 2.3])
@pytest.mark.parametrize("rate_hz", [12, 25, NTSC, 60])
def test_frames_are_the_nearest_at_every_rate(tmp_path, rate_hz, duration_s):
    frame_times_s = steady(rate_hz, duration_s)
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=frame_times_s))
    assert len(frames) == len(media.sample_times(len(frame_times_s) / float(rate_hz)))
    assert_nearest(frames, frame_times_s)


def test_frames_are_the_nearest_at_an_uneven_rate(tmp_path):
    durations_s = itertools.islice(itertools.cycle([Fraction(1, 60), Fraction(1, 30), Fraction(1, 5)]), 36)
    frame_times_s = list(itertools.accumulate(durations_s, initial=Fraction(0)))
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=frame_times_s))
    assert len(frames) >= 15
    assert_nearest(frames, frame_times_s)


def test_times_count_from_the_first_frame(tmp_path):
    late_s = [time_s + Fraction(7, 10) for time_s in steady(25, 2.0)]
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=late_s))
    assert len(frames) == 10
    assert_nearest(frames, steady(25, 2.0))


@pytest.mark.parametrize("most_frames", [1, 10, 11])
def test_a_long_clip_that_is_decoded_twice_has_the_same_frames(tmp_path, monkeypatch, most_frames):
    path = write(tmp_path / "a.mp4", frame_times_s=steady(25, 2.2))
    whole = read_frames(path)
    monkeypatch.setattr(video, "KEPT_BYTES", most_frames * whole[0].nbytes)
    film = media.Film(path)
    assert film.shown.tolist() == [True] * 11
    for _ in range(2):
        np.testing.assert_array_equal(list(film.frames()), whole)


def test_channels_are_red_green_blue(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        picture = np.full((32, 64, 3), [220, 120, 40], np.uint8)
        out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode())
    np.testing.assert_allclose(read_frames(tmp_path / "a.mp4").mean(axis=(0, 1, 2)), [220, 120, 40], atol=6)


# Sound


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("kind", ["noise", "sweep"])
def test_resampling_gives_the_samples_of_soxr(kind, rate_hz):
    n = 2 * rate_hz + 1  # not a multiple of the ratio
    if kind == "noise":
        mono = (0.2 * np.random.default_rng(0).standard_normal(n)).astype(np.float32)
    else:
        mono = librosa.chirp(fmin=20, fmax=rate_hz / 2, sr=rate_hz, length=n).astype(np.float32)
    expected = soxr.resample(mono, rate_hz, 16_000, quality="HQ")
    waveform = sound.resample(mono, rate_hz)
    assert len(waveform) == len(expected)
    assert np.abs(waveform - np.round(np.clip(expected, -1, 1) * 32767)).max() <= 1
    by_librosa = librosa.resample(mono, orig_sr=rate_hz, target_sr=16_000, res_type="soxr_hq", fix=False)
    np.testing.assert_array_equal(np.round(np.clip(by_librosa, -1, 1) * 32767), waveform)


def test_loud_samples_are_clipped_not_wrapped():
    loud = np.array([1.5, 1.0, 0.0, -1.0, -7.0], np.float32)
    np.testing.assert_array_equal(sound.resample(loud, 16_000), [32767, 32767, 0, -32767, -32767])


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", ["mp4", "wav", "flac"])
def test_stereo_becomes_the_mean_of_its_channels(tmp_path, form, rate_hz):
    waveform = read_sound(write(tmp_path / f"a.{form}", sound=tone(500, 1500, rate_hz=rate_hz), rate_hz=rate_hz))
    assert waveform.dtype == np.int16
    # A codec pads its last block.
    assert 16_000 <= len(waveform) <= 16_000 * (1 + 4096 / rate_hz * (form == "mp4"))
    for hz in (500, 1500):
        assert amplitude_at(waveform, hz) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["mp4", "wav"])
def test_loud_sound_is_as_loud_and_not_clipped(tmp_path, form, channels):
    waveform = read_sound(write(tmp_path / f"a.{form}", sound=tone(*[500] * channels, amplitude=0.9)))
    assert amplitude_at(waveform, 500) == pytest.approx(0.9, abs=0.02)
    assert amplitude_at(waveform, 1500) < 0.01  # clipping makes a third harmonic


def test_sound_begins_when_the_file_does(tmp_path):
    half = np.concatenate([np.zeros((1, 24_000), np.float32), tone(1000, seconds=0.5)], axis=1)
    waveform = read_sound(write(tmp_path / "a.mp4", sound=half)).astype(float) / 32767
    onset_s = np.flatnonzero(np.abs(waveform) > 0.1)[0] / 16_000
    # An AAC encoder may begin with a priming block of 1,024 samples.
    assert 0.5 - 0.005 <= onset_s <= 0.5 + 1024 / 48_000 + 0.005


# Files that are no media


@pytest.mark.parametrize(("read", "part"), [(read_frames, "picture"), (read_sound, "sound")])
@pytest.mark.parametrize("content", ["text", "half", "nothing"])
@pytest.mark.parametrize("form", ["mp4", "wav", "flac"])
def test_a_file_that_is_no_media_is_an_error_of_one_line(tmp_path, form, content, read, part):
    whole = write(tmp_path / "whole.mp4", frame_times_s=steady(25, 1.0), sound=tone(500)).read_bytes()
    path = tmp_path / f"broken.{form}"
    path.write_bytes({"text": b"not a film\n" * 100, "half": whole[: len(whole) // 2], "nothing": b""}[content])
    with pytest.raises(MediaError, match=part) as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("form", ["mp4", "wav"])
def test_sound_without_a_picture_is_an_error(tmp_path, form):
    with pytest.raises(MediaError, match="picture"):
        read_frames(write(tmp_path / f"a.{form}", sound=tone(500)))
