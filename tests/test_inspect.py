"""The page of a prepared corpus against corpora whose every number and picture the test knows."""

import base64
import contextlib
import dataclasses
import io
import json
import pathlib
import random
import re
from typing import Any
from unittest import mock

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiny
from configs import ravdess
from fusion_emotion import commands
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import cut
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.pages import prepared as inspect
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Record, encode, read_rows, write_rows
from test_report import NO_PICTURE, NO_SOUND, NoPictures, Page, record_of

SETTINGS = {"detector": "centerface", "detector_sizes": [320, 640], "face_size": 8, "cache": "/home/someone/cache"}
LOST = {"status": "quarantined", "n_frames": 0, "n_samples": 0, "found_share": 0.0, "rms_dbfs": -120.0, "record": -1}


def make(folder: pathlib.Path, records: list[Record], changes: dict[int, dict[str, Any]] | None = None) -> pathlib.Path:
    """A corpus of `records`; `changes` are made to the rows of their indices, beyond the records to new ones."""
    (folder / SHARDS).mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / SHARDS / "00000.arrayrecord"), "group_size:1")
    for record in records:
        writer.write(encode(record))
    writer.close()
    rows = [
        dataclasses.replace(
            tiny.row_of(record, index=i),
            emotion=LABEL_NAMES[record.label],
            found_share=float(record.face_found.mean()) if len(record.face_found) else 0.0,
            rms_dbfs=-20.0 - i,
        )
        for i, record in enumerate(records)
    ]
    for index, change in (changes or {}).items():
        row = dataclasses.replace(rows[min(index, len(rows) - 1)], **{"clip_id": f"clip-{index:02d}", **change})
        rows[index : index + 1] = [row]
    write_rows(folder / MANIFEST, rows)
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    return folder


def records_of(count: int, **changes: Any) -> list[Record]:
    rng = np.random.default_rng(0)
    return [
        record_of(0, rng, clip_id=f"clip-{i:02d}", label=i % 8, speaker=f"{i % 3 + 1:02d}", **changes)
        for i in range(count)
    ]


def written(folder: pathlib.Path, notes: NoPictures | None = None, *, drawn: bool = False) -> str:
    """The source of the page, without pictures unless they are to be drawn."""
    with contextlib.nullcontext() if drawn else (notes or NoPictures()).within(inspect):
        inspect.write_prepared(folder, folder / "prepared.html")
    return (folder / "prepared.html").read_text(encoding="utf-8")


def page_of(folder: pathlib.Path) -> Page:
    return Page(written(folder))


def shown(source: str, title: str) -> list[str]:
    """The names of the clips on a contact sheet, in order."""
    of_sheet = re.split(r"<h[23]>", source.split(f"<h3>{title} ", 1)[1])[0]
    return re.findall(r'<span class="clip">([^,]*),', of_sheet)


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> pathlib.Path:
    return make(tmp_path / "ravdess-0123456789ab", records_of(10))


def test_nothing_is_loaded_from_elsewhere_and_the_bytes_are_always_the_same(tmp_path: pathlib.Path) -> None:
    folder = tiny.write(tmp_path / "ravdess-0", takes=2)
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    source = written(folder, drawn=True)
    loads = Page(source).loads
    # 24 random strips, 12 of the most jitter, 3 times 6 sounds, 5 histograms; none of the 96 clips lacks a face.
    assert len(loads) == 24 + 12 + 18 + 5
    assert all(re.match(r"data:image/(svg\+xml|jpeg);base64,[\w+/]{500}", address) for address in loads)
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe|javascript:", source)
    assert len(source.encode()) < 4_000_000
    assert str(tmp_path) not in source
    assert "/home/someone" not in source
    assert written(folder, drawn=True) == source


