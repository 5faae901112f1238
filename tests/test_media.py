"""Frames are those nearest to the sample times, and sound is librosa's at 16 kHz, whatever the file's own rates."""

import io
import itertools
import pathlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import librosa
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_emotion.prepare import media
from fusion_emotion.prepare.media import MediaError

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
    """An mp4 of frames that show their number, and of sound [channels, n] in [-1, 1]."""
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
    return np.stack(list(media.Video(path).frames()))


def numbers(frames: np.ndarray) -> np.ndarray:
    """The numbers that frames show."""
    bars = frames.reshape(len(frames), 16, BITS, BAR_WIDTH, 3)[:, 4:12, :, 4:12].mean(axis=(1, 3, 4)) > 127
    return bars @ (1 << np.arange(BITS))


def steady(rate_hz: Fraction | int, duration_s: float) -> list[Fraction]:
    return [Fraction(k) / rate_hz for k in range(round(duration_s * rate_hz))]


def uneven(duration_s: float) -> list[Fraction]:
    """Frames that last a 60th, a 30th and a fifth of a second in turn."""
    lasting = itertools.cycle([Fraction(1, 60), Fraction(1, 30), Fraction(1, 5)])
    times = [Fraction(0)]
    while times[-1] < duration_s:
        times.append(times[-1] + next(lasting))
    return times


