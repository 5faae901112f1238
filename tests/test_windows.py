"""Windows: which there are, what each shows and sounds like, and that a batch counts each exactly once."""

import dataclasses
import itertools
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.input.batches import Batch, Source, cut, evaluation_batches, training_batches
from fusion_emotion.input.segments import Windows, n_times, split_windows, usable_rows, windows_of
from fusion_emotion.prepare.records import MANIFEST, SHARDS, Record, Row, encode, write_rows

SIZE = 4
SAMPLES = 3200  # per sample time


def record(
    number: int = 0, *, frames: int = 12, sound: int | None = None, unseen: Iterable[int] = (), speaker: int = 1
) -> Record:
    """A clip whose every face and every sample says which sample time of which clip it is of."""
    found = np.ones(frames, bool)
    found[list(unseen)] = False
    side = np.arange(SIZE, dtype=np.uint8)
    faces = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
    faces[..., 0] = np.arange(frames)[:, None, None]
    faces[..., 1] = number
    faces[..., 2] = 10 * side[:, None] + side
    n_samples = frames * SAMPLES if sound is None else sound
    return Record(
        clip_id=f"clip {number}",
        take_id=f"take {number}",
        speaker=f"{speaker:02d}",
        corpus="ravdess",
        label=number % 8,
        faces=faces,
        face_found=found,
        box=np.zeros((frames, 4), np.float32),
        waveform=(100 * number + np.arange(n_samples) // SAMPLES).astype(np.int16),
    )


def rows_of(records: Sequence[Record]) -> list[Row]:
    return [tiny.row_of(record, index=index) for index, record in enumerate(records)]


def prepared(folder: pathlib.Path, records: Sequence[Record], *, per_shard: int = 4) -> Windows:
    """The windows of `records`, which now lie in shards in `folder`."""
    (folder / SHARDS).mkdir(parents=True)
    for number, first in enumerate(range(0, len(records), per_shard)):
        writer = ArrayRecordWriter(str(folder / SHARDS / f"{number:05d}.arrayrecord"), "group_size:1")
        for one in records[first : first + per_shard]:
            writer.write(encode(one))
        writer.close()
    return windows_of(rows_of(records))


# Lengths that do and do not divide into seconds; clips without sound, without pictures, and with a face that is lost.
RECORDS = [
    record(0, frames=12),
    record(1, frames=3, speaker=2),
    record(2, frames=5, sound=0, speaker=3),
    record(3, frames=0, sound=12 * SAMPLES, speaker=4),
    record(4, frames=15, unseen=range(5, 10), speaker=5),
    record(5, frames=10, sound=6 * SAMPLES + 17, speaker=6),
    record(6, frames=16, speaker=7),
]
EXPECTED = [(0, 0), (0, 5), (1, 0), (2, 0), (3, 0), (3, 5), (4, 0), (4, 5), (4, 10), (5, 0), (5, 5)]
EXPECTED += [(6, 0), (6, 5), (6, 10)]


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Source:
    return Source.open(tmp_path, prepared(tmp_path, RECORDS))


# Which windows there are


def test_windows_are_the_whole_seconds_of_each_clip() -> None:
    windows = windows_of(rows_of(RECORDS))
    assert list(zip(windows.clip.tolist(), windows.start.tolist(), strict=True)) == EXPECTED
    assert len(windows) == len(EXPECTED)
    assert windows.n_clips == len(RECORDS)
    assert windows.labels.tolist() == [record.label for record in RECORDS]


clip_lengths = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40 * SAMPLES)), max_size=6)


@settings(deadline=None)
@given(clip_lengths)
def test_every_clip_has_windows_that_do_not_overlap_and_do_not_leave_it(lengths: list[tuple[int, int]]) -> None:
    blank = rows_of([record()])[0]
    rows = [dataclasses.replace(blank, n_frames=frames, n_samples=samples) for frames, samples in lengths]
    windows = windows_of(rows)
    for clip, row in enumerate(rows):
        starts = windows.start[windows.clip == clip]
        assert starts.tolist() == list(range(0, 5 * len(starts), 5))
        assert len(starts) == max(1, n_times(row) // 5)
        assert row.n_frames == 0 or n_times(row) == row.n_frames
        assert row.n_frames or abs(n_times(row) - row.n_samples / SAMPLES) <= 1


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=len(EXPECTED), max_size=len(EXPECTED)))
def test_a_part_has_its_windows_and_only_their_clips(chosen: list[bool]) -> None:
    windows = windows_of(rows_of(RECORDS))
    part = windows.part(np.array(chosen))
    there = [(part.rows[clip].clip_id, start) for clip, start in zip(part.clip, part.start, strict=True)]
    assert there == [(f"clip {clip}", start) for (clip, start), kept in zip(EXPECTED, chosen, strict=True) if kept]
    assert [row.clip_id for row in part.rows] == list(dict.fromkeys(clip_id for clip_id, _ in there))
    assert part.n_clips == len(part.rows)


