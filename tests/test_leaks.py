"""The leak guard finds each kind of leak that is planted, and nothing where nothing is."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import soundfile
from array_record.python.array_record_module import ArrayRecordWriter

import tiny
from fusion_emotion.corpora.ravdess import parse_name
from fusion_emotion.errors import UserError
from fusion_emotion.input.leaks import KINDS, LeakReport, check_split, phase_correlation, severity
from fusion_emotion.input.segments import Windows, split_windows, usable_rows, windows_of
from fusion_emotion.prepare.records import SHARDS, Record, encode

RNG_SEED = 0
N_FRAMES = 12
PARTS = ("train", "train", "train", "train", "validation", "test")


def record(number: int, rng: np.random.Generator) -> Record:
    """A clip unlike any other: a face that moves at random, and noise that comes and goes like syllables."""
    blocks = rng.integers(0, 256, (N_FRAMES, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    loudness = np.interp(
        np.arange(N_FRAMES * 3200), np.arange(0, N_FRAMES * 3200, 1600), rng.exponential(1, 2 * N_FRAMES)
    )
    return Record(
        clip_id=f"clip {number}",
        take_id=f"take {number}",
        speaker=f"{number:02d}",
        corpus="ravdess",
        label=number % 8,
        faces=blocks.astype(np.uint8),
        face_found=np.ones(N_FRAMES, bool),
        box=np.zeros((N_FRAMES, 4), np.float32),
        waveform=(2000 * loudness * rng.standard_normal(len(loudness))).clip(-32768, 32767).astype(np.int16),
    )


def faceless(number: int) -> Record:
    """A clip without pictures."""
    return dataclasses.replace(
        record(number, np.random.default_rng(number)),
        faces=np.zeros((0, 32, 32, 3), np.uint8),
        face_found=np.zeros(0, bool),
        box=np.zeros((0, 4), np.float32),
    )


def altered_sound(waveform: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """A third as loud, 40 ms later, with noise at 25 dB."""
    rng = np.random.default_rng(seed)
    later = np.concatenate([np.zeros(640), waveform / 3])
    noise = rng.standard_normal(len(later)) * np.std(later) * 10 ** (-25 / 20)
    return np.round(later + noise).astype(np.int16)


def altered_faces(faces: np.ndarray) -> np.ndarray:
    """A little brighter, with noise."""
    noise = np.random.default_rng(0).normal(0, 3, faces.shape)
    return np.clip(1.05 * faces + 4 + noise, 0, 255).astype(np.uint8)


def planted(folder: pathlib.Path, **of_last: Callable[[Record], object]) -> Windows:
    """Windows of six clips of six speakers, of which the last has fields made from those of the first."""
    rng = np.random.default_rng(RNG_SEED)
    records = [record(number, rng) for number in range(len(PARTS))]
    records[-1] = dataclasses.replace(records[-1], **{name: make(records[0]) for name, make in of_last.items()})
    return written(folder, records)


def written(folder: pathlib.Path, records: Sequence[Record]) -> Windows:
    (folder / SHARDS).mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / SHARDS / "00000.arrayrecord"), "group_size:1")
    for one in records:
        writer.write(encode(one))
    writer.close()
    return windows_of([tiny.row_of(one, index=index) for index, one in enumerate(records)])


def by_clip(windows: Windows, parts: Sequence[str] = PARTS) -> dict[str, Windows]:
    """The split that puts each clip where `parts` says."""
    of_window = np.array(parts)[windows.clip]
    return {part: windows.part(of_window == part) for part in ("train", "validation", "test")}


def kinds(report: LeakReport) -> list[str]:
    return [finding.kind for finding in report.findings]


def check(folder: pathlib.Path, windows: Windows, protocol: str = "kfold") -> LeakReport:
    return check_split(folder, by_clip(windows), protocol=protocol)


def test_where_nothing_is_planted_nothing_is_found(tmp_path):
    report = check(tmp_path, planted(tmp_path))
    assert kinds(report) == []
    report.raise_errors()
    assert report.clips == {"train": 4, "validation": 1, "test": 1}
    assert report.compared == {"speaker": 6, "take": 6, "clip": 6, "window": 6} | dict.fromkeys(
        ("sound", "near sound", "faces", "near faces"), 4 + 4 + 1
    )
    assert "clips with nearly identical faces: 0 of 9 pairs" in report.text()


PLANTED = {
    "speaker": ({"speaker": lambda first: first.speaker}, ("00",)),
    "take": ({"take_id": lambda first: first.take_id}, ("take 0",)),
    "sound": ({"waveform": lambda first: first.waveform}, ("clip 0", "clip 5")),
    "near sound": ({"waveform": lambda first: altered_sound(first.waveform)}, ("clip 0", "clip 5")),
    "faces": ({"faces": lambda first: first.faces}, ("clip 0", "clip 5")),
    "near faces": ({"faces": lambda first: altered_faces(first.faces)}, ("clip 0", "clip 5")),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_leak_is_found_and_named(tmp_path, kind):
    of_last, names = PLANTED[kind]
    report = check(tmp_path, planted(tmp_path, **of_last))
    (finding,) = report.findings
    assert (finding.kind, finding.names, finding.parts) == (kind, names, ("train", "test"))
    assert all(name in report.text() for name in names)
    with pytest.raises(UserError, match=names[0]) as error:
        report.raise_errors()
    assert "\n" not in str(error.value)


def test_windows_of_one_clip_on_two_sides(tmp_path):
    windows = planted(tmp_path)
    split = by_clip(windows)
    of_first = np.flatnonzero(windows.clip == 0)
    moved = np.isin(np.arange(len(windows)), of_first[1:])
    split["train"] = windows.part((windows.clip < 4) & ~moved)
    split["test"] = windows.part((windows.clip == 5) | moved)
    report = check_split(tmp_path, split, protocol="random_windows")
    assert kinds(report) == ["speaker", "take", "clip"]
    assert {finding.severity for finding in report.findings} == {"inherent"}
    assert "clips with windows on two sides: 1 of 6, inherent in the protocol" in report.text()
    report.raise_errors()
    with pytest.raises(UserError, match="clip 0"):
        check_split(tmp_path, split, protocol="random").raise_errors()


@pytest.mark.parametrize(("start", "overlapping"), [(4, True), (5, False)])
def test_windows_that_overlap_in_time(tmp_path, start, overlapping):
    windows = planted(tmp_path)
    rows = list(windows.rows)
    one = {part: np.array(clips) for part, clips in (("train", [0, 1]), ("validation", [4]), ("test", [0, 5]))}
    split = {
        part: Windows([rows[i] for i in clips], np.arange(len(clips)), np.zeros(len(clips), int))
        for part, clips in one.items()
    }
    split["test"] = dataclasses.replace(split["test"], start=np.array([start, 0]))
    report = check_split(tmp_path, split, protocol="random_windows")
    assert [finding.names for finding in report.of("window")] == [("clip 0",)] * overlapping
    if overlapping:
        with pytest.raises(UserError, match="overlapping"):
            report.raise_errors()


def test_a_duplicate_within_one_part_is_no_leak(tmp_path):
    windows = planted(tmp_path, waveform=lambda first: first.waveform, faces=lambda first: first.faces)
    parts = ("train", "train", "train", "validation", "test", "train")
    report = check_split(tmp_path, by_clip(windows, parts), protocol="kfold")
    assert kinds(report) == []


def test_a_pair_with_windows_on_every_side_is_named_once(tmp_path):
    windows = planted(tmp_path, waveform=lambda first: first.waveform)
    order = np.arange(len(windows))
    parts = np.array(["train", "validation", "test"])[order % 3]
    split = {part: windows.part(parts == part) for part in ("train", "validation", "test")}
    report = check_split(tmp_path, split, protocol="random_windows")
    assert [set(finding.names) for finding in report.of("sound")] == [{"clip 0", "clip 5"}]


def test_silence_black_pictures_and_nothing_at_all_are_not_compared(tmp_path):
    rng = np.random.default_rng(RNG_SEED)
    silent = [
        dataclasses.replace(
            record(number, rng), waveform=np.zeros(38400, np.int16), faces=np.zeros((N_FRAMES, 32, 32, 3), np.uint8)
        )
        for number in range(3)
    ]
    empty = [dataclasses.replace(faceless(number), waveform=np.zeros(0, np.int16)) for number in range(3, 6)]
    windows = written(tmp_path, silent + empty)
    parts = ("train", "validation", "test") * 2
    report = check_split(tmp_path, by_clip(windows, parts), protocol="kfold")
    assert kinds(report) == []
    assert report.compared["sound"] == report.compared["near faces"] == 0


def test_a_still_picture_is_found_where_it_is_identical(tmp_path):
    rng = np.random.default_rng(RNG_SEED)
    records = [record(number, rng) for number in range(len(PARTS))]
    still = np.repeat(records[0].faces[:1], N_FRAMES, axis=0)
    for number in (0, 5):
        records[number] = dataclasses.replace(records[number], faces=still)
    windows = written(tmp_path, records)
    assert kinds(check(tmp_path, windows)) == ["faces"]


@pytest.mark.parametrize("protocol", ["kfold", "random", "random_windows"])
def test_no_false_alarm_on_the_tiny_corpus(tmp_path, protocol):
    folder = tiny.write(tmp_path / "tiny")
    rows, _ = usable_rows(folder, "audio+video")
    split = {"fold": 0, "n_folds": 3, "test_fraction": 0.2, "validation_fraction": 0.2, "seed": 0}
    report = check_split(folder, split_windows(rows, {"protocol": protocol, **split}), protocol=protocol)
    assert {finding.severity for finding in report.findings} <= {"inherent"}
    assert report.compared["near sound"] > 400


def test_the_policy():
    table = {
        kind: [severity(protocol, kind) for protocol in ("loso", "luna5", "kfold", "random", "random_windows")]
        for kind in KINDS
    }
    assert table == {
        "speaker": ["error"] * 3 + ["inherent", "inherent"],
        "take": ["error"] * 3 + ["error", "inherent"],
        "clip": ["error"] * 3 + ["error", "inherent"],
        "window": ["error"] * 5,
        "sound": ["error"] * 3 + ["warning"] * 2,
        "near sound": ["error"] * 3 + ["warning"] * 2,
        "faces": ["error"] * 3 + ["warning"] * 2,
        "near faces": ["error"] * 3 + ["warning"] * 2,
    }


def test_phase_correlation_is_of_the_recording_not_of_its_loudness_or_place():
    rng = np.random.default_rng(0)
    one, other = (rng.normal(0, 3000, 40_000).astype(np.int16) for _ in range(2))
    assert phase_correlation(one, one) == pytest.approx(1, abs=1e-3)
    assert phase_correlation(one, one[4321:] // 2) > 0.8
    assert phase_correlation(one, other) < 0.1


KNOWN = ("03-01-03-01-02-01-07", "03-01-03-01-02-02-07")


def test_real_voices(real_data, tmp_path):
    """RAVDESS's one pair of the same bytes and altered copies of every eighth take are found among 240 takes, no other.

    Actors 06 and 23 are those whose repetitions are most alike.
    """
    records = []
    for actor in ("05", "06", "07", "23"):
        for path in sorted((real_data / "data" / "ravdess_speech_16k" / f"Actor_{actor}").glob("*.flac")):
            clip = parse_name(path)
            waveform, _ = soundfile.read(path, dtype="int16")
            names = {"clip_id": clip.clip_id, "take_id": clip.take_id, "speaker": actor}
            records.append(dataclasses.replace(faceless(len(records)), waveform=waveform, **names))
    originals = [one for one in records[::8] if one.clip_id not in KNOWN]
    copies = [
        dataclasses.replace(
            one, clip_id=f"copy {number}", take_id=f"copy {number}", waveform=altered_sound(one.waveform, seed=number)
        )
        for number, one in enumerate(originals)
    ]
    windows = written(tmp_path, records + copies)
    # A take and its repetition, which the known pair is, are on two sides.
    parts = [("test", "train")[one.take_id[12:14] == "01"] for one in records]
    report = check_split(tmp_path, by_clip(windows, parts + ["validation"] * len(copies)), protocol="random")
    assert len(records) == 240
    assert [finding.names for finding in report.of("sound")] == [KNOWN]
    assert {frozenset(finding.names) for finding in report.of("near sound")} == {
        frozenset((one.clip_id, copy.clip_id)) for one, copy in zip(originals, copies, strict=True)
    }
