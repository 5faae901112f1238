"""Files as people have them: picture and sound are placed by time, whatever the container, codec or fault."""

import dataclasses
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from conftest import ROOT
from films import ffmpeg, film
from fusion_emotion import config
from fusion_emotion.prepare import media, sound
from fusion_emotion.prepare.media import Film
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.opening import opened
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.prepare.sound import read_sound
from fusion_emotion.prepare.video import Video

CODECS = {
    "mp4": ("libx264", "aac"),
    "mov": ("libx264", "aac"),
    "m4v": ("libx264", "aac"),
    "mkv": ("libx264", "libopus"),
    "webm": ("libvpx", "libopus"),
    "flv": ("libx264", "aac"),
    "avi": ("mpeg4", "libmp3lame"),
    "ts": ("libx264", "aac"),
}
FAST = {"libvpx": ("-deadline", "realtime", "-cpu-used", "8"), "libx264": ("-preset", "ultrafast", "-bf", "2")}
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "m4a": "aac", "ogg": "libvorbis", "opus": "libopus"}


def tone(*frequencies_hz: float, seconds: float = 1.0, rate_hz: int = 48_000, level: float = 0.3) -> np.ndarray:
    """[n, channels], one channel for each frequency."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return level * np.sin(2 * np.pi * np.outer(time_s, frequencies_hz))


def wav(path: pathlib.Path, samples: np.ndarray, **named: str) -> pathlib.Path:
    soundfile.write(path, samples, 48_000, **named)
    return path


def loudest_hz(waveform: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * 16_000 / len(waveform))


@pytest.fixture(scope="module")
def flash_and_beep(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, pathlib.Path]:
    """A white flash and a beep, both from 1.0 s to 1.2 s of three seconds."""
    folder = tmp_path_factory.mktemp("flash")
    beep = tone(1000, seconds=3)
    beep[:48_000] = beep[57_600:] = 0
    flash = film(
        folder / "flash.mp4",
        seconds=3,
        fps=50,
        size=(64, 64),
        sound_s=0,
        picture=lambda time: np.full((64, 64, 3), 255 * (0.99 < time < 1.19), np.uint8),
    )
    return flash, wav(folder / "beep.wav", np.tile(beep, (1, 2)))


def onsets_s(path: pathlib.Path) -> tuple[float, float]:
    """The times of flash and beep on the clock of the file."""
    video, heard = Video(path), read_sound(path)
    video.times_s = np.arange(video.start_s, video.end_s, 0.005)
    bright = [frame.mean() > 100 for frame in video.frames()]
    beep_s = heard.start_s + np.argmax(np.abs(heard.waveform) > 1500) / 16_000
    return float(video.times_s[np.argmax(bright)]), float(beep_s)


@pytest.mark.parametrize("late_s", [-1.0, 0.0, 0.7], ids=["sound late", "together", "picture late"])
@pytest.mark.parametrize("form", CODECS)
def test_picture_and_sound_keep_their_offset(flash_and_beep, tmp_path, form, late_s):
    if form == "avi" and late_s < 0:
        pytest.skip("an AVI cannot say that its sound begins late")
    flash, beep = flash_and_beep
    video, audio = CODECS[form]
    path = ffmpeg(
        flash,
        tmp_path / f"x.{form}",
        *("-itsoffset", f"{max(0, -late_s)}", "-i", str(beep), "-map", "0:v", "-map", "1:a"),
        *("-c:v", video, "-c:a", audio, *FAST.get(video, ())),
        before=("-itsoffset", f"{max(0, late_s)}"),
    )
    flash_s, beep_s = onsets_s(path)
    assert flash_s - beep_s == pytest.approx(late_s, abs=0.02)
    shown = Film(path)
    assert len(shown.shown) == pytest.approx(5 * (3 + abs(late_s)), abs=0.6)
    # The beep of the prepared sound lies in the step of the flash, moved by the offset.
    bright = np.flatnonzero(shown.shown)[np.argmax([frame.mean() > 100 for frame in shown.frames()])]
    beep_at_s = np.argmax(np.abs(shown.waveform) > 1500) / 16_000
    assert bright / 5 - beep_at_s == pytest.approx(late_s, abs=0.15)


def test_no_picture_before_it_begins_and_no_sound_where_it_is_missing(flash_and_beep, tmp_path):
    flash, beep = flash_and_beep
    late = ffmpeg(flash, tmp_path / "a.mp4", "-i", str(beep), "-c:v", "copy", before=("-itsoffset", "1.0"))
    shown = Film(late)
    assert shown.shown.tolist() == [False] * 5 + [True] * 15
    drop = ("-c:a", "pcm_s16le", "-bsf:a", r"noise=drop=between(n\,13\,23)")
    hole = ffmpeg(flash, tmp_path / "b.mkv", "-i", str(beep), "-c:v", "copy", *drop)
    shown = Film(hole)
    assert len(shown.waveform) == pytest.approx(3 * 16_000, abs=800)
    assert np.abs(shown.waveform[int(1.12 * 16_000) :]).max() == 0


def numbered(path: pathlib.Path, **named) -> pathlib.Path:
    """A film whose frame at time t has the grey value 20 + 60 t."""
    return film(
        path, size=(64, 64), picture=lambda time: np.full((64, 64, 3), round(20 + 60 * time), np.uint8), **named
    )


def test_frames_that_an_edit_list_leaves_out_are_not_shown(tmp_path):
    """A cut without encoding keeps the frames from the last key frame on, and an edit list that hides them."""
    whole = numbered(tmp_path / "whole.mp4", seconds=3.24, fps=25)
    cut = ffmpeg(whole, tmp_path / "cut.mp4", "-c", "copy", before=("-ss", "0.7"))
    shown = Film(cut)
    assert len(shown.shown) == shown.shown.sum() == 13
    grey = [frame.mean() for frame in shown.frames()]
    np.testing.assert_allclose(grey, 20 + 60 * (0.7 + media.sample_times(2.54)), atol=2.5)


def test_a_real_cut_shows_no_frame_twice(real_data, tmp_path):
    whole = real_data / "data" / "ravdess" / "Actor_05" / "01-01-03-01-01-02-05.mp4"
    cut = ffmpeg(whole, tmp_path / "cut.mp4", "-c", "copy", before=("-ss", "0.7"))
    frames = np.stack(list(Film(cut).frames()))
    assert len(frames) == 13
    assert len({frame.tobytes() for frame in frames}) == 13
    video = Video(whole)
    video.times_s = 0.7 + media.sample_times(2.54)
    np.testing.assert_array_equal(frames, list(video.frames()))


@pytest.mark.parametrize(("aspect", "shape"), [("2/1", (48, 128)), ("1/2", (96, 64))])
def test_pixels_become_square(tmp_path, aspect, shape):
    path = ffmpeg(film(tmp_path / "a.mp4", size=(64, 48)), tmp_path / "b.mp4", "-vf", f"setsar={aspect}")
    assert {frame.shape[:2] for frame in Film(path).frames()} == {shape}


CORNERS = np.zeros((64, 96, 3), np.uint8)
CORNERS[:32, :48], CORNERS[:32, 48:], CORNERS[32:, :48] = (200, 0, 0), (0, 200, 0), (0, 0, 200)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        (("-display_rotation", "90"), np.rot90(CORNERS)),
        (("-display_rotation", "180"), np.rot90(CORNERS, 2)),
        (("-display_rotation", "-90"), np.rot90(CORNERS, 3)),
        (("-display_hflip",), CORNERS[:, ::-1]),
        (("-display_rotation", "90", "-display_hflip"), None),
    ],
    ids=["90", "180", "270", "mirror", "90 mirror"],
)
def test_a_film_is_turned_by_its_display_matrix(tmp_path, codec, matrix, turned):
    flat = film(tmp_path / "a.mp4", size=(96, 64), picture=lambda time: CORNERS)
    coded = ffmpeg(flat, tmp_path / "b.mp4", "-c:v", codec, "-preset", "ultrafast", "-c:a", "copy")
    path = ffmpeg(coded, tmp_path / "c.mov", "-c", "copy", before=matrix)
    if turned is None:  # what the player of the reference shows
        pixels = ffmpeg(path, tmp_path / "d.rgb", "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24").read_bytes()
        turned = np.frombuffer(pixels, np.uint8).reshape(96, 64, 3)
    frame = next(iter(Film(path).frames()))
    assert frame.shape == turned.shape
    assert np.abs(frame.astype(int) - turned).mean() < 6


def test_the_first_track_with_a_signal_is_read(tmp_path):
    silence, voice = wav(tmp_path / "0.wav", np.zeros((48_000, 2))), wav(tmp_path / "1.wav", tone(500, 500))
    both = ffmpeg(silence, tmp_path / "x.mkv", "-i", str(voice), "-map", "0", "-map", "1", "-c:a", "flac")
    assert loudest_hz(read_sound(both).waveform) == pytest.approx(500, abs=2)


def test_a_cover_is_no_film(tmp_path):
    cover = ffmpeg(film(tmp_path / "a.mp4"), tmp_path / "c.png", "-frames:v", "1")
    song = ffmpeg(
        wav(tmp_path / "a.wav", tone(500)),
        tmp_path / "a.mp3",
        *("-i", str(cover), "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic"),
    )
    heard = Film(song)
    assert heard.lacks == ["no picture track"]
    assert loudest_hz(heard.waveform) == pytest.approx(500, abs=2)


def size_field(path: pathlib.Path, value: int) -> pathlib.Path:
    """The wav with another size in the header of its samples."""
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("value", [0, 0x7FFF_F000, 0xFFFF_FFFF], ids=["zero", "sox", "ffmpeg"])
def test_a_wav_without_a_size_is_read_to_its_end(tmp_path, value):
    path = size_field(wav(tmp_path / "a.wav", tone(500)), value)
    media.check_whole(path)
    assert len(read_sound(path).waveform) == 16_000


def test_a_title_that_is_not_utf8_is_no_reason(tmp_path):
    path = wav(tmp_path / "a.wav", tone(500))
    title = "café".encode("latin-1") + b"\0"
    info = b"INFOINAM" + struct.pack("<I", len(title)) + title + b"\0"  # chunks end at even places
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(info)) + info
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    with opened(str(path)) as file:
        assert file.metadata["title"].startswith("caf")
    assert len(read_whole(path).waveform) == 16_000


def read_whole(path: pathlib.Path) -> sound.Sound:
    media.check_whole(path)
    return read_sound(path)


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_sound_that_is_cut_short_is_an_error(tmp_path, form):
    path = wav(tmp_path / f"a.{form}", np.random.default_rng(0).uniform(-0.3, 0.3, (48_000, 2)))
    read_whole(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(MediaError, match="cut short"):
        read_whole(path)


@pytest.mark.parametrize("noise", [0.0, 3e-4])
def test_channels_that_cancel_give_the_louder_one(tmp_path, noise):
    voice = tone(500)
    opposite = np.hstack([voice, -0.9 * voice + noise * np.random.default_rng(0).standard_normal(voice.shape)])
    heard = read_sound(wav(tmp_path / "a.wav", opposite))
    assert "channel 1" in heard.note
    assert np.abs(heard.waveform).max() == pytest.approx(0.3 * 32767, rel=0.01)
    # One silent channel halves the sound, which is no cancellation.
    assert not read_sound(wav(tmp_path / "b.wav", np.hstack([voice, 0 * voice]))).note


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "finite"), (np.inf, "finite"), (-np.inf, "finite"), (30_000.0, "full scale")]
)
def test_samples_that_are_no_sound_are_an_error(tmp_path, value, reason, recwarn):
    samples = tone(500)
    samples[100] = value
    with pytest.raises(MediaError, match=reason):
        read_sound(wav(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert not recwarn.list


def test_an_offset_is_no_signal(tmp_path):
    with pytest.raises(MediaError, match="silent"):
        read_sound(wav(tmp_path / "a.wav", np.full((48_000, 1), 0.2)))


def test_a_flac_that_was_written_through_a_pipe(tmp_path):
    content = bytearray(wav(tmp_path / "a.flac", tone(500)).read_bytes())
    # Of STREAMINFO the last 36 bits before the MD5 are the number of samples: RFC 9639, 8.2.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    assert len(read_whole(tmp_path / "a.flac").waveform) == 16_000


@pytest.mark.parametrize("form", SOUNDS)
def test_every_sound_format_is_read(tmp_path, form):
    path = ffmpeg(wav(tmp_path / "a.wav", tone(500, 500)), tmp_path / f"b.{form}", "-c:a", SOUNDS[form])
    heard = read_whole(path)
    assert len(heard.waveform) == pytest.approx(16_000, abs=900)
    assert loudest_hz(heard.waveform) == pytest.approx(500, abs=2)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_width_of_sample_has_the_same_full_scale(tmp_path, subtype):
    heard = read_sound(wav(tmp_path / "a.wav", tone(500, level=0.5), subtype=subtype)).waveform
    assert np.abs(heard).max() == pytest.approx(0.5 * 32767, rel=0.02)


def test_a_webm_as_browsers_record_it(tmp_path):
    """Without duration and index, which decord cannot open."""
    source = numbered(tmp_path / "a.mp4", seconds=2)
    live = ffmpeg(source, tmp_path / "a.webm", "-c:v", "libvpx", *FAST["libvpx"], "-c:a", "libopus", "-live", "1")
    shown = Film(live)
    assert not shown.lacks
    np.testing.assert_allclose([f.mean() for f in shown.frames()], 20 + 60 * media.sample_times(2), atol=3)
    assert len(shown.waveform) == pytest.approx(32_000, abs=800)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_long_sound_is_resampled_in_blocks_as_in_one_piece(tmp_path, monkeypatch, rate_hz):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 7 * rate_hz + 17)
    soundfile.write(tmp_path / "a.flac", samples, rate_hz)
    whole = read_sound(tmp_path / "a.flac").waveform.astype(int)
    monkeypatch.setattr(sound, "BLOCK_S", 2)
    blocks = read_sound(tmp_path / "a.flac").waveform
    assert len(blocks) == len(whole)
    assert np.abs(blocks - whole).max() <= 1


MEMORY = """
import pathlib, re, sys
from films import OneFace, clip_of
from fusion_emotion.prepare import sound
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.settings import Settings
import numpy as np

def peak_mb():
    # Not ru_maxrss, which a process inherits from its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

if __name__ == "__main__":
    settings, before = eval(sys.argv[2]), peak_mb()
    row, _ = prepare_clip(clip_of(pathlib.Path(sys.argv[1])), settings, OneFace())
    print(row.status, row.n_frames, peak_mb() - before)
"""


@pytest.mark.slow
def test_ten_minutes_need_little_memory(tmp_path):
    sources = ("-f", "lavfi", "-i", "sine=500:r=48000:d=600", "-shortest", "-c:a", "aac", "-ac", "2", *FAST["libx264"])
    path = ffmpeg("color=gray:s=128x96:r=5:d=600", tmp_path / "a.mp4", *sources, before=("-f", "lavfi"))
    settings = Settings.from_config(config.defaults().to_dict())
    settings = dataclasses.replace(settings, decoder="cpu", provider="cpu")
    command = [sys.executable, "-c", MEMORY, str(path), repr(settings)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    status, n_frames, grown_mb = ran.stdout.split()
    assert (status, n_frames) == ("ok", "3000")
    assert float(grown_mb) < 250
