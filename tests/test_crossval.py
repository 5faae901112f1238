"""Cross-validation: the plan, its processes, continuing after a kill, and the pooled numbers."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn import metrics as reference

import tiny
from conftest import ROOT
from fusion_emotion import commands, locks
from fusion_emotion import config as config_
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.evaluate import answers, metrics
from fusion_emotion.evaluate.answers import PREDICTIONS, Answers
from fusion_emotion.evaluate.table import NETWORK
from fusion_emotion.experiments import crossval, summary
from fusion_emotion.experiments.crossval import Run
from fusion_emotion.prepare.records import MANIFEST, read_rows
from run_tiny import settings

# Replaces launch.py: copies what a run would leave, so that it takes no time, once WAIT_FOR runs have started.
CHILD = """
import os, pathlib, shutil, sys, time

workdir = pathlib.Path(sys.argv[2].removeprefix("--workdir="))
here = pathlib.Path(__file__).parent
print("started", os.getpid(), os.environ.get("NPROC"), flush=True)
(here / f"started-{workdir.name}").touch()
if workdir.name == os.environ.get("FAIL"):
    sys.exit("error: the fold is cursed")
deadline = time.monotonic() + 20
while len(list(here.glob("started-*"))) < int(os.environ.get("WAIT_FOR", 0)):
    assert time.monotonic() < deadline
    time.sleep(0.02)
