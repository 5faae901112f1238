"""Two workdirs on the same clips: known answers, and refusals where the clips are not the same."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from conftest import ROOT
from fusion_emotion import commands
from fusion_emotion.errors import UserError
from fusion_emotion.experiments.compare import Side, compare, differ

Clip = tuple[str, str, int]  # name, speaker, label


def clips_of(n_speakers: int, *, each: int = 4) -> list[Clip]:
    return [(f"{s}-{i}", f"{s:02d}", i % 2) for s in range(n_speakers) for i in range(each)]


def write_predictions(folder: pathlib.Path, clips: Sequence[Clip], right: Sequence[bool]) -> None:
    """Predictions of two classes, in another order than the clips'."""
    lines = [
        {
            "clip_id": name,
            "speaker": speaker,
            "label": label,
            "predicted": label if ok else 1 - label,
            "log_prob": [0, 0],
        }
        for (name, speaker, label), ok in zip(clips, right, strict=True)
    ]
    np.random.default_rng(len(folder.name)).shuffle(lines)
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_of(
    folder: pathlib.Path, clips: Sequence[Clip], right: Sequence[bool], *, protocol: str = "kfold"
) -> pathlib.Path:
    write_predictions(folder, clips, right)
    of = {"name": protocol, "fold": 0, "meaning": f"what {protocol} means"}
    (folder / "results.json").write_text(json.dumps({"protocol": of}))
    return folder


def crossval_of(
    folder: pathlib.Path, seeds: Mapping[int, tuple[Sequence[Clip], Sequence[bool]]], *, protocol: str = "kfold"
) -> pathlib.Path:
    """A cross-validation of two folds."""
    runs = []
    for seed, (clips, right) in seeds.items():
        for fold in (0, 1):
            runs.append({"fold": fold, "seed": seed})
            write_predictions(folder / protocol / f"fold-{fold}-seed-{seed}", clips[fold::2], right[fold::2])
    of = {"meaning": f"what {protocol} means", "systems": {"network": {"runs": runs}}}
    (folder / "crossval.json").write_text(json.dumps({"protocols": {protocol: of}}))
    return folder


def row(text: str, name: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.strip().startswith(f"{name} ")]
    return re.split(r"\s{2,}", line.strip())


def test_known_answers(tmp_path: pathlib.Path) -> None:
    clips = clips_of(8)
    # One clip of four more of each speaker: every swap of a speaker changes the sign of its share.
    a = run_of(tmp_path / "a", clips, [True] * 32)
    b = run_of(tmp_path / "b", clips, [i % 4 > 0 for i in range(32)])
    text = compare(a, b)
    # Of 256 ways to swap, only none and all are as extreme; each resample of speakers is the same.
    assert row(text, "UAR") == ["UAR", "100.0", "75.0", "+25.0", "25.0 to 25.0", "0.0078"]
    assert row(text, "WAR") == ["WAR", "100.0", "75.0", "+25.0", "25.0 to 25.0", "0.0078"]
    assert "what kfold means" in text
    assert "32 clips of 8 speakers" in text
    assert "every way counted" in text
    assert row(compare(b, a), "UAR")[3] == "-25.0"


def test_equal_runs_differ_by_nothing(tmp_path: pathlib.Path) -> None:
    clips, right = clips_of(5), [i % 3 > 0 for i in range(20)]
    text = compare(run_of(tmp_path / "a", clips, right), run_of(tmp_path / "b", clips, right))
    assert row(text, "UAR")[3:] == ["+0.0", "0.0 to 0.0", "1.0000"]
    assert "5 speakers cannot show less than p = 0.0625" in text


def test_one_speaker_is_compared_by_clips_and_it_is_said(tmp_path: pathlib.Path) -> None:
    clips = clips_of(1, each=8)
    a = run_of(tmp_path / "a", clips, [True] * 8)
    b = run_of(tmp_path / "b", clips, [i >= 4 for i in range(8)])
    text = compare(a, b)
    # Four clips differ: of 16 ways to swap them 2 are as extreme.
    assert row(text, "WAR")[-1] == "0.1250"
    assert "95 % over clips" in text
    assert "this speaks of that person alone" in text


def test_two_speakers_have_no_interval(tmp_path: pathlib.Path) -> None:
    clips = clips_of(2)
    text = compare(run_of(tmp_path / "a", clips, [True] * 8), run_of(tmp_path / "b", clips, [False] * 8))
    assert row(text, "UAR")[4:] == ["-", "0.5000"]


