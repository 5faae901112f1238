"""Your own recordings: tables, folders, excerpts, and what is said of mistakes in them."""

import csv
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import soundfile

import run_tiny
from conftest import settings_of
from films import contents, film
from fusion_emotion.corpora import catalogue, folder
from fusion_emotion.corpora.corpus import Wanted
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.results import chosen_by
from fusion_emotion.input.data import Data
from fusion_emotion.prepare import run
from fusion_emotion.prepare.records import MANIFEST, decode, read_rows

AUDIO = Wanted(audio_alone=True, channel="both")


def tone(path: pathlib.Path, *, hertz: float = 220.0, seconds: float = 1.0) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(16_000 * seconds)) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time_s), 16_000)
    return path


def write_table(path: pathlib.Path, rows: list[dict[str, Any]], *, encoding: str = "utf-8", mark: str = ",") -> None:
    with path.open("w", encoding=encoding, newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)


def own(root: pathlib.Path, **changes: Any) -> list[dict[str, Any]]:
    """Four recordings of each of two emotions, of four speakers; `changes` are of the last row."""
    rows = []
    for number in range(8):
        emotion, speaker = ("angry", "happy")[number % 2], "abcd"[number // 2]
        tone(root / f"{number}.wav", hertz=200 + 300 * (number % 2))
        row = {"path": f"{number}.wav", "emotion": emotion, "speaker": speaker, "sex": "fm"[number // 4], "age": "34"}
        rows.append(row)
    rows[-1] |= changes
    for row in rows:
        row |= {name: row.get(name, "") for name in changes}
    return rows


def find(root: pathlib.Path, **wanted: Any) -> Any:
    return catalogue.find_clips(folder.CORPUS, root, Wanted(**{**vars(AUDIO), "table": "labels.csv", **wanted}))


def test_a_table_names_its_clips(tmp_path: pathlib.Path) -> None:
    write_table(tmp_path / "labels.csv", own(tmp_path, split="val", start_s="0.25", end_s="0.75"), encoding="utf-8-sig")
    clips = find(tmp_path).clips
    assert len(clips) == 8
    last = clips[-1]
    assert (last.clip_id, last.take_id, last.speaker) == ("folder/7.wav#0.25-0.75", "folder/7", "folder/d")
    assert (last.emotion, last.sex, last.split, last.more) == ("happy", "male", "validation", ("age=34",))
    assert (last.start_s, last.end_s, last.modality) == (0.25, 0.75, "a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "gone.wav"}, r"row 9, column path: 'gone\.wav' is no file"),
        ({"path": "labels.csv"}, "row 9, column path: labels.csv has no extension"),
        ({"emotion": ""}, "row 9, column emotion: empty"),
        ({"emotion": "hapy"}, "row 9, column emotion: 'hapy' is unknown"),
        ({"emotion": "sad"}, "row 9 is the only recording of emotion 'sad'"),
        ({"sex": "x"}, "row 9, column sex: 'x' is not one of male"),
        ({"split": "dev set"}, "row 9, column split: 'dev set' is not one of train"),
        ({"start_s": "2", "end_s": "1"}, "row 9, column start_s: 2 is not before end_s, 1"),
        ({"start_s": "now"}, "row 9, column start_s: 'now' is no number of seconds"),
        ({"end_s": "-1"}, "row 9, column end_s: '-1' is no number of seconds"),
        ({"path": "6.wav"}, "row 9, column path: 6.wav has another emotion in row 8"),
        ({"speaker": ""}, "row 9, column speaker: named in some rows and empty in others"),
    ],
)
def test_a_mistake_in_a_table_is_named_by_row_and_column(
    tmp_path: pathlib.Path, changes: dict[str, str], said: str
) -> None:
    write_table(tmp_path / "labels.csv", own(tmp_path, **changes))
    with pytest.raises(UserError, match=said):
        find(tmp_path, labels="basic6")


def test_a_table_of_another_kind_is_an_error(tmp_path: pathlib.Path) -> None:
    table, rows = tmp_path / "labels.csv", own(tmp_path)
    for said, kind in (
        ("separated by ';'", {"mark": ";"}),
        ("not in UTF-8", {"encoding": "utf-16"}),
    ):
        write_table(table, rows, **kind)
        with pytest.raises(UserError, match=said):
            find(tmp_path)
    table.write_text("path,emotion\n0.wav,angry,too much\n")
    with pytest.raises(UserError, match="row 2 has not as many cells"):
        find(tmp_path)
    table.write_text("path,emotion\n")
    with pytest.raises(UserError, match="no row below its header"):
        find(tmp_path)
    with pytest.raises(UserError, match=r"none\.csv' cannot be read"):
        find(tmp_path, table="none.csv")


def test_a_parquet_table_is_read_as_a_csv_is(tmp_path: pathlib.Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = own(tmp_path)
    write_table(tmp_path / "labels.csv", rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "labels.parquet")
    assert find(tmp_path).clips == find(tmp_path, table="labels.parquet").clips


def test_folders_are_named_after_emotions(tmp_path: pathlib.Path) -> None:
    for name in ("angry/x/1.wav", "Joy/2.wav", "notes/3.wav"):
        tone(tmp_path / "one" / name)
    found = find(tmp_path / "one", table="")
    assert [(clip.emotion, clip.speaker) for clip in found.clips] == [("happy", ""), ("angry", "")]
    assert len(found.passed_over) == 1
    for name in ("ann/angry/1.wav", "bob/happy/x/2.wav"):
        tone(tmp_path / "two" / name)
    assert [clip.speaker for clip in find(tmp_path / "two", table="").clips] == ["folder/ann", "folder/bob"]
    tone(tmp_path / "two" / "happy" / "1.wav")
    with pytest.raises(UserError, match="choose one way"):
        find(tmp_path / "two", table="")
    tone(tmp_path / "three" / "1.wav")
    with pytest.raises(UserError, match=r"no folder that is named after an emotion.*labels\.csv"):
        find(tmp_path / "three", table="")


def test_excerpts_of_recordings_are_counted_by_recording_and_label(tmp_path: pathlib.Path) -> None:
    rows = []
    for number, (first, second) in enumerate([("happy", "sad"), ("sad", "happy"), ("sad", "happy")]):
        tone(tmp_path / f"{number}.wav", seconds=2)
        rows += [
            {"path": f"{number}.wav", "emotion": emotion, "start_s": at, "end_s": at + 1}
            for at, emotion in ((0, first), (1, second))
        ]
    write_table(tmp_path / "labels.csv", rows)
    assert len(find(tmp_path).clips) == 6
    write_table(
        tmp_path / "labels.csv", [{**row, "emotion": "sad" if i < 3 else "fearful"} for i, row in enumerate(rows)]
    )
    assert len(find(tmp_path, labels="negative=sad+fearful, positive=happy").clips) == 6
    write_table(tmp_path / "labels.csv", [*rows[:4], {**rows[4], "emotion": "angry"}])
    with pytest.raises(UserError, match="row 6 is the only recording of emotion 'angry'"):
        find(tmp_path)
    assert len(find(tmp_path, labels="negative=sad, positive=happy").clips) == 5


def test_a_table_as_pandas_writes_it(tmp_path: pathlib.Path) -> None:
    for number in range(4):
        tone(tmp_path / f"{number}.wav")
    lines = [f"{number},{number}.wav,{'angry' if number % 2 else 'happy'}" for number in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join([",path,emotion", *lines]))
    clips = find(tmp_path).clips
    assert [clip.emotion for clip in clips] == ["happy", "angry", "happy", "angry"]
    assert not clips[0].more


def test_a_name_that_is_not_utf8_is_passed_over(tmp_path: pathlib.Path) -> None:
    for name in ("angry/1.wav", "happy/2.wav"):
        tone(tmp_path / name)
    os.rename(os.fsencode(tmp_path / "angry" / "1.wav"), os.fsencode(tmp_path / "angry") + b"/t\xff.wav")
    found = find(tmp_path, table="")
    assert [clip.emotion for clip in found.clips] == ["happy"]
    [(path, reason)] = found.passed_over
    assert path.isascii()
    assert reason == "its path is not in UTF-8: rename it"


def test_spellings_of_an_emotion_are_one_label(tmp_path: pathlib.Path) -> None:
    for name in ("ann/Angry/1.wav", "bob/angry/2.wav", "ann/happy/3.wav", "bob/Happiness/4.wav"):
        tone(tmp_path / "folders" / name)
    assert {clip.emotion for clip in find(tmp_path / "folders", table="").clips} == {"angry", "happy"}
    rows = own(tmp_path / "table")
    for row, word in zip(rows, 4 * ["Happiness", "joy "], strict=True):
        row["emotion"] = word if row["emotion"] == "happy" else row["emotion"]
    write_table(tmp_path / "table" / "labels.csv", rows)
    assert {clip.emotion for clip in find(tmp_path / "table").clips} == {"angry", "happy"}


def test_a_dialogue_in_one_file_is_refused_where_its_speakers_are_parted(tmp_path: pathlib.Path) -> None:
    rows = []
    for number in range(3):
        path = tone(tmp_path / f"talk{number}.wav", seconds=2.0)
        for place, (name, emotion) in enumerate((("ann", "happy"), ("bob", "angry"))):
            excerpt = {"start_s": place, "end_s": place + 1}
            rows.append({"path": path.name, "emotion": emotion, "speaker": f"{name}{number}", **excerpt})
    write_table(tmp_path / "labels.csv", rows)
    records = run.prepare(find(tmp_path).clips, settings_of(tmp_path / "cache"))
    own_data = {"data__corpus": "folder", "model__modalities": "audio"}
    said = r"folder/talk\d has the speakers folder/ann\d and folder/bob\d, .* two sides: cut it .*protocol=takes"
    with pytest.raises(UserError, match=said):
        Data.open(run_tiny.settings(**own_data), records)
    data = Data.open(run_tiny.settings(**own_data, split__protocol="random"), records)
    assert sum(segments.n_clips for segments in data.parts.values()) == 6


def test_an_excerpt_is_the_piece_of_its_file(tmp_path: pathlib.Path) -> None:
    level = [30, 90, 150, 210]
    film(tmp_path / "a.mp4", seconds=4, picture=lambda time: np.full((120, 160, 3), level[min(3, int(time))], np.uint8))
    film(tmp_path / "b.mp4")
    excerpts = (("a", 0, 1), ("a", 1, 3), ("a", 2, ""), ("b", "", ""))
    rows = [{"path": f"{name}.mp4", "emotion": "happy", "start_s": s, "end_s": e} for name, s, e in excerpts]
    write_table(tmp_path / "labels.csv", rows)
    settings = settings_of(tmp_path / "cache", detector="none", face_size=32)
    rows, records = contents(run.prepare(find(tmp_path, audio_alone=False).clips, settings))
    by_id = {row.clip_id: (row, decode(records[row.record])) for row in rows}
    for name, levels in (("0-1", [30]), ("1-3", [90, 150]), ("2-0", [150, 210])):
        row, record = by_id[f"folder/a.mp4#{name}"]
        assert row.n_frames == 5 * len(levels)
        assert row.n_samples == pytest.approx(16_000 * len(levels), abs=700)
        np.testing.assert_allclose(record.faces.mean(axis=(1, 2, 3)), np.repeat(levels, 5), atol=4)


def test_a_new_label_costs_no_new_preparation(tmp_path: pathlib.Path) -> None:
    rows = own(tmp_path)
    settings = settings_of(tmp_path / "cache")
    write_table(tmp_path / "labels.csv", rows)
    before = run.prepare(find(tmp_path).clips, settings)
    shards = sorted((tmp_path / "cache").glob("*/shards/*"))
    rows[0]["emotion"] = "happy"
    write_table(tmp_path / "labels.csv", rows)
    after = run.prepare(find(tmp_path).clips, settings)
    assert [row.emotion for row in read_rows(after / MANIFEST)][:2] == ["happy", "happy"]
    assert [row.emotion for row in read_rows(before / MANIFEST)][:2] == ["angry", "happy"]
    assert sorted((tmp_path / "cache").glob("*/shards/*")) == shards


def test_splits_of_a_table_and_of_takes(tmp_path: pathlib.Path) -> None:
    rows = own(tmp_path, split="test")
    for row, part in zip(rows, ("train", "train", "train", "train", "val", "val", "test", "test"), strict=True):
        row["split"] = part
    write_table(tmp_path / "labels.csv", rows)
    records = run.prepare(find(tmp_path).clips, settings_of(tmp_path / "cache"))
    own_data = {"data__corpus": "folder", "model__modalities": "audio"}
    data = Data.open(run_tiny.settings(**own_data, split__protocol="given"), records)
    assert {part: len(segments.rows) for part, segments in data.parts.items()} == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    table = [{**row, "split": row["split"].replace("test", "train")} for row in rows]
    write_table(tmp_path / "labels.csv", table)
    without = run.prepare(find(tmp_path).clips, settings_of(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"column split"):
        Data.open(run_tiny.settings(**own_data, split__protocol="given"), without)
    assert "part that the corpus's owners or a table name (2 clips)" in chosen_by(data, run_tiny.settings()["split"])
    for row in rows:
        row["split"] = row["split"].replace("val", "train")
    write_table(tmp_path / "labels.csv", rows)
    records = run.prepare(find(tmp_path).clips, settings_of(tmp_path / "cache"))
    for protocol, said in (("given", "speakers folder/"), ("given_takes", "drawn from those that")):
        drawn = Data.open(run_tiny.settings(**own_data, split__protocol=protocol), records)
        assert said in chosen_by(drawn, run_tiny.settings()["split"])
    assert data.label_names == ("happy", "angry")
    for row in rows:
        del row["speaker"]
    write_table(tmp_path / "labels.csv", rows)
    records = run.prepare(find(tmp_path).clips, settings_of(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"needs the speaker of each clip, and 8 of 8 have none.*takes or random"):
        Data.open(run_tiny.settings(**own_data), records)
    data = Data.open(run_tiny.settings(**own_data, split__protocol="takes"), records)
    assert sum(len(segments.rows) for segments in data.parts.values()) == 8