def test_clips_that_lack_what_is_asked_for_are_counted(tmp_path: pathlib.Path) -> None:
    rows = rows_of(RECORDS)
    rows[0] = dataclasses.replace(rows[0], status="quarantined", reason="no face")
    write_rows(tmp_path / MANIFEST, rows)

    def kept(modalities: str) -> tuple[list[int], dict[str, int]]:
        usable, others = usable_rows(tmp_path, modalities)
        return [int(row.clip_id[5:]) for row in usable], dict(others)

    assert kept("audio+video") == ([1, 2, 3, 4, 5, 6], {"quarantined": 1})
    assert kept("audio") == ([1, 3, 4, 5, 6], {"quarantined": 1, "no audio": 1})
    assert kept("video") == ([1, 2, 4, 5, 6], {"quarantined": 1, "no video": 1})


def test_a_corpus_without_a_usable_clip_is_refused(tmp_path: pathlib.Path) -> None:
    write_rows(tmp_path / MANIFEST, rows_of(RECORDS[2:3]))
    with pytest.raises(UserError, match=rf"no prepared clip can be used \(1 no audio\).*{MANIFEST}"):
        usable_rows(tmp_path, "audio")


def test_a_split_places_every_window_once(tmp_path: pathlib.Path) -> None:
    rows = rows_of([record(number, frames=20, speaker=1 + number % 6) for number in range(60)])
    split = {"fold": 0, "n_folds": 3, "test_fraction": 0.2, "validation_fraction": 0.25, "seed": 0}
    for protocol in ("random", "kfold", "random_windows"):
        parts = split_windows(rows, {**split, "protocol": protocol})
        names = {
            part: [(w.rows[clip].clip_id, start) for clip, start in zip(w.clip, w.start, strict=True)]
            for part, w in parts.items()
        }
        together = Counter(itertools.chain(*names.values()))
        assert len(together) == 240
        assert set(together.values()) == {1}
        clips = {part: {clip for clip, _ in there} for part, there in names.items()}
        shared = clips["train"] & (clips["test"] | clips["validation"])
        assert bool(shared) == (protocol == "random_windows")
        if protocol != "kfold":
            assert {part: len(there) for part, there in names.items()} == {
                "train": 144,
                "validation": 48,
                "test": 48,
            }


# What a window holds


def panels(strip: np.ndarray) -> np.ndarray:
    """The five faces of a strip, from left to right."""
    return strip.reshape(SIZE, 5, SIZE, 3).swapaxes(0, 1)


@settings(deadline=None)
@given(st.integers(1, 14), st.data())
def test_a_strip_is_five_faces_in_order_from_left_to_right(frames: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, max(0, frames - 5)))
    clip = record(3, frames=frames)
    strip = cut(clip, start)["strip"]
    assert strip.shape == (SIZE, 5 * SIZE, 3)
    assert strip.dtype == np.uint8
    for place, face in enumerate(panels(strip)):
        # A clip that ends within the window goes on with its last face.
        np.testing.assert_array_equal(face, clip.faces[min(start + place, frames - 1)])


@settings(deadline=None)
@given(st.integers(1, 14), st.integers(0, 15 * SAMPLES), st.data())
def test_the_sound_begins_with_the_faces(frames: int, n_samples: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, max(0, frames - 5)))
    clip = record(3, frames=frames, sound=n_samples)
    window = cut(clip, start)
    assert window["waveform"].shape == (16_000,)
    assert window["waveform"].dtype == np.int16
    there = clip.waveform[SAMPLES * start : SAMPLES * start + 16_000]
    np.testing.assert_array_equal(window["waveform"], [*there, *[0] * (16_000 - len(there))])
    assert window["has_audio"] == (n_samples > SAMPLES * start)


def test_a_missing_modality_is_a_flag(source: Source) -> None:
    flags = {
        pair: (bool(window["has_video"]), bool(window["has_audio"]))
        for pair, window in zip(EXPECTED, map(source.window, range(len(EXPECTED))), strict=True)
    }
    lacking = {pair: flag for pair, flag in flags.items() if flag != (True, True)}
    assert lacking == {
        (2, 0): (True, False),  # no sound
        (3, 0): (False, True),  # no pictures
        (3, 5): (False, True),
        (4, 5): (False, True),  # no face found in this second
    }
    short = cut(record(frames=10, sound=5 * SAMPLES), 5)
    assert (bool(short["has_video"]), bool(short["has_audio"])) == (True, False)
    nothing = cut(record(frames=0, sound=0), 0)
    assert (bool(nothing["has_video"]), bool(nothing["has_audio"])) == (False, False)
    assert not nothing["strip"].any()


@pytest.mark.parametrize(("unseen", "flag"), [([0, 1, 2, 3], True), ([0, 1, 2, 3, 4], False), ([5, 6], True)])
def test_one_face_in_a_window_is_enough(unseen: list[int], flag: bool) -> None:
    assert bool(cut(record(frames=12, unseen=unseen), 0)["has_video"]) == flag