def test_counts_of_every_group(tmp_path: pathlib.Path) -> None:
    changes = {
        3: {**LOST, "reason": "no audio track"},
        5: {"intensity": "strong", "rms_dbfs": -31.25},
        10: {**LOST, "reason": "the file is empty", "speaker": "09", "label": 4, "emotion": "angry"},
    }
    shown_page = page_of(make(tmp_path / "c", records_of(10), changes))
    # Labels count 0 to 7, then 0 and 1; speakers 01, 02, 03 in turn.
    counts = [" ".join(shown_page.row(name)[1:3]) for name in LABEL_NAMES]
    assert counts == ["2 0", "2 0", "1 0", "0 1", "1 1", "1 0", "1 0", "1 0"]
    assert [row[0] for row in shown_page.rows if row[0] in LABEL_NAMES] == list(LABEL_NAMES)
    counts = [" ".join(shown_page.row(speaker)[1:3]) for speaker in ("01", "02", "03", "09")]
    assert counts == ["3 1", "3 0", "3 0", "0 1"]
    assert shown_page.row("strong")[1:3] == ["1", "0"]
    assert shown_page.row("strong")[4:] == ["100.0 %", "0.00", "3.0", "−31.2", "50.0"]
    assert shown_page.row("09")[4:] == ["-"] * 5
    assert shown_page.row("av")[1:3] == shown_page.row("speech")[1:3] == ["9", "2"]
    assert re.sub(r"\s+", "", shown_page.tiles[0]) == "Usableclips9of11found27windowsof1s"


def test_measures_are_of_the_clips_that_have_them(tmp_path: pathlib.Path) -> None:
    changes = {
        0: {"found_share": 0.5, "jitter": 0.02, "peak": 0.25, "n_frames": 30},
        1: {"n_frames": 0, "found_share": 0.0, "reason": "no face", "n_samples": 32_000},
        2: {"n_samples": 0, "rms_dbfs": -120.0, "peak": 0.0, "reason": "no audio track"},
        3: {**LOST, "reason": "the file is empty"},
    }
    measures = page_of(make(tmp_path / "c", records_of(8), changes))
    assert measures.row("face found")[1:3] == ["6", "50.0"]
    assert measures.row("box jitter")[1:] == ["6", "0.00", "0.00", "0.00", "1.50", "2.00", "% of face width"]
    assert measures.row("length")[1:3] == ["7", "2.0"]
    assert measures.row("loudness")[1:] == ["6", "−27.0", "−26.8", "−24.5", "−20.2", "−20.0", "dBFS"]
    assert measures.row("peak")[1:3] == ["6", "25.0"]
    # In 15 of the 30 frames of one clip and in all 15 of each of five.
    assert "85.7 %" in measures.tiles[1]
    assert "clips with gaps: 1" in measures.tiles[1]


def test_histograms_are_of_the_known_values(tmp_path: pathlib.Path) -> None:
    notes = NoPictures()
    written(make(tmp_path / "c", records_of(4), {0: {**LOST, "reason": "gone"}, 1: {"jitter": 0.03}}), notes)
    drawn = {kwargs["xlabel"].split(" (")[0]: args[0] for name, args, kwargs in notes.calls if name == "histogram"}
    assert list(drawn) == ["face found", "box jitter", "length", "loudness", "peak"]
    np.testing.assert_allclose(drawn["box jitter"], [3, 0, 0])
    np.testing.assert_allclose(drawn["loudness"], [-21, -22, -23])


def test_reasons_that_differ_in_a_share_are_one(tmp_path: pathlib.Path) -> None:
    changes = {i: {**LOST, "reason": f"a face in {i}% of the frames"} for i in range(6)}
    changes[6] = {**LOST, "reason": "byte 17 of 20 is wrong"}
    changes[7] = {"reason": "no audio track", "n_samples": 0}
    source = page_of(make(tmp_path / "c", records_of(9), changes))
    assert source.row("quarantined", "a face in …% of the frames")[2:] == [
        "6",
        "clip-00, clip-01, clip-02, clip-03 and 2 more",
    ]
    assert source.row("quarantined", "byte 17 of 20 is wrong")[2:] == ["1", "clip-06"]
    assert source.row("usable", "no audio track")[2:] == ["1", "clip-07"]
    assert "lacks nothing" not in source.text
    assert [row[2] for row in source.rows if row[0] in ("quarantined", "usable")] == ["6", "1", "1"]


@pytest.mark.parametrize(
    ("index", "change", "said"),
    [
        (0, {**LOST, "reason": "gone"}, ["1 of 10 clips: quarantined"]),
        (0, {"reason": "no audio track", "n_samples": 0}, ["1 of 10 clips: usable, but without"]),
        (0, {"n_samples": 48_000 - 8_001}, ["1 of 10 clips: picture and sound differ"]),
        (0, {"n_frames": 4, "n_samples": 15_999}, ["1 of 10 clips: shorter than a window"]),
        (0, {"peak": 1.0}, ["1 of 10 clips: the sound reaches full scale"]),
        # The third clip is the only happy one.
        (2, {"label": 3, "emotion": "sad"}, ["No usable clip is happy."]),
        (2, {**LOST, "reason": "gone"}, ["1 of 10 clips: quarantined", "No usable clip is happy."]),
    ],
)
def test_what_stands_out_is_said(tmp_path: pathlib.Path, index: int, change: dict[str, Any], said: list[str]) -> None:
    source = written(make(tmp_path / "c", records_of(10), {index: change}))
    [note] = re.findall(r'class="note"><b>To look at.</b>(.*)</p>', source)
    for line, beginning in zip(note.removeprefix("<br>").split("<br>"), said, strict=True):
        assert line.startswith(beginning)


