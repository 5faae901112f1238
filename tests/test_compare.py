"""Two workdirs on the same clips: known answers, and refusals if the clips differ."""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from conftest import ROOT
from fusion_emotion import commands
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers
from fusion_emotion.evaluate.answers import PREDICTIONS, Answers
from fusion_emotion.experiments.compare import compare

Clip = tuple[str, str, int]  # id, speaker, label


def clips_of(n_speakers: int, *, each: int = 4) -> list[Clip]:
    return [(f"{s}-{i}", f"{s:02d}", i % 2) for s in range(n_speakers) for i in range(each)]


def write_answers(folder: pathlib.Path, clips: Sequence[Clip], right: Sequence[bool]) -> None:
    """Answers for two classes, in an order that depends on the folder."""
    order = np.random.default_rng(list(folder.name.encode())).permutation(len(clips))
    ids, speakers, labels = zip(*(clips[i] for i in order), strict=True)
    true = np.array(labels)
    predicted = np.where(np.array(right)[order], true, 1 - true)
    folder.mkdir(parents=True)
    answers.write(
        folder / PREDICTIONS,
        Answers(clip_ids=ids, speakers=speakers, true=true, predicted=predicted, log_prob=np.zeros((len(ids), 2))),
    )


def run_of(folder: pathlib.Path, clips: Sequence[Clip], right: Sequence[bool], protocol: str = "kfold") -> pathlib.Path:
    write_answers(folder, clips, right)
    described = {"name": protocol, "fold": 0, "meaning": f"the meaning of {protocol}"}
    (folder / "results.json").write_text(json.dumps({"protocol": described}))
    return folder


def crossval_of(
    folder: pathlib.Path, seeds: Mapping[int, tuple[Sequence[Clip], Sequence[bool]]], *, protocol: str = "kfold"
) -> pathlib.Path:
    """A cross-validation of two folds."""
    runs = [{"fold": fold, "seed": seed} for seed in seeds for fold in (0, 1)]
    for run in runs:
        clips, right = (values[run["fold"] :: 2] for values in seeds[run["seed"]])
        write_answers(folder / protocol / f"fold-{run['fold']}-seed-{run['seed']}", clips, right)
    described = {"meaning": f"the meaning of {protocol}", "systems": {"network": {"runs": runs}}}
    (folder / "crossval.json").write_text(json.dumps({"protocols": {protocol: described}}))
    return folder


def row(text: str, name: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.strip().startswith(f"{name} ")]
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.parametrize(
    ("n_speakers", "a", "b", "war", "words"),
    [
        # `b` misses a quarter of each speaker's clips. Of 256 permutations only none and all are as extreme; every
        # resample of speakers is the same.
        (8, "1111", "0111", "100.0 75.0 +25.0 25.0 to 25.0 0.0078", "32 clips of 8 speakers"),
        (8, "0111", "1111", "75.0 100.0 -25.0 -25.0 to -25.0 0.0078", "the meaning of kfold"),
        (5, "1010", "1010", "50.0 50.0 +0.0 0.0 to 0.0 1.0000", "0.0625"),
        # Four clips of one speaker differ: 2 of their 16 permutations are as extreme.
        (1, "11111111", "00001111", "100.0 50.0 +50.0 12.5 to 87.5 0.1250", "95 % over clips"),
        # Whole speakers are swapped: 2 of 8 permutations. Over clips it would be 2 of 2 ** 30.
        (3, "1111111111", "0000000000", "100.0 0.0 +100.0 - 0.2500", "95 % over speakers"),
        (2, "1111", "0000", "100.0 0.0 +100.0 - 0.5000", "2 speakers"),
    ],
)
def test_known_answers(tmp_path: pathlib.Path, n_speakers: int, a: str, b: str, war: str, words: str) -> None:
    """`a` and `b` are 1 for the clips of each speaker that are right."""
    clips = clips_of(n_speakers, each=len(a))
    first = run_of(tmp_path / "a", clips, [right == "1" for right in n_speakers * a])
    second = run_of(tmp_path / "b", clips, [right == "1" for right in n_speakers * b])
    text = compare(first, second)
    assert " ".join(row(text, "WAR")) == f"WAR {war}"
    assert words in text


