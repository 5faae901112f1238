"""The page of a prepared corpus, of clips and a manifest that the test knows."""

import base64
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

import page_kit
from fusion_emotion.corpora import catalogue
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.answers import hashed
from fusion_emotion.pages.prepared import fewest_found, largest_jerk, marks, write_prepared
from fusion_emotion.prepare.records import MANIFEST
from page_kit import EVIL, NO_PICTURE, NO_SOUND, Page, records_of, write_corpus

LOST = {"status": "quarantined", "n_frames": 0, "n_samples": 0, "found_share": 0.0, "rms_dbfs": -120.0, "record": -1}


def page_of(folder: pathlib.Path) -> Page:
    write_prepared(folder, folder / "prepared.html")
    return page_kit.read(folder / "prepared.html")


def sheet(page: Page, title: str) -> list[str]:
    """The first picture's kind and the clips of a contact sheet, in order."""
    of_sheet = page.text.split(f"{title} ", 1)[1].split("Distributions")[0]
    return re.findall(r"ravdess/(clip-\d\d),", re.split("Fewest|Most box|Quietest|Loudest|Counts|Sound ", of_sheet)[0])


def test_the_page(tmp_path: pathlib.Path) -> None:
    folder = write_corpus(tmp_path / "ravdess-0", records_of(4))
    page = page_of(folder)
    # Histograms; all clips at random and by jitter, none of which lacks a face; three sheets of sounds.
    assert page.tags["img"] == 5 + 4 + 4 + 3 * 4
    assert page.tags["audio"] == 3 * 4
    assert len(page.loads) == page.tags["img"] + page.tags["audio"]
    assert "Every clip is usable and complete." in page.text
    assert catalogue.corpus("ravdess").credit in page.text
    source = (folder / "prepared.html").read_text()
    page_of(folder)
    assert (folder / "prepared.html").read_text() == source


def test_counts_measures_and_reasons(tmp_path: pathlib.Path) -> None:
    shares = {i: {**LOST, "reason": f"a face in {i}% of the frames"} for i in range(3)}
    changes = {
        **shares,
        3: {**LOST, "reason": "byte 17 of 20 is wrong", "speaker": "ravdess/09"},
        4: {"reason": "no audio track", "n_samples": 0, "rms_dbfs": -120.0, "peak": 0.0},
        5: {"found_share": 0.5, "jitter": 0.02, "peak": 1.0, "n_frames": 30, "intensity": "strong"},
        6: {"n_frames": 4, "n_samples": 15_999, "rms_dbfs": -31.25},
    }
    page = page_of(write_corpus(tmp_path / "c", records_of(10), changes))
    names = ["ravdess/clip-00, ravdess/clip-01, ravdess/clip-02", "ravdess/clip-03", "ravdess/clip-04"]
    assert [row for row in page.rows if row[0] in ("quarantined", "usable")] == [
        ["quarantined", "a face in …% of the frames", "3", names[0]],
        ["quarantined", "byte 17 of 20 is wrong", "1", names[1]],
        ["usable", "no audio track", "1", names[2]],
    ]
    assert page.row("box jitter")[1:] == ["6", "0.00", "0.00", "0.00", "1.50", "2.00", "% of face width"]
    counts = {name: page.row(name)[1:3] for name in (*LABEL_NAMES, "ravdess/09", "strong", "av")}
    assert counts["neutral"] == counts["calm"] == ["1", "1"]
    assert counts["happy"] == counts["sad"] == counts["ravdess/09"] == ["0", "1"]
    assert counts["angry"] == counts["strong"] == ["1", "0"]
    assert counts["av"] == ["6", "4"]
    assert page.row("strong")[4:] == ["50.0 %", "2.00", "3.0", "−25.0", "100.0"]
    # In 15 of the 30 frames of one clip, in all 4 of another, and in all 15 of the other four.
    assert "84.0 %" in page.text
    assert "No usable clip is happy, sad." in page.text


def test_the_poorest_clips_come_first(tmp_path: pathlib.Path) -> None:
    records = [
        dataclasses.replace(record, face_found=np.arange(15) >= min(i, 13)) for i, record in enumerate(records_of(20))
    ]
    folder = write_corpus(tmp_path / "c", records, {i: {"jitter": ((7 * i) % 20) / 1000} for i in range(20)})
    page = page_of(folder)
    # Clips 13 to 19 are equally poor, so they stand by name; clip 0 has a face everywhere.
    assert sheet(page, "Fewest faces found") == [f"clip-{i:02d}" for i in [*range(13, 20), 12, 11, 10, 9, 8]]
    by_jitter = sorted(range(20), key=lambda i: -((7 * i) % 20))[:12]
    assert sheet(page, "Most box jitter") == [f"clip-{i:02d}" for i in by_jitter]
    assert sheet(page, "Quietest clips") == [f"clip-{i}" for i in range(19, 13, -1)]
    assert sheet(page, "Loudest clips") == [f"clip-0{i}" for i in range(6)]
    assert "no face" in page.text
    assert sheet(page, "Random clips") == sorted((f"clip-{i:02d}" for i in range(20)), key=hashed)