def test_where_nothing_stands_out_nothing_is_said(tmp_path: pathlib.Path) -> None:
    # Half a second apart to the sample, and just below full scale, are no cause.
    changes = {0: {"n_samples": 40_000, "peak": 0.9999}, 1: {"n_frames": 5, "n_samples": 16_000}}
    text = page_of(make(tmp_path / "c", records_of(10), changes)).text
    assert "To look at" not in text
    assert "Every clip is usable and lacks nothing." in text


def test_the_poorest_clips_come_first(tmp_path: pathlib.Path) -> None:
    records = records_of(20)
    found = [np.arange(15) >= min(i, 13) for i in range(20)]
    records = [dataclasses.replace(record, face_found=there) for record, there in zip(records, found, strict=True)]
    folder = make(tmp_path / "c", records, {i: {"jitter": ((7 * i) % 20) / 1000} for i in range(20)})
    source = written(folder)
    # Clips 13 to 19 are equally poor, so they stand by name; clip 0 has a face everywhere.
    assert shown(source, "Fewest faces found") == [f"clip-{i}" for i in [*range(13, 20), 12, 11, 10]] + [
        "clip-09",
        "clip-08",
    ]
    by_jitter = sorted(range(20), key=lambda i: -((7 * i) % 20))[:12]
    assert shown(source, "Most box jitter") == [f"clip-{i:02d}" for i in by_jitter]
    assert shown(source, "Quietest clips") == [f"clip-{i}" for i in range(19, 13, -1)]
    assert shown(source, "Loudest clips") == [f"clip-0{i}" for i in range(6)]


def test_a_sheet_of_gaps_only_where_there_are_gaps(corpus: pathlib.Path) -> None:
    assert "Fewest faces found" not in written(corpus)
    assert "no face" not in written(corpus)


def test_random_clips_do_not_depend_on_the_order_of_the_manifest(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path / "c", records_of(40))
    chosen = shown(written(folder), "Random clips")
    assert len(set(chosen)) == 24
    rows = list(read_rows(folder / MANIFEST))
    random.Random(0).shuffle(rows)
    write_rows(folder / MANIFEST, rows)
    assert shown(written(folder), "Random clips") == chosen


def test_strips_are_the_windows_that_training_sees(tmp_path: pathlib.Path) -> None:
    [record] = records_of(1)
    record = dataclasses.replace(record, face_found=np.arange(15) != 9, label=5)
    notes = NoPictures()
    source = written(make(tmp_path / "c", [record]), notes)
    strips = [args[0] for name, args, _ in notes.calls if name == "strip_uri"]
    # The middle window; the first that holds the time without a face; that around the jerk, of which there is none.
    for strip, start in zip(strips, (5, 5, 0), strict=True):
        np.testing.assert_array_equal(strip, cut(record, start)["strip"])
    assert source.count('<span style="left: 80%"><i>no face</i></span>') == 2
    assert "<b>fearful</b> found 93 %, jitter 0.00 %" in source
    [sound] = {args[0].tobytes() for name, args, _ in notes.calls if name == "sound"}
    assert sound == record.waveform.tobytes()


def test_of_a_long_sound_only_the_beginning_is_drawn(tmp_path: pathlib.Path) -> None:
    notes = NoPictures()
    written(make(tmp_path / "c", records_of(1, waveform=np.arange(200_000, dtype=np.int16))), notes)
    drawn = [args[0] for name, args, _ in notes.calls if name == "sound"]
    assert {len(waveform) for waveform in drawn} == {160_000}