def test_seeds_are_averaged_and_may_differ_in_number(tmp_path: pathlib.Path) -> None:
    clips = clips_of(6)
    all_right, half = [True] * 24, [i % 2 == 0 for i in range(24)]
    a = crossval_of(tmp_path / "a", {0: (clips, all_right), 1: (clips, all_right), 2: (clips, half)})
    b = crossval_of(tmp_path / "b", {0: (clips, half), 7: (clips, all_right)})
    text = compare(a, b)
    # (100 + 100 + 50) / 3 against (50 + 100) / 2.
    assert row(text, "WAR")[1:4] == ["83.3", "75.0", "+8.3"]
    assert "24 clips of 6 speakers; seeds of a: 3, of b: 2" in text
    # 2 of 64 ways: each speaker has the same difference.
    assert row(text, "WAR")[-1] == "0.0312"


def test_splits_by_seed_are_paired_by_seed(tmp_path: pathlib.Path) -> None:
    clips = clips_of(6)
    a = crossval_of(tmp_path / "a", {0: (clips[:16], [True] * 16), 1: (clips[8:], [True] * 16)}, protocol="random")
    b = crossval_of(tmp_path / "b", {0: (clips[:16], [False] * 16), 1: (clips[8:], [False] * 16)}, protocol="random")
    assert row(compare(a, b), "UAR")[3] == "+100.0"
    c = crossval_of(tmp_path / "c", {0: (clips[:16], [False] * 16)}, protocol="random")
    with pytest.raises(UserError, match="cannot be paired: a has 16 clips and b 16, 8 only in a"):
        compare(a, c)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clips: clips[:-1], "a has 20 clips and b 19, 1 only in a, as 4-3"),
        (lambda clips: [*clips, ("new", "09", 0)], "a has 20 clips and b 21, 1 only in b, as new"),
        (lambda clips: [("0-0", "00", 1), *clips[1:]], "clip 0-0 is of speaker 00 and label 0 in a, 00 and 1 in b"),
        (lambda clips: [("0-0", "07", 0), *clips[1:]], "clip 0-0 is of speaker 00 and label 0 in a, 07 and 0 in b"),
    ],
)
def test_other_clips_are_refused_by_name(tmp_path: pathlib.Path, change, words: str) -> None:
    clips = clips_of(5)
    other = change(clips)
    a = run_of(tmp_path / "a", clips, [True] * len(clips))
    b = run_of(tmp_path / "b", other, [True] * len(other))
    with pytest.raises(UserError, match=words) as error:
        compare(a, b)
    assert "\n" not in str(error.value)
    assert str(a) in str(error.value)


def test_what_cannot_be_compared_is_refused(tmp_path: pathlib.Path) -> None:
    clips = clips_of(5)
    a = run_of(tmp_path / "a", clips, [True] * 20)
    b = run_of(tmp_path / "b", clips, [True] * 20, protocol="random")
    with pytest.raises(UserError, match=r"a \(kfold\) and .*b \(random\) have no protocol in common"):
        compare(a, b)
    with pytest.raises(UserError, match=r"holds neither crossval\.json nor results\.json"):
        compare(a, tmp_path / "nothing")
    (a / "predictions.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"predictions.jsonl cannot be read: evaluate again"):
        compare(a, a)
    with pytest.raises(UserError, match="--workdirs names 1 runs"):
        commands.compare([a])


def test_the_permutation_is_of_whole_speakers() -> None:
    from fusion_emotion.evaluate.answers import Predictions

    def side(right: Sequence[bool]) -> Side:
        labels = np.zeros(len(right), int)
        said = Predictions(
            clip_ids=[f"{i:02d}" for i in range(len(right))],
            speakers=[f"{i // 10}" for i in range(len(right))],
            labels=labels,
            predicted=1 - np.array(right, int),
            log_prob=np.zeros((len(right), 2)),
        )
        return Side(workdir=pathlib.Path("x"), protocol="kfold", seeds={0: said})

    # Thirty clips to none, but three speakers: 2 of 8 ways. By clips p would be 2 of 2 ** 30.
    [_, war], unit = differ(side([True] * 30), side([False] * 30))
    assert unit == "speaker"
    assert war.test.p_value == 0.25


def test_from_the_command_line(tmp_path: pathlib.Path) -> None:
    clips = clips_of(5)
    a, b = (run_of(tmp_path / name, clips, [True] * 20) for name in "ab")
    command = [sys.executable, "launch.py", "--mode=compare", f"--workdirs={a},{b}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert row(ran.stdout, "UAR")[1:4] == ["100.0", "100.0", "+0.0"]