@given(st.lists(st.booleans(), min_size=1, max_size=20))
@settings(max_examples=60)
def test_the_poorest_faces_are_the_first_with_the_most_gaps(found: list[bool]) -> None:
    [record] = records_of(1)
    faces, box = np.zeros((len(found), 4, 4, 3), np.uint8), np.zeros((len(found), 4), np.float32)
    start = fewest_found(dataclasses.replace(record, faces=faces, face_found=np.array(found), box=box))
    counts = [sum(found[i : i + 5]) for i in range(max(1, len(found) - 4))]
    assert start == counts.index(min(counts))
    assert marks(np.array(found), start) == [
        ("" if found[t] else "no face") if t < len(found) else "past the end" for t in range(start, start + 5)
    ]


@given(st.integers(4, 20), st.data())
@settings(max_examples=60)
def test_the_faces_of_the_largest_jerk_hold_it(n_times: int, data: st.DataObject) -> None:
    [record] = records_of(1)
    found = np.array(data.draw(st.lists(st.booleans(), min_size=n_times, max_size=n_times)))
    jump = data.draw(st.integers(0, n_times - 1))
    box = np.tile(np.float32([10, 10, 30, 30]), (n_times, 1))
    box[jump] += 9
    faces = np.zeros((n_times, 4, 4, 3), np.uint8)
    start = largest_jerk(dataclasses.replace(record, faces=faces, face_found=found, box=box))
    assert 0 <= start <= max(0, n_times - 5)
    if jump in np.flatnonzero(found)[1:-1]:
        assert start == np.clip(jump - 2, 0, max(0, n_times - 5))


def test_sound_alone(tmp_path: pathlib.Path) -> None:
    page = page_of(write_corpus(tmp_path / "c", records_of(9, **NO_PICTURE), {0: {"modality": "a"}}))
    played = [load.split(",")[1] for load in page.loads if load.startswith("data:audio/wav;base64,")]
    sounds = [wavfile.read(io.BytesIO(base64.b64decode(load))) for load in played]
    waveforms = {record.waveform.tobytes() for record in records_of(9)}
    assert len(sounds) == 3 * 6
    assert all(rate_hz == 16_000 and samples.tobytes() in waveforms for rate_hz, samples in sounds)
    assert all(alt.startswith(("Waveform", "Histogram")) for alt in page.alts)
    assert page.row("a")[4:] == ["3.0", "−20.0", "50.0"]


def test_one_short_clip_without_sound(tmp_path: pathlib.Path) -> None:
    faces, box = np.full((3, 8, 8, 3), 99, np.uint8), np.ones((3, 4), np.float32)
    records = records_of(1, faces=faces, face_found=np.ones(3, bool), box=box, **NO_SOUND)
    page = page_of(write_corpus(tmp_path / "c", records, {0: {"rms_dbfs": -120.0}}))
    assert page.text.count("past the end") == 2 * (5 - 3)
    assert "Loudness" not in page.text
    assert "Waveform" not in " ".join(page.alts)


def test_no_usable_clip_and_markup_in_names(tmp_path: pathlib.Path) -> None:
    evil = {**LOST, "clip_id": EVIL, "reason": EVIL, "speaker": EVIL}
    folder = write_corpus(tmp_path / "x-0", records_of(2), {0: evil, 1: {**LOST, "reason": "the file is empty"}})
    (folder / "settings.json").write_text('{"detector": "<b>x</b>"}')
    page = page_of(folder)
    assert page.text.count(EVIL) == 3
    assert page.row("detector") == ["detector", "<b>x</b>"]
    assert "Distributions" not in page.text
    assert page.loads == []


@pytest.mark.parametrize(
    ("name", "content"), [(MANIFEST, "{"), (MANIFEST, '{"a": 1}\n'), ("settings.json", "{"), ("settings.json", None)]
)
def test_an_unreadable_folder_is_an_error(tmp_path: pathlib.Path, name: str, content: str | None) -> None:
    folder = write_corpus(tmp_path / "c", records_of(1))
    (folder / "prepared.html").write_text("old")
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    with pytest.raises(UserError, match="prepare again"):
        write_prepared(folder, folder / "prepared.html")
    assert (folder / "prepared.html").read_text() == "old"