def test_speakers_who_are_not_named_are_nobody(tmp_path: pathlib.Path) -> None:
    clips = [(name, "", label) for name, _, label in clips_of(5)]
    a, b = (run_of(tmp_path / name, clips, [name == "a"] * 20) for name in "ab")
    text = compare(a, b)
    assert "20 clips of speakers who are not named;" in text
    assert "95 % over clips" in text
    assert "speakers are not named: clips are resampled" in text
    assert "one speaker" not in text


def test_seeds_are_averaged_and_may_differ_in_number(tmp_path: pathlib.Path) -> None:
    clips = clips_of(6)
    all_right, half = [True] * 24, [i % 2 == 0 for i in range(24)]
    a = crossval_of(tmp_path / "a", {0: (clips, all_right), 1: (clips, all_right), 2: (clips, half)})
    b = crossval_of(tmp_path / "b", {0: (clips, half), 7: (clips, all_right)})
    text = compare(a, b)
    # (100 + 100 + 50) / 3 against (50 + 100) / 2; each speaker has the same difference, so p is 2 of 64.
    assert row(text, "WAR")[1:4] == ["83.3", "75.0", "+8.3"]
    assert row(text, "WAR")[-1] == "0.0312"
    assert "24 clips of 6 speakers; seeds of a: 3, of b: 2" in text


def test_splits_by_seed_are_paired_by_seed(tmp_path: pathlib.Path) -> None:
    clips = clips_of(6)
    a = crossval_of(tmp_path / "a", {0: (clips[:16], [True] * 16), 1: (clips[8:], [True] * 16)}, protocol="random")
    b = crossval_of(tmp_path / "b", {1: (clips[8:], [False] * 16), 0: (clips[:16], [False] * 16)}, protocol="random")
    assert row(compare(a, b), "UAR")[3] == "+100.0"
    c = crossval_of(tmp_path / "c", {0: (clips[:16], [False] * 16)}, protocol="random")
    with pytest.raises(UserError, match="8 only in a"):
        compare(a, c)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clips: clips[:-1], "1 only in a, as 4-3"),
        (lambda clips: [*clips, ("new", "09", 0)], "1 only in b, as new"),
        (lambda clips: [("0-0", "00", 1), *clips[1:]], "0-0 .*label 0 in a, 00 and 1 in b"),
        (lambda clips: [("0-0", "07", 0), *clips[1:]], "0-0 .*label 0 in a, 07 and 0 in b"),
    ],
)
def test_other_clips_are_refused_by_name(
    tmp_path: pathlib.Path, change: Callable[[list[Clip]], list[Clip]], words: str
) -> None:
    clips = clips_of(5)
    other = change(clips)
    a = run_of(tmp_path / "a", clips, [True] * len(clips))
    b = run_of(tmp_path / "b", other, [True] * len(other))
    with pytest.raises(UserError, match=words) as error:
        compare(a, b)
    assert "\n" not in str(error.value)
    assert str(a) in str(error.value)


def test_incomparable_workdirs_are_refused(tmp_path: pathlib.Path) -> None:
    clips = clips_of(5)
    a = run_of(tmp_path / "a", clips, [True] * 20)
    b = run_of(tmp_path / "b", clips, [True] * 20, protocol="random")
    with pytest.raises(UserError, match=r"kfold.*random"):
        compare(a, b)
    with pytest.raises(UserError, match="nothing holds neither"):
        compare(a, tmp_path / "nothing")
    with pytest.raises(UserError, match="--workdirs"):
        commands.compare([a])
    (a / PREDICTIONS).write_text("{")
    with pytest.raises(UserError, match=PREDICTIONS):
        compare(a, a)


def test_from_the_command_line(tmp_path: pathlib.Path) -> None:
    clips = clips_of(5)
    a, b = (run_of(tmp_path / name, clips, [True] * 20) for name in "ab")
    command = [sys.executable, "launch.py", "--mode=compare", f"--workdirs={a},{b}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert row(ran.stdout, "UAR")[1:4] == ["100.0", "100.0", "+0.0"]
