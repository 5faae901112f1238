"""Records and manifests are read as they were written, and no file is left half-written."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import run_tiny
import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.files import atomic
from fusion_emotion.input.segments import usable_rows
from fusion_emotion.prepare import records
from fusion_emotion.prepare.records import MANIFEST, Record, Row, decode, encode, read_rows, write_rows

# What a file name may hold once it is a string; lone surrogates are not text.
text = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def a_record(draw: st.DrawFn) -> Record:
    """A record of any length: without pictures, without sound, or without either."""
    n_times, size, n_samples = draw(st.integers(0, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 50))
    return Record(
        **{name: draw(text) for name in ("clip_id", "take_id", "speaker", "corpus", "emotion")},
        faces=draw(arrays(np.uint8, (n_times, size, size, 3))),
        face_found=draw(arrays(np.bool_, n_times)),
        box=draw(arrays(np.float32, (n_times, 4))),
        waveform=draw(arrays(np.int16, n_samples)),
    )


def assert_same(one: Record, other: Record) -> None:
    for field in dataclasses.fields(Record):
        before, after = (np.asarray(getattr(record, field.name)) for record in (one, other))
        assert before.dtype == after.dtype, field.name
        np.testing.assert_array_equal(before, after)  # also where a box is not a number


@settings(max_examples=50)
@given(a_record())
def test_a_record_is_read_as_it_was_written_and_the_same_record_gives_the_same_bytes(record: Record) -> None:
    assert_same(decode(encode(record)), record)
    views: dict[str, Any] = {  # equal arrays that lie otherwise in memory
        name: np.asfortranarray(getattr(record, name)) for name in ("faces", "face_found", "box", "waveform")
    }
    assert encode(record) == encode(dataclasses.replace(record, **views)) == encode(decode(encode(record)))
    backwards = dataclasses.replace(record, faces=record.faces[::-1], waveform=record.waveform[::-3])
    assert_same(decode(encode(backwards)), backwards)


OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    str: text,
    int: st.integers(-1, 2**40),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    Sequence[str]: st.lists(text).map(tuple),
}
a_row = st.builds(
    Row, **{field.name: OF_TYPE[field.type] for field in dataclasses.fields(Row) if field.name != "label"}
)


@settings(max_examples=25)
@given(st.lists(a_row, max_size=3))
def test_a_manifest_is_read_as_it_was_written(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, MANIFEST)
        write_rows(path, iter(rows))
        assert list(read_rows(path)) == rows
        first = path.read_bytes()
        assert first.count(b"\n") == len(rows)
        # Labels are of a label set, not of the clips.
        write_rows(path, [dataclasses.replace(row, label=3) for row in rows])
        assert path.read_bytes() == first


def test_rows_are_labelled_when_they_are_read_for_a_model(tmp_path: pathlib.Path) -> None:
    folder = tiny.write(tmp_path / "tiny", speakers=2)
    names = ("happy", "neutral", "sad")
    rows, labels, others = usable_rows(folder, run_tiny.settings(data__labels=", ".join(names)))
    assert labels.names == names
    assert [(row.emotion, row.label) for row in rows] == 2 * [("neutral", 1), ("happy", 0), ("sad", 2)]
    assert others.total() == 2 * 5
    assert all(any(emotion in reason for reason in others) for emotion in ("calm", "disgust"))
    with pytest.raises(UserError, match="labels"):
        usable_rows(folder, run_tiny.settings(data__labels="bored, excited"))


def test_shards_come_in_the_order_that_rows_count(tmp_path: pathlib.Path) -> None:
    records.write_shard_list(tmp_path, [pathlib.Path("..", "b.arrayrecord"), pathlib.Path("é", "a.arrayrecord")])
    (tmp_path / "notes.arrayrecord").touch()
    assert records.shard_paths(tmp_path) == [str(tmp_path.parent / "b.arrayrecord"), str(tmp_path / "é/a.arrayrecord")]


# Whole or not at all


def contents(folder: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_atomic_shows_the_file_only_when_it_is_whole(tmp_path: pathlib.Path) -> None:
    with atomic(tmp_path / "a") as partial, atomic(tmp_path / "a") as other:
        assert partial != other
        assert partial.parent == tmp_path  # a rename across file systems would not be atomic
        partial.write_text("new")
        other.write_text("newer")
        assert not (tmp_path / "a").exists()
    assert contents(tmp_path) == {"a": "new"}  # the outer block ends last


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [{}, {MANIFEST: "old"}])
@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_keeps_the_file_of_before(
    tmp_path: pathlib.Path, error: type[BaseException], before: dict[str, str], begun: bool
) -> None:
    def half(path: pathlib.Path) -> None:
        with atomic(path) as partial:
            if begun:
                partial.write_text("half")
            raise error

    def rows() -> Iterator[Row]:
        yield from ()
        raise error

    for name, content in before.items():
        (tmp_path / name).write_text(content)
    for write in (half, lambda path: write_rows(path, rows())):
        with pytest.raises(error):
            write(tmp_path / MANIFEST)
        assert contents(tmp_path) == before
