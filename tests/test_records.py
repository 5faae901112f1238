"""Records and manifests come back as they were written, and nothing is left half-written."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fusion_emotion.files import atomic
from fusion_emotion.prepare import records
from fusion_emotion.prepare.records import MANIFEST, Record, Row, decode, encode, read_rows, write_rows

# What a file name may hold once it is a string; lone surrogates are not text.
text = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def a_record(draw: st.DrawFn) -> Record:
    """A record of any length: without pictures, without sound, or without either."""
    n_times, size, n_samples = draw(st.integers(0, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 50))
    return Record(
        clip_id=draw(text),
        take_id=draw(text),
        speaker=draw(text),
        corpus=draw(text),
        label=draw(st.integers(0, 7)),
        faces=draw(arrays(np.uint8, (n_times, size, size, 3))),
        face_found=draw(arrays(np.bool_, n_times)),
        box=draw(arrays(np.float32, (n_times, 4))),
        waveform=draw(arrays(np.int16, n_samples)),
    )


def assert_same(one: Record, other: Record) -> None:
    for field in dataclasses.fields(Record):
        before, after = getattr(one, field.name), getattr(other, field.name)
        assert type(before) is type(after), field.name
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype, field.name
            np.testing.assert_array_equal(before, after)  # also where a box is not a number
        else:
            assert before == after, field.name


@settings(deadline=None)
@given(a_record())
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert_same(decode(encode(record)), record)


@settings(deadline=None)
@given(a_record())
def test_the_same_record_gives_the_same_bytes(record: Record) -> None:
    views: dict[str, Any] = {  # equal arrays that lie otherwise in memory
        name: np.asfortranarray(getattr(record, name)) for name in ("faces", "face_found", "box", "waveform")
    }
    assert encode(record) == encode(dataclasses.replace(record, **views)) == encode(decode(encode(record)))


def test_a_reversed_view_is_written_as_it_reads() -> None:
    faces = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)[::-1]
    record = Record(
        clip_id="",
        take_id="",
        speaker="",
        corpus="",
        label=0,
        faces=faces,
        face_found=np.array([True, False, True])[::2],
        box=np.zeros((2, 4), np.float32),
        waveform=np.arange(10, dtype=np.int16)[::-3],
    )
    assert_same(decode(encode(record)), record)


@st.composite
def a_row(draw: st.DrawFn) -> Row:
    values: dict[Any, st.SearchStrategy[Any]] = {
        str: text,
        int: st.integers(-1, 2**40),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }
    return Row(**{field.name: draw(values[field.type]) for field in dataclasses.fields(Row)})


@settings(deadline=None)
@given(st.lists(a_row(), max_size=4))
def test_a_manifest_comes_back_as_it_was(rows: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, MANIFEST)
        write_rows(path, iter(rows))
        assert list(read_rows(path)) == rows
        first = path.read_bytes()
        assert first.count(b"\n") == len(rows)
        write_rows(path, rows)
        assert path.read_bytes() == first


def test_shards_come_in_the_order_that_rows_count(tmp_path: pathlib.Path) -> None:
    (tmp_path / "shards").mkdir()
    for name in ("00010.arrayrecord", "00002.arrayrecord", ".00011.arrayrecord.77.partial", "notes.txt"):
        (tmp_path / "shards" / name).touch()
    assert [pathlib.Path(path).name for path in records.shard_paths(tmp_path)] == [
        "00002.arrayrecord",
        "00010.arrayrecord",
    ]


# Whole or not at all


def test_atomic_shows_the_file_only_when_it_is_whole(tmp_path: pathlib.Path) -> None:
    with atomic(tmp_path / "a") as partial:
        partial.write_text("new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_exception_leaves_what_was_there(
    tmp_path: pathlib.Path, error: type[BaseException], before: str | None
) -> None:
    if before is not None:
        (tmp_path / "a").write_text(before)

    def half() -> None:
        with atomic(tmp_path / "a") as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({} if before is None else {"a": before})


def test_an_exception_before_anything_was_written_is_passed_on(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a"):
        _ = 1 / 0
    assert os.listdir(tmp_path) == []


def test_a_row_that_cannot_be_written_leaves_the_old_manifest(tmp_path: pathlib.Path) -> None:
    def rows() -> Iterator[Row]:
        yield from ()
        raise OSError("no more rows")

    (tmp_path / MANIFEST).write_text("old")
    with pytest.raises(OSError, match="no more rows"):
        write_rows(tmp_path / MANIFEST, rows())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {MANIFEST: "old"}


def test_no_two_writers_have_the_same_partial_file(tmp_path: pathlib.Path) -> None:
    one, other = atomic(tmp_path / "a"), atomic(tmp_path / "a")
    assert one.partial != other.partial
    assert one.partial.parent == tmp_path  # a rename across file systems would not be atomic