shutil.copytree(here / "left" / workdir.parent.name / workdir.name, workdir, dirs_exist_ok=True)
"""


def write_results(run: Run, folder: pathlib.Path) -> None:
    """Write what a run leaves in its workdir; more answers are right under a leaky protocol."""
    rows, rng = run.test_rows, np.random.default_rng([run.fold, run.seed])
    logits = rng.normal(size=(len(rows), 8))
    logits[np.arange(len(rows)), [row.label for row in rows]] += 1.0 if run.protocol.speaker_independent else 2.0
    given = Answers.of(rows, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    clip = {"uar": metrics.uar(given.confusion), "war": metrics.war(given.confusion), "count": len(rows)}
    results = {"config": run.config, "test": {"clip": clip, "calibration": {"temperature": 1.5}}, "parameters": 1}
    results |= {"versions": {"jax": "1"}, "commit": "c+", "devices": ["cpu"], "machine": "m"}
    results |= {"date": f"2030-01-0{1 + run.fold}", "train_seconds": 2.0}
    folder.mkdir(parents=True, exist_ok=True)
    answers.write(folder / PREDICTIONS, given)
    (folder / "results.json").write_text(json.dumps(results))
    (folder / commands.REPORT).write_text("")


class Quick:
    """A cross-validation of prepared records, whose runs do not train."""

    def __init__(self, folder: pathlib.Path, records: pathlib.Path, *, n_folds: int = 2):
        self.config = settings(model__modalities="audio", split__n_folds=n_folds)
        self.workdir = folder / "run"
        self.records = records
        self._folder = folder
        (folder / "child.py").write_text(CHILD)

    def plan(self, **section: object) -> list[Run]:
        self.config["crossval"] |= section
        return crossval.plan(self.config, self.workdir, self.records)

    def finished(self, **section: object) -> tuple[dict, list[Run]]:
        """The numbers and the runs of a cross-validation whose runs are done."""
        runs = self.plan(**section)
        for run in runs:
            write_results(run, run.workdir)
        return summary.summarise(self.config, runs, []), runs

    def run(self, baselines: Sequence[str] = (), **section: object) -> dict:
        runs = self.plan(**section)
        for run in runs:
            config_.save(run.config, run.workdir)
            write_results(run, self._folder / "left" / run.workdir.relative_to(self.workdir))
        command, jobs = [sys.executable, str(self._folder / "child.py")], self.config["crossval"]["jobs"]
        crossval.execute(runs, command=command, jobs=jobs, is_done=commands.is_done)
        crossval.run_baselines(runs, baselines, self.records)
        return summary.summarise(self.config, runs, baselines)

    def starts(self, name: str) -> list[list[str]]:
        """Process and number of threads of each start of a run."""
        log = self.workdir / name / crossval.LOG
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[1:] for line in lines if line.startswith("started")]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny", speakers=4)


@pytest.fixture
def quick(tmp_path: pathlib.Path, records: pathlib.Path) -> Quick:
    return Quick(tmp_path, records)


def test_the_plan_has_every_fold_and_seed(quick: Quick) -> None:
    runs = quick.plan(protocols=("kfold", "random", "takes"), seeds=(3, 5))
    assert [(run.protocol.name, run.fold, run.seed, run.split_seed) for run in runs] == [
        *(("kfold", fold, seed, 0) for seed in (3, 5) for fold in (0, 1)),
        # Without folds, each seed has its own split.
        ("random", 0, 3, 3),
        ("random", 0, 5, 5),
        *(("takes", fold, seed, 0) for seed in (3, 5) for fold in (0, 1)),
    ]
    for run in runs:
        assert run.workdir == quick.workdir / run.protocol.name / f"fold-{run.fold}-seed-{run.seed}"
        changed = {"protocol": run.protocol.name, "fold": run.fold, "seed": run.split_seed}
        assert run.config["split"] == quick.config["split"] | changed
        assert run.config["seed"] == run.seed
    tested = sorted(row.clip_id for run in runs if run.protocol.name == "kfold" for row in run.test_rows)
    assert tested == sorted(2 * [row.clip_id for row in read_rows(quick.records / MANIFEST)])


def test_finished_runs_are_not_repeated(quick: Quick, capsys: pytest.CaptureFixture[str]) -> None:
    first = quick.run(["majority"], protocols=("kfold", "random"))
    assert "kfold, fold 1, seed 0: UAR" in capsys.readouterr().out
    baseline = quick.workdir / "kfold" / "baselines" / "majority-fold-1-split-0.jsonl"
    written_at = baseline.stat().st_mtime_ns
    assert quick.run(["majority"]) == first
    assert "3 of 3 runs are done" in capsys.readouterr().out
    assert baseline.stat().st_mtime_ns == written_at
    # A seed more, and a run whose last file is missing.
    (quick.workdir / "kfold" / "fold-1-seed-0" / commands.REPORT).unlink()
    assert quick.run(protocols=("kfold",), seeds=(0, 1))["protocols"]["kfold"]["seeds"] == [0, 1]
    names = ("kfold/fold-0-seed-0", "kfold/fold-1-seed-0", "kfold/fold-0-seed-1", "random/fold-0-seed-0")
    assert [len(quick.starts(name)) for name in names] == [1, 2, 1, 1]
    assert first["protocols"]["kfold"]["systems"]["majority"]["uar"]["pooled"] == 1 / 8
    assert {difference["system"] for difference in first["inflation"]} == {NETWORK, "majority"}


def test_a_failing_run_stops_no_other_and_is_named(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "fold-0-seed-0")
    with pytest.raises(UserError, match=r"kfold, fold 0, seed 0 of 4 runs failed .*cursed") as error:
        quick.run(seeds=(0, 1))
    assert "\n" not in str(error.value)
    assert str(quick.workdir / "kfold" / "fold-0-seed-0" / crossval.LOG) in str(error.value)
    monkeypatch.delenv("FAIL")
    assert len(quick.run()["protocols"]["kfold"]["systems"][NETWORK]["runs"]) == 4
    starts = [len(quick.starts(f"kfold/fold-{fold}-seed-{seed}")) for fold in (0, 1) for seed in (0, 1)]
    assert starts == [2, 1, 1, 1]


def test_jobs_run_at_once_and_share_the_cores(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossval, "cores", lambda: 8)
    monkeypatch.setenv("WAIT_FOR", "2")
    quick.run(jobs=2)
    assert [quick.starts(f"kfold/fold-{fold}-seed-0")[0][1] for fold in (0, 1)] == ["4", "4"]
    quick.run(jobs=1, seeds=(1,))
    assert quick.starts("kfold/fold-0-seed-1")[0][1] == "None"


def test_stopping_stops_the_children(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAIT_FOR", "99")
    name = "kfold/fold-0-seed-0"

    def stop() -> None:
        while not quick.starts(name):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Stopped, match="SIGTERM") as error, crossval.stoppable(quick.workdir):
        quick.run()
    assert str(quick.workdir) in str(error.value)
    assert error.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(ProcessLookupError):
        os.kill(int(quick.starts(name)[0][0]), 0)


def test_a_workdir_in_use_is_refused(quick: Quick) -> None:
    match = f"in use by process {os.getpid()}"
    with locks.held_workdir(quick.workdir), pytest.raises(UserError, match=match), locks.held_workdir(quick.workdir):
        pass
    # A run that a killed cross-validation left behind.
    second = quick.plan()[1].workdir
    with locks.held_workdir(second), pytest.raises(UserError, match=f"fold-1-seed-0 is {match}"):
        quick.run()
    assert not (quick.workdir / "kfold" / "fold-0-seed-0" / crossval.LOG).exists()


def test_a_protocol_without_a_test_part_is_refused(quick: Quick) -> None:
    # Actors 1 to 4 are not those of Chumachenko et al.
    with pytest.raises(UserError, match="chumachenko"):
        quick.plan(protocols=("kfold", "chumachenko"))
    assert not quick.workdir.exists()


def test_workdirs_of_another_kind_or_config_are_refused(tmp_path: pathlib.Path) -> None:
    config_.save(settings(), tmp_path)
    with pytest.raises(UserError, match="another config"):
        commands.crossval(settings(train__batch_size=32), tmp_path)
    with pytest.raises(UserError, match=r"data\.root"):
        commands.crossval(settings(split__fold=1, data__root=str(tmp_path / "none")) | {"seed": 7}, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="single run"):
        commands.crossval(settings(), tmp_path)


def test_predictions_of_other_clips_are_refused(quick: Quick) -> None:
    _, runs = quick.finished()
    path = runs[0].workdir / PREDICTIONS
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match="other clips than the test part of kfold, fold 0, seed 0"):
        summary.summarise(quick.config, runs, [])


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[Run]]:
    """The numbers and the runs of a speaker-independent protocol and of one that is not."""
    folder = tmp_path_factory.mktemp("leaky")
    quick = Quick(folder, tiny.write(folder / "tiny", speakers=7, takes=2), n_folds=3)
    return quick.finished(protocols=("kfold", "random"), seeds=(0, 1))


def test_pooled_and_mean_numbers_equal_scikit_learns(leaky: tuple[dict, list[Run]]) -> None:
    results, runs = leaky
    numbers = results["protocols"]["kfold"]["systems"][NETWORK]
    by_run = [answers.read(run.workdir / PREDICTIONS) for run in runs if run.protocol.with_folds]
    seeds = [answers.join(by_run[:3]), answers.join(by_run[3:])]
    everything = answers.join(seeds)
    scores = {
        "uar": reference.balanced_accuracy_score,
        "war": reference.accuracy_score,
        "macro_f1": lambda true, predicted: reference.f1_score(true, predicted, average="macro"),
    }
    for name, score in scores.items():
        values = np.array([score(run.true, run.predicted) for run in by_run]).reshape(2, 3)
        pooled = np.mean([score(seed.true, seed.predicted) for seed in seeds])
        assert numbers[name]["pooled"] == pytest.approx(pooled)
        assert numbers[name]["mean"] == pytest.approx(values.mean())
        assert numbers[name]["std_folds"] == pytest.approx(values.mean(axis=0).std(ddof=1))
        assert numbers[name]["std_seeds"] == pytest.approx(values.mean(axis=1).std(ddof=1))
        low, high = numbers[name]["interval"]
        assert low < pooled < high
        assert [run[name] for run in numbers["runs"]] == pytest.approx(values.ravel())
    true, predicted = everything.true, everything.predicted
    np.testing.assert_allclose(numbers["recalls"], reference.recall_score(true, predicted, average=None))
    np.testing.assert_array_equal(numbers["confusion"], reference.confusion_matrix(true, predicted))
    assert numbers["chance_uar"] == 1 / 8
    assert sum(group["n"] for group in numbers["by"]["speaker"].values()) == len(true) == 2 * 112
    assert numbers["calibration"]["before"]["ece"] != numbers["calibration"]["after"]["ece"]
    assert results["protocols"]["random"]["systems"][NETWORK]["uar"]["std_folds"] is None


def test_the_inflation_is_the_difference_of_the_protocols(leaky: tuple[dict, list[Run]]) -> None:
    results, _ = leaky
    [difference] = results["inflation"]
    kfold, random = (results["protocols"][name]["systems"][NETWORK]["uar"]["pooled"] for name in ("kfold", "random"))
    assert (difference["protocol"], difference["over"]) == ("random", "kfold")
    assert difference["uar"] == pytest.approx(random - kfold)
    assert difference["interval"][0] < difference["uar"] < difference["interval"][1]
    text = summary.text(results)
    assert text.count("  random (speakers on both sides): network") == 2
    assert f"{100 * difference['uar']:+.1f} points" in text
    assert all(protocol["meaning"] in text for protocol in results["protocols"].values())
    assert results["times"] == {"train_seconds": {"kfold": 12.0, "random": 4.0}, "date": "2030-01-03"}


@pytest.mark.parametrize(("n_speakers", "words"), [(1, "one speaker"), (3, "3 speakers")])
def test_few_speakers_have_no_interval(tmp_path: pathlib.Path, n_speakers: int, words: str) -> None:
    quick = Quick(tmp_path, tiny.write(tmp_path / "tiny", speakers=n_speakers, takes=4))
    results, _ = quick.finished(protocols=("takes",))
    assert results["protocols"]["takes"]["systems"][NETWORK]["uar"]["interval"] is None
    [note] = summary.notes(results)
    assert words in note
    assert note in summary.text(results)


def record(workdir: pathlib.Path, table: pathlib.Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "results" / "record.py"), str(workdir), str(table), "python launch.py --x"]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_cross_validation_is_recorded_and_makes_a_table(
    leaky: tuple[dict, list[Run]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _ = leaky
    summary.write(results, tmp_path)
    table = tmp_path / "rows.csv"
    # The second time replaces the rows of the first.
    for _ in range(2):
        assert record(tmp_path, table).returncode == 0
    with table.open() as lines:
        kfold, random = csv.DictReader(lines)
    uar = results["protocols"]["kfold"]["systems"][NETWORK]["uar"]
    assert float(kfold["uar_pooled"]) == pytest.approx(uar["pooled"], abs=1e-4)
    assert float(kfold["uar_low"]) == pytest.approx(uar["interval"][0], abs=1e-4)
    assert (kfold["folds"], kfold["seeds"], kfold["runs"], kfold["on_both_sides"]) == ("3", "0 1", "6", "")
    assert (random["folds"], random["inflation_over"]) == ("", "kfold")
    monkeypatch.syspath_prepend(ROOT / "results")
    import make_table

    made = make_table.markdown([kfold, random])
    assert "| ravdess, audio | random (speakers on both sides) | no folds; 0, 1 |" in made
    assert f"{100 * round(results['inflation'][0]['uar'], 4):+.1f} points" in made
    assert made.count("python launch.py --x") == 1


def test_a_run_is_recorded_below_older_rows(tmp_path: pathlib.Path) -> None:
    clip = {"count": 8, "uar": 0.5, "war": 0.5, "macro_f1": 0.5, "chance_uar": 0.125}
    results = {"corpus": "sample", "modalities": "audio", "protocol": {"name": "kfold", "fold": 0, "split_seed": 0}}
    results |= {"test": {"clip": clip, "segment": {"uar": 0.25}}, "parts": {"test": {"speakers": ["01"]}}}
    results |= {
        "checkpoint": {"step": 1, "of_steps": 2},
        "seed": 0,
        "train_seconds": 1.0,
        "parameters": 1,
        "config": {},
    }
    results |= {"commit": "c", "date": "d", "versions": {}, "machine": "m", "devices": []}
    (tmp_path / "results.json").write_text(json.dumps(results))
    table = tmp_path / "sample.csv"
    shutil.copy(ROOT / "results" / "sample.csv", table)
    assert record(tmp_path, table).returncode == 0
    with table.open() as lines, (ROOT / "results" / "sample.csv").open() as before:
        *older, new = csv.DictReader(lines)
        assert [list(row.values()) for row in older] == [list(row.values()) for row in csv.DictReader(before)]
    assert new["segment_uar"] == "0.25"
    table.write_text("corpus,command\n")
    assert "other columns" in record(tmp_path, table).stderr


def launched(config: dict, workdir: pathlib.Path) -> subprocess.Popen[str]:
    """`launch.py --mode=crossval`, with the config of the workdir."""
    config_.save(config, workdir)
    command = [sys.executable, str(ROOT / "launch.py"), "--mode=crossval", f"--workdir={workdir}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def numbers_of(process: subprocess.Popen[str], workdir: pathlib.Path) -> dict:
    """The numbers of a cross-validation at its end, without times."""
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    results = json.loads((workdir / summary.RESULTS).read_text())
    del results["times"]
    return results


@pytest.mark.slow
def test_a_killed_cross_validation_continues_to_the_same_numbers(
    tmp_path: pathlib.Path, sample_corpus: pathlib.Path
) -> None:
    config = settings(
        data__root=str(sample_corpus),
        prepare__detector="centerface",
        run__cache=str(tmp_path / "cache"),
        model__modalities="audio",
        split__n_folds=2,
        crossval__protocols=["takes"],
        crossval__baselines=False,
    )
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = numbers_of(launched(config, whole), whole)

    killed = launched(config, workdir)
    first_results = workdir / "takes" / "fold-0-seed-0" / "results.json"
    second = workdir / "takes" / "fold-1-seed-0"
    # In the middle of the second run's training, with a complete checkpoint.
    while not any(path.name.isdigit() for path in second.glob("checkpoints/*")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    run = int((second / ".lock").read_text())
    os.kill(run, signal.SIGSTOP)
    try:
        refused = launched(config, workdir)
        out, _ = refused.communicate(timeout=60)
        assert refused.returncode == 1
        assert f"in use by process {run}" in out
    finally:
        os.kill(run, signal.SIGKILL)
    assert not (second / commands.REPORT).exists()

    # The first run was finished, and the second one continues from its checkpoint.
    before = first_results.read_bytes()
    assert numbers_of(launched(config, workdir), workdir) == uninterrupted
    assert first_results.read_bytes() == before
    assert "from step" in (second / crossval.LOG).read_text()
    assert (workdir / commands.CROSSVAL).stat().st_size > 10_000
