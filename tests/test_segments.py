"""Segments: their places, faces and sound, and that a batch counts each exactly once."""

import dataclasses
import itertools
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_tiny
import tiny
from fusion_emotion.corpora import protocols
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.input import resident
from fusion_emotion.input.batches import Source, cut, evaluation_batches, training_batches
from fusion_emotion.input.segments import Cutting, Segments, n_times, rows_for, segments_of, split_segments, usable_rows
from fusion_emotion.models.batch import Batch, batch_spec
from fusion_emotion.prepare.records import MANIFEST, Record, Row, write_rows
from fusion_emotion.units import SAMPLES_PER_FRAME
from fusion_emotion.versions import versions

SIZE = 4
# 1.4 s with overlap, padded to the shortest of three lengths
OVERLAPPING = Cutting(longest=7, hop=3, buckets=(2, 5, 7))
WHOLE = Cutting(longest=40, hop=40, buckets=(10, 40))


def record(
    number: int = 0, *, frames: int = 12, sound: int | None = None, unseen: Iterable[int] = (), speaker: int = 1
) -> Record:
    """A clip whose every face and every sample says which sample time of which clip it is of."""
    found = np.ones(frames, bool)
    found[list(unseen)] = False
    faces = np.zeros((frames, SIZE, SIZE, 3), np.uint8)
    faces[..., 0] = np.arange(frames)[:, None, None]
    faces[..., 1] = number
    n_samples = frames * SAMPLES_PER_FRAME if sound is None else sound
    return Record(
        clip_id=f"ravdess/clip {number}",
        take_id=f"ravdess/take {number}",
        speaker=f"ravdess/{speaker:02d}",
        corpus="ravdess",
        emotion=LABEL_NAMES[number % 8],
        faces=faces,
        face_found=found,
        box=np.zeros((frames, 4), np.float32),
        waveform=(100 * number + 1 + np.arange(n_samples) // SAMPLES_PER_FRAME).astype(np.int16),
    )


def rows_of(records: Sequence[Record]) -> list[Row]:
    return [tiny.row_of(record, index=index) for index, record in enumerate(records)]


def pairs(segments: Segments) -> list[tuple[int, int]]:
    return list(zip(segments.clip.tolist(), segments.start.tolist(), strict=True))


# Lengths that do and do not divide into seconds; clips without sound, without pictures, and with a face that is lost.
RECORDS = [
    record(0, frames=12),
    record(1, frames=3, speaker=2),
    record(2, frames=5, sound=0, speaker=3),
    record(3, frames=0, sound=12 * SAMPLES_PER_FRAME, speaker=4),
    record(4, frames=15, unseen=range(5, 10), speaker=5),
    record(5, frames=10, sound=6 * SAMPLES_PER_FRAME + 17, speaker=6),
    record(6, frames=16, speaker=7),
]
EXPECTED = [(0, 0), (0, 5), (1, 0), (2, 0), (3, 0), (3, 5), (4, 0), (4, 5), (4, 10), (5, 0), (5, 5)]
EXPECTED += [(6, 0), (6, 5), (6, 10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Records in two shards."""
    folder = tmp_path_factory.mktemp("prepared")
    tiny.write_records(folder, RECORDS, per_shard=4)
    return folder


def source_of(folder: pathlib.Path, **changes: Any) -> Source:
    cutting = dataclasses.replace(Cutting(random_start=False), **changes)
    return Source.open(folder, segments_of(rows_of(RECORDS), cutting))


# The places of segments


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40 * SAMPLES_PER_FRAME)), max_size=6),
    st.integers(1, 41),
    st.integers(1, 41),
)
def test_segments_are_a_hop_apart_and_inside_their_clip(lengths: list[tuple[int, int]], longest: int, hop: int) -> None:
    [blank] = rows_of([record()])
    rows = [dataclasses.replace(blank, n_frames=frames, n_samples=samples) for frames, samples in lengths]
    segments = segments_of(rows, Cutting(longest=longest, hop=hop))
    for clip, row in enumerate(rows):
        assert n_times(row) == row.n_frames or abs(n_times(row) - row.n_samples / SAMPLES_PER_FRAME) <= 1
        starts, lengths_of_clip = (values[segments.clip == clip] for values in (segments.start, segments.length))
        assert starts.tolist() == list(range(0, hop * len(starts), hop))
        assert set(lengths_of_clip) == {min(longest, n_times(row))}
        # No further one of full length would fit.
        assert (starts + lengths_of_clip <= n_times(row)).all()
        assert n_times(row) < longest or starts[-1] + hop + longest > n_times(row)


def test_the_section_of_the_config_in_frames() -> None:
    section = {"seconds": 1.0, "hop_s": 1.0, "pad_to_s": (), "random_start": True}
    assert Cutting.from_config(section) == Cutting()
    section = {"seconds": 1.4, "hop_s": 0.6, "pad_to_s": [0.4, 1.0, 1.4], "random_start": True}
    assert Cutting.from_config(section) == OVERLAPPING
    assert [OVERLAPPING.padded(np.array([1, length])) for length in range(1, 8)] == [2, 2, 5, 5, 5, 7, 7]


def test_long_segments_are_whole_clips_and_short_hops_overlap() -> None:
    whole = segments_of(rows_of(RECORDS), WHOLE)
    assert pairs(whole) == [(clip, 0) for clip in range(7)]
    assert whole.length.tolist() == [12, 3, 5, 12, 15, 10, 16]
    overlapping = segments_of(rows_of(RECORDS[:1]), OVERLAPPING)
    assert (pairs(overlapping), overlapping.length.tolist()) == ([(0, 0), (0, 3)], [7, 7])
    assert [overlapping.middle(0), segments_of(rows_of(RECORDS), Cutting()).middle(4)] == [1, 7]


@given(st.lists(st.booleans(), min_size=len(EXPECTED), max_size=len(EXPECTED)))
def test_a_part_has_its_segments_and_only_their_clips(chosen: list[bool]) -> None:
    segments = segments_of(rows_of(RECORDS), Cutting())
    assert pairs(segments) == EXPECTED
    part = segments.part(np.array(chosen))
    kept = list(itertools.compress(EXPECTED, chosen))
    clips = list(dict.fromkeys(clip for clip, _ in kept))
    assert pairs(part) == [(clips.index(clip), start) for clip, start in kept]
    assert [row.clip_id for row in part.rows] == [f"ravdess/clip {clip}" for clip in clips]
    assert part.n_clips == len(part.rows) == len(part.speakers)
    assert part.labels.tolist() == [clip % 8 for clip in clips]


def test_clips_that_lack_a_modality_or_a_label_are_counted(tmp_path: pathlib.Path) -> None:
    rows = rows_of(RECORDS)
    rows[0] = dataclasses.replace(rows[0], status="quarantined", reason="no face")
    write_rows(tmp_path / MANIFEST, rows)
    for modalities, names, clips, labels in (
        ("audio+video", LABEL_NAMES, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ("audio", LABEL_NAMES, [1, 3, 4, 5, 6], [1, 3, 4, 5, 6]),
        ("video", LABEL_NAMES[:1:-1], [2, 4, 5, 6], [5, 3, 2, 1]),  # fewer labels, in another order
    ):
        config = run_tiny.settings(model__modalities=modalities, data__labels=", ".join(names))
        usable, _, others = usable_rows(tmp_path, config)
        assert [int(row.clip_id[-1]) for row in usable] == clips
        assert [row.label for row in usable] == labels
        assert others.total() == 7 - len(clips)
    write_rows(tmp_path / MANIFEST, rows[2:3])
    with pytest.raises(UserError, match="1 no audio"):
        usable_rows(tmp_path, run_tiny.settings(model__modalities="audio"))


def test_clips_of_one_emotion_are_refused(tmp_path: pathlib.Path) -> None:
    write_rows(tmp_path / MANIFEST, [dataclasses.replace(row, emotion="angry") for row in rows_of(RECORDS)])
    with pytest.raises(UserError, match="all clips are of one emotion, angry"):
        usable_rows(tmp_path, run_tiny.settings(data__corpus="folder"))
    lost = [dataclasses.replace(row, status="quarantined", reason="no face") for row in rows_of(RECORDS)]
    write_rows(tmp_path / MANIFEST, lost)
    with pytest.raises(UserError, match=r"no prepared clip can be used .*7 quarantined"):
        usable_rows(tmp_path, run_tiny.settings(data__corpus="folder"))


def test_a_column_of_the_owner_goes_before_a_field_of_the_same_name() -> None:
    row = dataclasses.replace(rows_of(RECORDS)[0], channel="speech", more=("channel=telephone",))
    assert (row.value("channel"), row.value("modality"), row.value("value")) == ("telephone", row.modality, "")


def test_packages_that_are_not_installed_have_no_version() -> None:
    assert set(versions(("numpy", "no-such-package"))) == {"numpy"}


def test_corpora_that_are_not_there_are_named() -> None:
    split = {**SPLIT, "protocol": "kfold", "corpora": ("ravdess", "emobd")}
    with pytest.raises(UserError, match=r"split\.corpora names emobd, and the usable clips are of ravdess"):
        split_segments(rows_of(SIXTY), split, Cutting())
    with pytest.raises(UserError, match=r"protocol train:ravdess test:tess names tess"):
        rows_for(protocols.protocol("train:ravdess test:tess"), rows_of(SIXTY))


SPLIT = {"fold": 0, "n_folds": 3, "test_fraction": 0.2, "validation_fraction": 0.25, "seed": 0}
SIXTY = [record(number, frames=20, speaker=1 + number % 6) for number in range(60)]


@pytest.mark.parametrize("protocol", ["random", "kfold", "random_windows"])
def test_a_split_places_every_segment_once(protocol: str) -> None:
    parts = split_segments(rows_of(SIXTY), {**SPLIT, "protocol": protocol}, Cutting())
    names = {part: [(s.rows[clip].clip_id, start) for clip, start in pairs(s)] for part, s in parts.items()}
    counts = Counter(itertools.chain(*names.values()))
    assert (len(counts), set(counts.values())) == (240, {1})
    clips = {part: {clip for clip, _ in pairs_of} for part, pairs_of in names.items()}
    shared = clips["train"] & (clips["test"] | clips["validation"])
    assert bool(shared) == (protocol == "random_windows")
    if protocol != "kfold":
        assert [len(names[part]) for part in ("train", "validation", "test")] == [144, 48, 48]
    # Training segments that start anywhere would reach into those that test.
    assert parts["train"].cutting.random_start == (protocol != "random_windows")


@pytest.mark.parametrize(("cutting", "word"), [(OVERLAPPING, "overlap"), (WHOLE, "whole clips")])
def test_a_protocol_of_segments_needs_several_apart(cutting: Cutting, word: str) -> None:
    with pytest.raises(UserError, match=f"split.protocol=random_windows.*{word}"):
        split_segments(rows_of(SIXTY), {**SPLIT, "protocol": "random_windows"}, cutting)
    parts = split_segments(rows_of(SIXTY), {**SPLIT, "protocol": "random"}, cutting)
    assert sum(part.n_clips for part in parts.values()) == 60


# The faces and sound of a segment


@given(st.integers(0, 14), st.integers(0, 15 * SAMPLES_PER_FRAME), st.integers(1, 9), st.integers(0, 4), st.data())
def test_faces_and_sound_of_a_segment(frames: int, n_samples: int, length: int, more: int, data: st.DataObject) -> None:
    clip, pad_to = record(3, frames=frames, sound=n_samples), length + more
    start = data.draw(st.integers(0, max(0, frames - length)))
    segment = cut(clip, start, length, pad_to=pad_to)
    times, end = np.arange(start, start + pad_to), min(frames, start + length)
    np.testing.assert_array_equal(segment["face_found"], times < end)
    assert segment["has_video"] == (start < end)
    # The last face is repeated.
    faces = clip.faces[np.minimum(times, end - 1)] if frames else np.zeros((pad_to, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(segment["faces"], faces)
    sound = clip.waveform[SAMPLES_PER_FRAME * start : SAMPLES_PER_FRAME * (start + length)]
    np.testing.assert_array_equal(segment["waveform"], [*sound, *[0] * (SAMPLES_PER_FRAME * pad_to - len(sound))])
    assert (segment["n_samples"], segment["has_audio"]) == (max(1, len(sound)), len(sound) > 0)


def test_a_missing_modality_is_a_flag(folder: pathlib.Path) -> None:
    source = source_of(folder)
    spec = batch_spec({"prepare": {"face_size": SIZE}, "segment": {"seconds": 1.0}})
    lacking = {}
    for index, (clip, start) in enumerate(EXPECTED):
        segment = source.segment(index)
        if not (segment["has_video"] and segment["has_audio"]):
            lacking[clip, start] = "video" if segment["has_audio"] else "audio"
        assert (int(segment["label"]), int(segment["clip"]), bool(segment["mask"])) == (clip % 8, clip, True)
        assert int(segment["n_frames"]) == (3 if clip == 1 else 5)
        for name, field in spec.items():
            assert (segment[name].shape, segment[name].dtype) == (field.shape[1:], field.dtype), name
    # The last: no face was found in this second.
    assert lacking == {(2, 0): "audio", (3, 0): "video", (3, 5): "video", (4, 5): "video"}


@pytest.mark.parametrize("cutting", [Cutting(), OVERLAPPING, WHOLE], ids=["seconds", "overlapping", "whole clips"])
def test_resident_records_give_the_same_batches(folder: pathlib.Path, cutting: Cutting) -> None:
    """Every segment, and one from every sample time, padded to every length that holds it."""
    source = Source.open(folder, segments_of(rows_of(RECORDS), cutting))
    records = resident.load(source)
    anywhere = [
        (clip, start, min(cutting.longest, n_times(row) - start))
        for clip, row in enumerate(source.segments.rows)
        for start in range(n_times(row))
    ]
    on_device = jax.jit(resident.with_media, static_argnames="pad_to")
    for pad_to in cutting.buckets:
        clip, start, length = np.array([place for place in anywhere if place[2] <= pad_to], np.int32).T
        picked = {"clip": clip, "start": start, "n_frames": length, "pad_to": np.full(len(clip), pad_to, np.int32)}
        expected, batch = source.with_media(picked), on_device(records, picked, pad_to=pad_to)
        assert expected.keys() == batch.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name], value, err_msg=f"{name}, {pad_to}")
            assert batch[name].dtype == value.dtype


def test_resident_records_fit_by_their_size() -> None:
    rows = rows_of(RECORDS)
    size = sum(row.n_frames * SIZE**2 * 3 + row.n_samples * 2 for row in rows) / 1e9
    assert resident.fits(rows, face_size=SIZE, max_gb=size * 1.001)
    assert not resident.fits(rows, face_size=SIZE, max_gb=size * 0.999)


# Batches


def segments_in(batches: Iterable[Batch]) -> Iterator[tuple[int, int, bool]]:
    """(clip, start, mask) of every example, read from its faces, or from its sound if it has no faces."""
    for batch in batches:
        for i in range(len(batch["mask"])):
            clip = int(batch["clip"][i])
            if RECORDS[clip].faces.size:
                shown, start = batch["faces"][i, 0, 0, 0, 1::-1].tolist()
            else:
                shown, start = divmod(int(batch["waveform"][i, 0]) - 1, 100)
            assert (shown, start) == (clip, int(batch["start"][i]))
            assert int(batch["label"][i]) == clip % 8
            if batch["has_audio"][i]:
                assert int(batch["waveform"][i, 0]) == 100 * clip + start + 1
            yield clip, start, bool(batch["mask"][i])


@pytest.mark.parametrize("batch_size", [1, 3, 14, 15, 40])
def test_evaluation_counts_every_segment_once(folder: pathlib.Path, batch_size: int) -> None:
    source = source_of(folder)
    batches = list(evaluation_batches(source, batch_size=batch_size))
    assert all(len(value) == batch_size for batch in batches for value in batch.values())
    seen = list(segments_in(batches))
    # Only the end of the last batch is filled.
    filled = -len(EXPECTED) % batch_size
    assert seen == [(*pair, True) for pair in EXPECTED] + [(*seen[len(seen) - batch_size][:2], False)] * filled
    nothing = Source(source.segments.part(np.zeros(len(EXPECTED), bool)), source.records)
    assert list(evaluation_batches(nothing, batch_size=4)) == []


def test_a_batch_is_padded_to_its_longest_segment(folder: pathlib.Path) -> None:
    source = source_of(folder, longest=40, hop=40, buckets=(5, 12, 40))
    batches = list(evaluation_batches(source, batch_size=2))
    assert [batch["faces"].shape[1] for batch in batches] == [12, 12, 40, 40]
    assert [batch["n_frames"].tolist() for batch in batches] == [[12, 3], [5, 12], [15, 10], [16, 16]]
    # All processes pad alike, also one whose slice is short.
    [_, _, third, _] = evaluation_batches(source, batch_size=2, local=slice(1, 2))
    assert (third["faces"].shape[:2], third["pad_to"].tolist()) == ((1, 40), [40])


def examples(source: Source, count: int, *, seed: int = 0) -> list[tuple[int, int]]:
    """The first segments that training would see."""
    seen = segments_in(itertools.islice(training_batches(source, batch_size=7, seed=seed), -(-count // 7)))
    return [(clip, start) for clip, start, _ in itertools.islice(seen, count)]


def test_training_sees_every_segment_once_an_epoch_in_another_order_each_time(folder: pathlib.Path) -> None:
    seen = examples(source_of(folder), 3 * len(EXPECTED))
    epochs = [seen[first : first + len(EXPECTED)] for first in range(0, len(seen), len(EXPECTED))]
    assert all(sorted(epoch) == EXPECTED for epoch in epochs)
    assert len({*map(tuple, epochs), tuple(EXPECTED)}) == 4


def test_random_starts_are_of_the_same_clips_and_anywhere_within_them(folder: pathlib.Path) -> None:
    source, epochs = source_of(folder, random_start=True), 25
    seen = examples(source, epochs * len(EXPECTED))
    assert Counter(clip for clip, _ in seen) == Counter(clip for _ in range(epochs) for clip, _ in EXPECTED)
    for clip, row in enumerate(source.segments.rows):
        assert {start for other, start in seen if other == clip} == set(range(max(1, n_times(row) - 4))), clip


@pytest.mark.parametrize("random_start", [False, True])
def test_the_seed_decides_the_order_and_a_slice_does_not(folder: pathlib.Path, random_start: bool) -> None:
    source = source_of(folder, random_start=random_start)
    first, again, other = (examples(source, 21, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    slices = [training_batches(source, batch_size=7, seed=1, local=slice(*ends)) for ends in ((0, 3), (3, 7))]
    parts = [example for _ in range(3) for batches in slices for example in segments_in([next(batches)])]
    assert [(clip, start) for clip, start, _ in parts] == first


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_saved_iterator_goes_on_exactly_where_it_was(folder: pathlib.Path, taken: int) -> None:
    going, resumed = (training_batches(source_of(folder, random_start=True), batch_size=4, seed=5) for _ in range(2))
    for _ in range(taken):
        next(going)
    resumed.set_state(going.get_state())
    for _ in range(6):
        jax.tree.map(np.testing.assert_array_equal, next(resumed), next(going))