@given(st.lists(st.booleans(), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_the_poorest_window_is_the_first_with_the_fewest_faces(found: list[bool]) -> None:
    size = 4
    record = dataclasses.replace(
        records_of(1)[0],
        faces=np.zeros((len(found), size, size, 3), np.uint8),
        face_found=np.array(found),
        box=np.zeros((len(found), 4), np.float32),
    )
    start = inspect.fewest_found(record)
    counts = [sum(found[i : i + 5]) for i in range(max(1, len(found) - 4))]
    assert start == counts.index(min(counts))
    assert inspect.marks(record.face_found, start) == [
        ("" if found[t] else "no face") if t < len(found) else "past the end" for t in range(start, start + 5)
    ]


@given(st.integers(4, 20), st.data())
@settings(max_examples=60, deadline=None)
def test_the_window_of_the_largest_jerk_holds_it(n_times: int, data: st.DataObject) -> None:
    found = np.array(data.draw(st.lists(st.booleans(), min_size=n_times, max_size=n_times)))
    jump = data.draw(st.integers(0, n_times - 1))
    box = np.tile(np.float32([10, 10, 30, 30]), (n_times, 1))
    box += np.where(np.arange(n_times) == jump, 9, 0).astype(np.float32)[:, None]
    faces = np.zeros((n_times, 4, 4, 3), np.uint8)
    start = inspect.largest_jerk(dataclasses.replace(records_of(1)[0], faces=faces, face_found=found, box=box))
    assert 0 <= start <= max(0, n_times - 5)
    there = np.flatnonzero(found)
    if jump in there[1:-1]:
        assert start == np.clip(jump - 2, 0, max(0, n_times - 5))
    if len(there) < 3:
        assert start == 0


def test_sound_alone(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path / "c", records_of(9, **NO_PICTURE), {i: {"modality": "a", "detector": ""} for i in range(9)})
    source = written(folder)
    sound_page = Page(source)
    assert len(shown(source, "Random clips")) == 6
    assert all(alt.startswith(("Waveform", "Histogram")) for alt in sound_page.alts)
    for word in ("Faces", "Face found", "Box jitter", "face found", "box jitter"):
        assert word not in sound_page.text
    assert sound_page.row("a")[4:] == ["3.0", "−24.0", "50.0"]
    assert len(sound_page.tiles) == 3


def test_picture_alone(tmp_path: pathlib.Path) -> None:
    changes = {i: {"peak": 0.0, "rms_dbfs": -120.0, "reason": "no audio track"} for i in range(3)}
    source = written(make(tmp_path / "c", records_of(3, **NO_SOUND), changes))
    assert "Waveform" not in source
    assert "Loudness" not in source
    assert Page(source).row("length")[1:3] == ["3", "3.0"]


def test_no_usable_clip(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path / "x-0", records_of(2), {i: {**LOST, "reason": "the file is empty"} for i in range(2)})
    lost = page_of(folder)
    assert lost.row("quarantined", "the file is empty")[2] == "2"
    assert "Distributions" not in lost.text
    assert "The prepared corpus: x-0" in lost.text
    assert lost.loads == []


@pytest.mark.parametrize("n_times", [1, 3, 5])
def test_one_short_clip(tmp_path: pathlib.Path, n_times: int) -> None:
    short = {
        "faces": np.full((n_times, 8, 8, 3), 99, np.uint8),
        "face_found": np.ones(n_times, bool),
        "box": np.ones((n_times, 4), np.float32),
        "waveform": np.ones(3200 * n_times, np.int16),
    }
    source = written(make(tmp_path / "c", records_of(1, **short)), drawn=True)
    assert source.count("<i>past the end</i>") == 2 * (5 - n_times)
    assert shown(source, "Random clips") == ["clip-00"]


def test_only_the_records_that_are_shown_are_read(tmp_path: pathlib.Path) -> None:
    folder = make(tmp_path / "c", records_of(8))
    rows = list(read_rows(folder / MANIFEST))

    def many(count: int) -> Any:
        for i in range(count):
            yield dataclasses.replace(rows[i % 8], clip_id=f"clip-{i:05d}", found_share=0.9, jitter=i / 1e6)

    write_rows(folder / MANIFEST, many(10_000))
    with mock.patch.object(inspect, "decode", wraps=inspect.decode) as decode:
        source = written(folder)
    assert decode.call_count == 1 + 24 + 12 + 12 + 18
    assert "of 10,000 found" in source
    assert len(source) < 100_000


def test_markup_in_names_is_text(tmp_path: pathlib.Path) -> None:
    evil = "<script>alert('&\"')</script>"
    changes = {0: {**LOST, "clip_id": evil, "reason": evil, "speaker": evil}}
    folder = make(tmp_path / "c", records_of(3, corpus=evil), changes)
    (folder / "settings.json").write_text(json.dumps({"detector": evil}))
    source = written(folder)
    assert "<script" not in source
    assert Page(source).text.count(evil) >= 5


def test_settings_name_no_folder_of_this_computer(corpus: pathlib.Path) -> None:
    settings_page = page_of(corpus)
    assert settings_page.row("detector") == ["detector", "centerface"]
    assert settings_page.row("detector_sizes")[1] == "[320, 640]"
    assert settings_page.row("cache")[1] == "…/cache"
    assert page.CREDITS["ravdess"] in settings_page.text


@pytest.mark.parametrize(
    ("name", "content"),
    [(MANIFEST, None), (MANIFEST, "{"), (MANIFEST, '{"a": 1}\n'), ("settings.json", None), ("settings.json", "{")],
)
def test_an_unreadable_folder_is_a_user_error(corpus: pathlib.Path, name: str, content: str | None) -> None:
    (corpus / "prepared.html").write_text("old")
    (corpus / name).unlink() if content is None else (corpus / name).write_text(content)
    with pytest.raises(UserError, match=f"{corpus.name}.*prepare again"):
        written(corpus)
    assert (corpus / "prepared.html").read_text() == "old"


def test_a_page_that_cannot_be_written_is_a_user_error(corpus: pathlib.Path) -> None:
    with (
        NoPictures().within(inspect),
        pytest.raises(UserError, match=r"nowhere/prepared\.html cannot be written"),
    ):
        inspect.write_prepared(corpus, corpus / "nowhere" / "prepared.html")


def test_the_mode_writes_beside_the_records(
    corpus: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "prepared", lambda config: corpus)
    monkeypatch.setattr(inspect, "figures", NoPictures())
    monkeypatch.setattr(inspect, "pictures", NoPictures())
    workdir = corpus.parent / "run"
    commands.MODES["inspect"](ravdess.get_config().to_dict(), workdir)
    assert (corpus / "prepared.html").is_file()
    assert str(corpus / "prepared.html") in capsys.readouterr().out
    assert not workdir.exists()


def test_a_histogram_shows_an_outlier_among_thousands() -> None:
    values = np.array([1.0] * 5000 + [0.0])
    [axes] = figures.histogram(values, xlabel="x", span=(0, None)).axes
    assert [(bar.get_x(), bar.get_height()) for bar in axes.patches] == [(0, 1), (pytest.approx(0.96), 5000)]
    assert all(bar.get_linewidth() > 1 for bar in axes.patches)
    assert axes.get_title(loc="right") == "median 1"
    assert axes.get_xlim() == (0, 1)


@pytest.mark.parametrize("values", [[0.0], [-40.0, -40.0], [100.0]])
def test_a_histogram_of_equal_values(values: list[float]) -> None:
    [axes] = figures.histogram(np.array(values), xlabel="x").axes
    assert sum(bar.get_height() for bar in axes.patches) == len(values)


def test_a_sound_is_drawn_to_its_own_peak_over_its_length() -> None:
    below, above = pictures.sound((1000 * np.sin(np.arange(32_000))).astype(np.int16)).axes
    assert above.get_ylim() == (-999, 999)
    assert above.get_xlim() == below.get_xlim() == (0, 2)
    for waveform in (np.zeros(100, np.int16), np.ones(1, np.int16), np.full(9000, -32768, np.int16)):
        assert pictures.jpeg_uri(pictures.sound(waveform)).startswith("data:image/jpeg")


def test_a_strip_of_noise_is_a_picture_too():
    noise = np.random.default_rng(0).integers(0, 256, (96, 480, 3), np.uint8)
    data = base64.b64decode(pictures.strip_uri(noise).partition(",")[2])
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert shown.shape == noise.shape
    assert np.abs(shown.astype(int) - noise).mean() < 20


@pytest.mark.parametrize(("side", "height"), [(64, 64), (96, 96), (512, 96)])
def test_a_strip_keeps_its_pixels_unless_it_is_large(side: int, height: int) -> None:
    uri = pictures.strip_uri(np.full((side, 5 * side, 3), (200, 100, 50), np.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (5 * height, height)
    np.testing.assert_allclose(np.asarray(picture).reshape(-1, 3), [[200, 100, 50]] * (5 * height * height), atol=4)