def test_a_window_carries_the_label_and_clip_of_its_row(source: Source) -> None:
    for index, (clip, start) in enumerate(EXPECTED):
        window = source.window(index)
        assert {name: value.dtype.name for name, value in window.items()} == {
            "strip": "uint8",
            "waveform": "int16",
            "has_video": "bool",
            "has_audio": "bool",
            "label": "int32",
            "clip": "int32",
            "start": "int32",
            "mask": "bool",
        }
        assert (int(window["label"]), int(window["clip"])) == (RECORDS[clip].label, clip)
        assert window["mask"]
        for name, value in cut(RECORDS[clip], start).items():
            np.testing.assert_array_equal(window[name], value)


# Batches


def windows_in(batches: Iterable[Batch]) -> Iterator[tuple[int, int, bool]]:
    """(clip, start, mask) of every example, read from what it shows, or where there is no picture, sounds like."""
    for batch in batches:
        for i in range(len(batch["mask"])):
            clip = int(batch["clip"][i])
            if RECORDS[clip].faces.size:
                shown, start = panels(batch["strip"][i])[0, 0, 0, 1::-1].tolist()
            else:
                shown, start = divmod(int(batch["waveform"][i, 0]), 100)
            assert shown == clip
            assert int(batch["label"][i]) == RECORDS[clip].label
            if batch["has_audio"][i] and batch["mask"][i]:
                assert int(batch["waveform"][i, 0]) == 100 * clip + start
            yield clip, start, bool(batch["mask"][i])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 14, 15, 40])
def test_evaluation_counts_every_window_once(source: Source, batch_size: int) -> None:
    batches = list(evaluation_batches(source, batch_size=batch_size))
    assert len(batches) == -(-len(EXPECTED) // batch_size)
    assert all(len(value) == batch_size for batch in batches for value in batch.values())
    seen = list(windows_in(batches))
    assert [(clip, start) for clip, start, counts in seen if counts] == EXPECTED
    # Only the end of the last batch is filled up.
    assert [counts for *_, counts in seen] == [True] * len(EXPECTED) + [False] * (len(seen) - len(EXPECTED))


def test_evaluation_of_nothing_is_nothing(source: Source) -> None:
    nothing = Source(source.windows.part(np.zeros(len(EXPECTED), bool)), source.records)
    assert list(evaluation_batches(nothing, batch_size=4)) == []


def examples(source: Source, count: int, *, seed: int = 0, random_starts: bool = False) -> list[tuple[int, int]]:
    """The first windows that training would see."""
    batches = training_batches(source, batch_size=7, seed=seed, random_starts=random_starts)
    seen = windows_in(itertools.islice(batches, -(-count // 7)))
    return [(clip, start) for clip, start, _ in itertools.islice(seen, count)]


def test_training_sees_every_window_once_an_epoch_in_another_order_each_time(source: Source) -> None:
    seen = examples(source, 3 * len(EXPECTED))
    epochs = [seen[first : first + len(EXPECTED)] for first in range(0, len(seen), len(EXPECTED))]
    assert all(sorted(epoch) == EXPECTED for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert EXPECTED not in epochs


def test_random_starts_are_of_the_same_clips_and_anywhere_within_them(source: Source) -> None:
    epochs = 40
    seen = examples(source, epochs * len(EXPECTED), random_starts=True)
    assert Counter(clip for clip, _ in seen) == Counter(clip for _ in range(epochs) for clip, _ in EXPECTED)
    starts = {clip: {start for other, start in seen if other == clip} for clip in range(len(RECORDS))}
    for clip, row in enumerate(source.windows.rows):
        assert starts[clip] == set(range(max(1, n_times(row) - 4))), RECORDS[clip].clip_id


@pytest.mark.parametrize("random_starts", [False, True])
def test_the_seed_decides_the_order(source: Source, random_starts: bool) -> None:
    first, again, other = (examples(source, 42, seed=seed, random_starts=random_starts) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_random_starts_are_drawn_anew_each_epoch(source: Source) -> None:
    only_long = Source(source.windows.part(np.array([clip == 6 for clip, _ in EXPECTED])), source.records)
    batches = itertools.islice(training_batches(only_long, batch_size=3, seed=0, random_starts=True), 8)
    starts = [tuple(batch["strip"][:, 0, 0, 0].tolist()) for batch in batches]
    assert len(set(starts)) > 4


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_saved_iterator_goes_on_exactly_where_it_was(source: Source, taken: int) -> None:
    batches = training_batches(source, batch_size=4, seed=5, random_starts=True)
    for _ in range(taken):
        next(batches)
    state = batches.get_state()
    expected = [next(batches) for _ in range(6)]
    resumed = training_batches(source, batch_size=4, seed=5, random_starts=True)
    resumed.set_state(state)
    for batch in expected:
        for name, value in next(resumed).items():
            np.testing.assert_array_equal(value, batch[name])


def test_records_are_counted_through_the_shards(tmp_path: pathlib.Path) -> None:
    """Also where the manifest holds clips that have no record."""
    records = [record(number, frames=5) for number in range(7)]
    prepared(tmp_path, records, per_shard=3)
    rows = [row for row in rows_of(records) if row.record % 2]
    source = Source.open(tmp_path, windows_of(rows))
    shown = [int(source.window(index)["strip"][0, 0, 1]) for index in range(len(rows))]
    assert shown == [1, 3, 5]