def tone(*frequencies_hz: float, amplitude: float = 0.5, seconds: float = 1.0, rate_hz: int = 48_000) -> np.ndarray:
    """One channel for each frequency."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([amplitude * np.sin(2 * np.pi * hz * time_s) for hz in frequencies_hz]).astype(np.float32)


def amplitude_at(waveform: np.ndarray, hz: float) -> float:
    """Of a tone, over the middle of a second of 16 kHz sound, in shares of full scale."""
    middle = waveform[4_000:12_000] / 32767
    return 2 * float(np.abs(np.mean(middle * np.exp(-2j * np.pi * hz * np.arange(8_000) / 16_000))))


# Pictures


@settings(deadline=None)
@given(st.floats(0.0, 3600.0))
def test_sample_times_are_the_middles_of_fifths_of_a_second_within_the_clip(duration_s: float) -> None:
    times = media.sample_times(duration_s)
    np.testing.assert_allclose(times, 0.1 + 0.2 * np.arange(len(times)))
    assert len(times) == 1 or times[-1] < duration_s
    assert times[-1] + 0.2 >= duration_s - 1e-9


@pytest.mark.parametrize(("duration_s", "count"), [(0.01, 1), (0.2, 1), (0.31, 2), (1.0, 5), (3.5, 17), (3.51, 18)])
def test_a_second_has_five_sample_times(duration_s: float, count: int) -> None:
    assert len(media.sample_times(duration_s)) == count


seconds = st.floats(0, 100, width=32)


@settings(deadline=None)
@given(st.lists(seconds, min_size=1, max_size=30, unique=True), st.lists(seconds, max_size=30))
def test_nearest_is_what_comparing_all_would_find(timestamps: list[float], times: list[float]) -> None:
    ascending, wanted = np.array(sorted(timestamps), np.float32), np.array(times, np.float32)
    distances = np.abs(ascending[None] - wanted[:, None])
    chosen = media.nearest(ascending, wanted)
    assert chosen.shape == wanted.shape
    np.testing.assert_array_equal(distances[np.arange(len(wanted)), chosen], distances.min(axis=1))


def test_of_two_frames_equally_near_the_earlier_is_taken() -> None:
    chosen = media.nearest(np.array([0, 2, 4], np.float32), np.array([-1, 0, 1, 2, 3, 5], np.float32))
    np.testing.assert_array_equal(chosen, [0, 0, 0, 1, 1, 2])


@pytest.mark.parametrize("duration_s", [0.05, 1.0, 2.3])
@pytest.mark.parametrize("rate_hz", [12, 25, NTSC, 60])
def test_frames_are_the_nearest_at_every_rate(
    tmp_path: pathlib.Path, rate_hz: Fraction | int, duration_s: float
) -> None:
    frame_times_s = steady(rate_hz, duration_s)
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=frame_times_s))
    assert len(frames) == len(media.sample_times(len(frame_times_s) / float(rate_hz)))
    assert_nearest(frames, frame_times_s)


def test_frames_are_the_nearest_at_an_uneven_rate(tmp_path: pathlib.Path) -> None:
    frame_times_s = uneven(3.0)
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=frame_times_s))
    assert len(frames) >= 15
    assert_nearest(frames, frame_times_s)


def test_times_count_from_the_first_frame(tmp_path: pathlib.Path) -> None:
    late_s = [time_s + Fraction(7, 10) for time_s in steady(25, 2.0)]
    frames = read_frames(write(tmp_path / "a.mp4", frame_times_s=late_s))
    assert len(frames) == 10
    assert_nearest(frames, steady(25, 2.0))


@pytest.mark.parametrize("most_frames", [1, 3, 10, 11])
def test_a_long_clip_that_is_decoded_in_parts_is_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, most_frames: int
) -> None:
    path = write(tmp_path / "a.mp4", frame_times_s=steady(25, 2.2))
    whole = read_frames(path)
    monkeypatch.setattr(media, "_KEPT_BYTES", 10 * whole[0].nbytes)
    monkeypatch.setattr(media, "_CHUNK_BYTES", most_frames * whole[0].nbytes)
    video = media.Video(path)
    assert len(video) == len(whole) == 11
    for _ in range(2):
        np.testing.assert_array_equal(list(video.frames()), whole)


def assert_nearest(frames: np.ndarray, frame_times_s: Sequence[Fraction]) -> None:
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (16, BITS * BAR_WIDTH, 3)
    there_s = np.array(frame_times_s, float)
    times_s = (np.arange(len(frames)) + 0.5) / 5
    # Two frames may be equally near: either will do.
    np.testing.assert_allclose(
        np.abs(there_s[numbers(frames)] - times_s), np.abs(there_s[None] - times_s[:, None]).min(axis=1), atol=1e-4
    )


def test_channels_are_red_green_blue(tmp_path: pathlib.Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 32, "yuv420p"
        picture = np.broadcast_to(np.array([220, 120, 40], np.uint8), (32, 64, 3))
        out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(video.encode())
    np.testing.assert_allclose(read_frames(tmp_path / "a.mp4").mean(axis=(0, 1, 2)), [220, 120, 40], atol=6)


# Sound


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_resampling_is_librosas(rate_hz: int) -> None:
    mono = (0.2 * np.random.default_rng(0).standard_normal(rate_hz)).astype(np.float32)
    ours = media.resample(mono, rate_hz)
    theirs = librosa.resample(mono, orig_sr=rate_hz, target_sr=16_000, res_type="soxr_hq")
    assert len(ours) == len(theirs) == 16_000
    assert np.abs(ours - np.round(theirs * 32767)).max() <= 1


def test_what_is_too_loud_is_clipped_not_wrapped() -> None:
    np.testing.assert_array_equal(
        media.resample(np.array([1.5, 1.0, 0.0, -1.0, -7.0], np.float32), 16_000), [32767, 32767, 0, -32767, -32767]
    )


@pytest.mark.parametrize("rate_hz", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("form", ["mp4", "wav", "flac"])
def test_stereo_becomes_the_mean_of_its_channels(tmp_path: pathlib.Path, form: str, rate_hz: int) -> None:
    sound = tone(500, 1500, rate_hz=rate_hz)
    path = tmp_path / f"a.{form}"
    if form == "mp4":
        write(path, sound=sound, rate_hz=rate_hz)
    else:
        soundfile.write(path, sound.T, rate_hz)
    waveform = media.read_audio(path)
    assert waveform.dtype == np.int16
    # A codec pads its last block.
    assert 16_000 <= len(waveform) <= 16_000 * (1 + 4096 / rate_hz * (form == "mp4"))
    for hz in (500, 1500):
        assert amplitude_at(waveform, hz) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["mp4", "wav"])
def test_loud_sound_is_as_loud_and_not_clipped(tmp_path: pathlib.Path, form: str, channels: int) -> None:
    sound = tone(*[500] * channels, amplitude=0.9)
    path = tmp_path / f"a.{form}"
    if form == "mp4":
        write(path, sound=sound)
    else:
        soundfile.write(path, sound.T, 48_000)
    waveform = media.read_audio(path)
    assert amplitude_at(waveform, 500) == pytest.approx(0.9, abs=0.02)
    assert amplitude_at(waveform, 1500) < 0.01  # the third harmonic is what clipping makes


def test_sound_begins_when_the_file_does(tmp_path: pathlib.Path) -> None:
    sound = np.concatenate([np.zeros((1, 24_000), np.float32), tone(1000, seconds=0.5)], axis=1)
    waveform = media.read_audio(write(tmp_path / "a.mp4", sound=sound)).astype(float) / 32767
    onset_s = np.flatnonzero(np.abs(waveform) > 0.1)[0] / 16_000
    # An AAC encoder may lead with its priming block of 1,024 samples; no more than that.
    assert 0.5 - 0.005 <= onset_s <= 0.5 + 1024 / 48_000 + 0.005


# Files that are no media


def bytes_of_an_mp4(folder: pathlib.Path) -> bytes:
    return write(folder / "whole.mp4", frame_times_s=steady(25, 2.0), sound=tone(500, seconds=2.0)).read_bytes()


@pytest.mark.parametrize("read", [read_frames, media.read_audio])
@pytest.mark.parametrize("content", ["text", "half", "nothing"])
@pytest.mark.parametrize("form", ["mp4", "wav", "flac"])
def test_a_file_that_is_no_media_says_so(
    tmp_path: pathlib.Path, form: str, content: str, read: Callable[[pathlib.Path], np.ndarray]
) -> None:
    whole = bytes_of_an_mp4(tmp_path)
    path = tmp_path / f"broken.{form}"
    path.write_bytes({"text": b"not a film\n" * 100, "half": whole[: len(whole) // 2], "nothing": b""}[content])
    what = "picture" if read is read_frames else "sound"
    with pytest.raises(MediaError, match=rf"^the {what} cannot be decoded: .") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_a_film_without_sound_says_so(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "a.mp4", frame_times_s=steady(25, 0.4))
    with pytest.raises(MediaError, match=r"^no audio track$"):
        media.read_audio(path)


@pytest.mark.parametrize("form", ["mp4", "wav"])
def test_sound_without_a_picture_says_so(tmp_path: pathlib.Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "mp4":
        write(path, sound=tone(500))
    else:
        soundfile.write(path, tone(500).T, 48_000)
    with pytest.raises(MediaError, match=r"^the picture cannot be decoded: "):
        read_frames(path)


def test_an_empty_wav_is_empty_sound(tmp_path: pathlib.Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0), 48_000, format="WAV")
    (tmp_path / "a.wav").write_bytes(buffer.getvalue())
    assert media.read_audio(tmp_path / "a.wav").shape == (0,)
