"""Cross-validation: what is planned, run, gone on with after a kill, and pooled."""

import csv
import json
import os
import pathlib
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
from configs import ravdess
from conftest import ROOT
from fusion_emotion import commands, corpora
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import Stopped, UserError
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.evaluate import statistics
from fusion_emotion.evaluate.answers import Predictions
from fusion_emotion.experiments import crossval, summary
from fusion_emotion.experiments.summary import NETWORK, Part, measure
from fusion_emotion.pages import crossval as crossval_report
from fusion_emotion.prepare.records import Record, Row, read_rows
from fusion_emotion.prepare.settings import Settings

# Stands for launch.py, so that a run takes a second: it answers the test part of its config without training. Of a
# file in the folder above the workdir it takes what else to do.
CHILD = """
import json, os, pathlib, sys, time
import numpy as np
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.input.segments import split_windows, usable_rows

workdir = pathlib.Path(sys.argv[2].removeprefix("--workdir="))
config = json.loads((workdir / "config.json").read_text())
todo = json.loads(pathlib.Path(__file__).with_name("todo.json").read_text())
print("started with", os.environ.get("NPROC"), "at", time.time(), flush=True)
name = workdir.name
if name in todo["fail"]:
    sys.exit("error: the fold is cursed")
time.sleep(todo["sleep_s"])
rows, _ = usable_rows(pathlib.Path(todo["folder"]), "audio")
test = split_windows(rows, config["split"])["test"]
rng = np.random.default_rng([config["seed"], config["split"]["fold"]])
logits = rng.normal(size=(len(test.rows), 8))
logits[np.arange(len(logits)), test.labels] += 1
log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
predictions.write(workdir / "predictions.jsonl", test, log_prob)
counts = metrics.confusion_matrix(test.labels, log_prob.argmax(axis=1), 8)
results = {
    "config": config,
    "test": {
        "clip": {"uar": metrics.uar(counts), "war": metrics.war(counts), "count": len(test.rows)},
        "calibration": {"temperature": 1.5},
    },
    **{"parameters": 1, "versions": {}, "commit": "c", "devices": [], "machine": "m"},
    **{"date": str(time.time()), "train_seconds": time.time() % 1},
}
(workdir / "results.json").write_text(json.dumps(results))
(workdir / "report.html").write_text("")
"""


def prepared_corpus(folder: pathlib.Path, *, speakers: int, epochs: float = 2, takes: int = 1) -> dict:
    """The config of a tiny corpus that is prepared already, in `folder`."""
    made = tiny.write(folder / "made", speakers=speakers, takes=takes)
    (folder / "data").mkdir()
    for row in read_rows(made / "manifest.jsonl"):
        (folder / "data" / f"{row.clip_id}.mp4").touch()
    config = ravdess.get_config()
    config.data.root = str(folder / "data")
    config.prepare.cache = str(folder / "cache")
    config.prepare.face_size = tiny.FACE_SIZE
    config.model.modalities = "audio"
    config.split.n_folds = 2
    config.train.update({"batch_size": 16, "epochs": epochs, "validate_every_epochs": 1, "log_every_steps": 3})
    clips, _ = corpora.find_clips("ravdess", folder / "data", audio_alone=True, channel="speech")
    settings = Settings.from_config(config.prepare.to_dict())
    cache = settings.cache_folder("ravdess", ((clip.clip_id + clip.path.suffix, 0) for clip in clips))
    cache.parent.mkdir()
    made.rename(cache)
    return config.to_dict()


class Quick:
    """A corpus, its config, and children that do not train."""

    def __init__(self, folder: pathlib.Path, *, speakers: int = 4):
        self.config = prepared_corpus(folder, speakers=speakers)
        self.workdir = folder / "run"
        self._folder = folder
        (folder / "child.py").write_text(CHILD)
        self.children()

    def children(self, *, fail: Sequence[str] = (), sleep_s: float = 0.0) -> None:
        todo = {"fail": list(fail), "sleep_s": sleep_s, "folder": str(commands.prepared(self.config))}
        (self._folder / "todo.json").write_text(json.dumps(todo))

    def run(self, **section: object) -> dict:
        config = {**self.config, "crossval": {**self.config["crossval"], "baselines": False} | section}
        commands.crossval(config, self.workdir)
        return json.loads((self.workdir / summary.RESULTS).read_text())

    def starts(self, name: str) -> list[str]:
        """What each start of a run wrote to its log."""
        lines = (self.workdir / name / crossval.LOG).read_text().splitlines()
        return [line for line in lines if line.startswith("started")]


@pytest.fixture
def quick(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Quick:
    monkeypatch.setattr(crossval, "_LAUNCH", tmp_path / "child.py")
    monkeypatch.setattr(crossval, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Quick(tmp_path)


def test_folds_times_seeds_and_for_random_a_split_a_seed(quick: Quick) -> None:
    section = {"protocols": ("kfold", "random", "takes"), "seeds": (3, 5)}
    runs = crossval.plan({**quick.config, "crossval": section}, quick.workdir, commands.prepared(quick.config))
    told = [(run.protocol, run.fold, run.seed, run.split_seed) for run in runs]
    assert told == [
        *(("kfold", fold, seed, 0) for seed in (3, 5) for fold in (0, 1)),
        ("random", 0, 3, 3),
        ("random", 0, 5, 5),
        *(("takes", fold, seed, 0) for seed in (3, 5) for fold in (0, 1)),
    ]
    for run in runs:
        assert run.workdir == quick.workdir / run.protocol / f"fold-{run.fold}-seed-{run.seed}"
        split = {**quick.config["split"], "protocol": run.protocol, "fold": run.fold, "seed": run.split_seed}
        assert run.config["split"] == split
        assert run.config["seed"] == run.seed
    clips = [sorted(row.clip_id for run in runs if run.protocol == "kfold" for row in run.test_rows)]
    assert clips == [sorted(2 * [row.clip_id for row in read_rows(commands.prepared(quick.config) / "manifest.jsonl")])]


def test_what_is_done_is_not_done_again(quick: Quick, capsys: pytest.CaptureFixture[str]) -> None:
    first = quick.run(protocols=("kfold", "random"), baselines=True)
    assert "kfold, fold 1, seed 0: UAR" in capsys.readouterr().out
    baseline = quick.workdir / "kfold" / "baselines" / "mfcc-fold-1-split-0.jsonl"
    before = baseline.stat().st_mtime_ns
    assert quick.run(protocols=("kfold", "random"), baselines=True) == first
    assert "3 of 3 runs are done" in capsys.readouterr().out
    assert baseline.stat().st_mtime_ns == before
    assert [len(quick.starts(f"{name}-seed-0")) for name in ("kfold/fold-0", "kfold/fold-1", "random/fold-0")] == [
        1
    ] * 3
    # A seed more is only that.
    second = quick.run(protocols=("kfold",), seeds=(0, 1))
    assert len(quick.starts("kfold/fold-0-seed-0")) == len(quick.starts("kfold/fold-0-seed-1")) == 1
    assert second["protocols"]["kfold"]["seeds"] == [0, 1]
    systems = first["protocols"]["kfold"]["systems"]
    assert systems["majority"]["uar"]["pooled"] == 1 / 8
    assert systems["mfcc"]["uar"]["pooled"] > 0.9
    assert {each["system"] for each in first["inflation"]} == set(systems)


def test_a_run_that_is_half_done_is_run_again(quick: Quick) -> None:
    quick.run()
    (quick.workdir / "kfold" / "fold-1-seed-0" / "report.html").unlink()
    quick.run()
    assert [len(quick.starts(f"kfold/fold-{fold}-seed-0")) for fold in (0, 1)] == [1, 2]


def test_a_failing_run_stops_no_other_and_is_named(quick: Quick) -> None:
    quick.children(fail=["fold-0-seed-0"])
    with pytest.raises(UserError, match=r"kfold, fold 0, seed 0 of 4 runs failed \(the fold is cursed\)") as error:
        quick.run(seeds=(0, 1))
    assert "\n" not in str(error.value)
    assert str(quick.workdir / "kfold" / "fold-0-seed-0" / "log.txt") in str(error.value)
    assert not (quick.workdir / summary.RESULTS).exists()
    quick.children()
    results = quick.run(seeds=(0, 1))
    assert len(results["protocols"]["kfold"]["systems"][NETWORK]["runs"]) == 4
    starts = [len(quick.starts(f"kfold/fold-{fold}-seed-{seed}")) for fold in (0, 1) for seed in (0, 1)]
    assert starts == [2, 1, 1, 1]


@pytest.mark.slow
def test_jobs_run_at_once_and_share_the_cores(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    quick.children(sleep_s=2)
    quick.run(jobs=2)
    [first], [second] = (quick.starts(f"kfold/fold-{fold}-seed-0") for fold in (0, 1))
    assert first.startswith("started with 4 ")
    assert abs(float(first.split()[-1]) - float(second.split()[-1])) < 2
    quick.run(seeds=(1,))
    assert quick.starts("kfold/fold-0-seed-1")[0].startswith("started with None ")


def test_stopping_stops_the_children_and_says_how_to_go_on(quick: Quick) -> None:
    quick.children(sleep_s=60)
    log = quick.workdir / "kfold" / "fold-0-seed-0" / "log.txt"

    def stop() -> None:
        while not log.exists() or "started" not in log.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    began = time.monotonic()
    with pytest.raises(
        Stopped, match=r"SIGTERM: .* this goes on: python launch.py --mode=crossval --workdir="
    ) as error:
        quick.run()
    assert str(quick.workdir) in str(error.value)
    assert error.value.exit_code == 143
    assert time.monotonic() - began < 30
    # No child holds the workdir any more, and what a signal does is as before.
    with crossval.held(quick.workdir):
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_workdir_in_use_is_refused(quick: Quick) -> None:
    with crossval.held(quick.workdir), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        quick.run()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"protocols": ("kfold", "lucky")}, ["crossval.protocols='lucky'", "takes"]),
        ({"protocols": ()}, ["crossval.protocols=()", "one or more"]),
        ({"protocols": ("kfold", "kfold")}, ["crossval.protocols=", "each once"]),
        ({"seeds": ()}, ["crossval.seeds=()", "one or more"]),
        ({"seeds": (1, 1)}, ["crossval.seeds=(1, 1)", "each once"]),
        ({"seeds": (-1,)}, ["crossval.seeds", "-1", "2**32"]),
        ({"seeds": ("a",)}, ["crossval.seeds", "'a'", "integers"]),
        ({"jobs": 0}, ["crossval.jobs=0", "1 or more"]),
    ],
)
def test_a_wrong_section_is_refused_before_anything_is_done(tmp_path, section, words) -> None:
    config = ravdess.get_config().to_dict()
    config["crossval"] |= section
    with pytest.raises(UserError) as error:
        commands.crossval(config, tmp_path / "run")
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "run").exists()


def test_a_protocol_that_tests_nobody_is_refused(quick: Quick) -> None:
    # Actors 1 to 4 are not those of Chumachenko et al.
    with pytest.raises(UserError, match="chumachenko tests none of these speakers"):
        quick.run(protocols=("kfold", "chumachenko"))
    assert not quick.workdir.exists()


def test_workdirs_of_another_kind_or_config_are_refused(quick: Quick) -> None:
    quick.run()
    other = {**quick.config, "train": {**quick.config["train"], "batch_size": 32}}
    with pytest.raises(UserError, match="belongs to another config"):
        commands.crossval(other, quick.workdir)
    # Which split and seed the config names is not used, and so may differ.
    commands.crossval({**quick.config, "seed": 7, "crossval": quick.config["crossval"]}, quick.workdir)
    (quick.workdir / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds a single run"):
        quick.run()


def test_predictions_of_other_clips_are_refused(quick: Quick) -> None:
    quick.run()
    path = quick.workdir / "kfold" / "fold-0-seed-0" / "predictions.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(UserError, match="is of other clips than the test part of kfold, fold 0, seed 0"):
        quick.run()


def rows_of(n_speakers: int, *, takes: int = 2) -> dict[str, Row]:
    """The rows of every emotion of each speaker."""
    rows = {}
    for speaker in range(1, n_speakers + 1):
        for label in range(8):
            for take in range(takes):
                record = Record(
                    clip_id=f"{speaker}-{label}-{take}", take_id="", speaker=f"{speaker:02d}", corpus="", label=label,
                    faces=np.zeros((0, 1, 1, 3), np.uint8), face_found=np.zeros(0, bool),
                    box=np.zeros((0, 4), np.float32), waveform=np.zeros(0, np.int16),
                )  # fmt: skip
                rows[record.clip_id] = tiny.row_of(record, index=len(rows))
    return rows


def part_of(rows: Sequence[Row], *, fold: int, seed: int, strength: float, temperature: float | None = 1.5) -> Part:
    """Answers that are right the more often the larger `strength` is, other ones for each fold and seed."""
    rng = np.random.default_rng([fold, seed])
    labels = np.array([row.label for row in rows])
    logits = rng.normal(size=(len(rows), 8))
    logits[np.arange(len(rows)), labels] += strength
    log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    said = Predictions(
        clip_ids=[row.clip_id for row in rows],
        speakers=[row.speaker for row in rows],
        labels=labels,
        predicted=log_prob.argmax(axis=1),
        log_prob=log_prob,
    )
    return Part(fold=fold, seed=seed, predictions=said, temperature=temperature)


def parts_of(rows: dict[str, Row], *, n_folds: int = 3, seeds: Sequence[int] = (0, 1), strength: float) -> list[Part]:
    return [
        part_of(
            [row for row in rows.values() if int(row.speaker) % n_folds == fold],
            fold=fold, seed=seed, strength=strength,
        )
        for seed in seeds
        for fold in range(n_folds)
    ]  # fmt: skip


def test_pooled_and_mean_numbers_are_scikit_learns() -> None:
    rows = rows_of(7)
    parts = parts_of(rows, strength=1.0)
    found = measure(parts, LABEL_NAMES, rows)
    score = {
        "uar": reference.balanced_accuracy_score,
        "war": reference.accuracy_score,
        "macro_f1": lambda true, predicted: reference.f1_score(true, predicted, average="macro"),
    }
    for name, of in score.items():
        of_run = np.array([of(p.predictions.labels, p.predictions.predicted) for p in parts]).reshape(2, 3)
        pooled = [
            of(*(np.concatenate([getattr(p.predictions, what) for p in parts if p.seed == seed]) for what in both))
            for seed, both in ((seed, ("labels", "predicted")) for seed in (0, 1))
        ]
        assert found[name]["pooled"] == pytest.approx(np.mean(pooled))
        assert found[name]["mean"] == pytest.approx(of_run.mean())
        assert found[name]["std_folds"] == pytest.approx(of_run.mean(axis=0).std(ddof=1))
        assert found[name]["std_seeds"] == pytest.approx(of_run.mean(axis=1).std(ddof=1))
        low, high = found[name]["interval"]
        assert low < found[name]["pooled"] < high
    every = predictions.joined([part.predictions for part in parts])
    expected = reference.recall_score(every.labels, every.predicted, average=None)
    np.testing.assert_allclose(found["recalls"], expected)
    np.testing.assert_array_equal(found["confusion"], reference.confusion_matrix(every.labels, every.predicted))
    assert found["chance_uar"] == 1 / 8
    assert sum(group["n"] for group in found["by"]["speaker"].values()) == 2 * len(rows)
    assert found["calibration"]["before"]["ece"] != found["calibration"]["after"]["ece"]


def test_seeds_are_resampled_together() -> None:
    rows = rows_of(6)
    one = summary.by_seed(parts_of(rows, seeds=(0,), strength=1.0))
    answers = summary.answers_of(one)
    alone = statistics.pooled_interval(answers, statistic="uar", n_resamples=500, seed=0)
    # The same answers by a second seed change nothing; independent speakers for each seed would.
    twice = statistics.pooled_interval(2 * answers, statistic="uar", n_resamples=500, seed=0)
    assert twice == alone


@pytest.mark.parametrize(("n_speakers", "words"), [(1, "one speaker"), (3, "3 speakers")])
def test_few_speakers_have_no_interval_and_it_is_said(n_speakers: int, words: str) -> None:
    rows = rows_of(n_speakers)
    results = results_of({"takes": parts_of(rows, n_folds=1, strength=1.0)}, rows)
    assert results["protocols"]["takes"]["systems"][NETWORK]["uar"]["interval"] is None
    [note] = summary.notes(results)
    assert f"takes tests {words}: too few for an interval" in note
    assert note in summary.text(results)


def results_of(parts: dict[str, list[Part]], rows: dict[str, Row]) -> dict:
    """What `summarise` returns, of made-up answers."""
    seeds_of = {name: {NETWORK: summary.by_seed(each)} for name, each in parts.items()}
    with_folds = summary.protocols.WITH_FOLDS
    return {
        "corpus": "ravdess",
        "modalities": "audio",
        "label_names": list(LABEL_NAMES),
        "protocols": {
            name: {
                "meaning": summary.protocols.MEANING[name],
                "on_both_sides": summary.protocols.ON_BOTH_SIDES.get(name),
                "folds": sorted({part.fold for part in each}) if name in with_folds else None,
                "seeds": sorted({part.seed for part in each}),
                "clips": len(rows),
                "speakers": sorted({row.speaker for row in rows.values()}),
                "systems": {NETWORK: measure(each, LABEL_NAMES, rows)},
            }
            for name, each in parts.items()
        },
        "inflation": summary.inflation(seeds_of),
        "parameters": 1,
        "versions": {"jax": "1"},
        "commit": "c+",
        "devices": ["cpu"],
        "machine": "m",
        "times": {"train_seconds": {"kfold": 2500.0, "random": 2500.0}, "date": "2030-01-02T03:04:05+00:00"},
        "config": ravdess.get_config().to_dict(),
    }


@pytest.fixture(scope="module")
def leaky() -> dict:
    rows = rows_of(7)
    return results_of({"kfold": parts_of(rows, strength=1.0), "random": parts_of(rows, n_folds=1, strength=2.0)}, rows)


def test_the_inflation_is_the_difference_and_each_row_says_what_leaks(leaky: dict) -> None:
    [found] = leaky["inflation"]
    honest, leaking = (leaky["protocols"][name]["systems"][NETWORK]["uar"]["pooled"] for name in ("kfold", "random"))
    assert (found["protocol"], found["over"]) == ("random", "kfold")
    assert found["uar"] == pytest.approx(leaking - honest)
    assert found["interval"][0] < found["uar"] < found["interval"][1]
    text = summary.text(leaky)
    assert sum(line.startswith("  random (speakers on both sides): network") for line in text.splitlines()) == 2
    assert f"random (speakers on both sides) shows {100 * found['uar']:+.1f} points" in text
    for name in ("kfold", "random"):
        assert summary.protocols.MEANING[name] in text


def test_the_page_says_what_the_table_says(leaky: dict, tmp_path: pathlib.Path) -> None:
    summary.write(leaky, tmp_path)
    crossval_report.write_report(json.loads((tmp_path / summary.RESULTS).read_text()), tmp_path)
    page = " ".join((tmp_path / crossval_report.REPORT).read_text().split())
    for protocol in leaky["protocols"].values():
        for statistic in ("uar", "war", "macro_f1"):
            assert f">{100 * protocol['systems'][NETWORK][statistic]['pooled']:.1f}<" in page
    assert "speakers on both sides" in page
    assert crossval_report.HUMAN_CAVEAT.split(":")[0].replace("&", "&amp;") in page
    assert page.count('<img src="data:image/svg+xml;base64,') == 1 + 5 + 4
    assert 'src="http' not in page
    assert "<script" not in page


def test_rows_of_a_results_file_and_its_table(leaky: dict, tmp_path: pathlib.Path) -> None:
    summary.write(leaky, tmp_path)
    table = tmp_path / "rows.csv"
    record = [sys.executable, str(ROOT / "results" / "record.py"), str(tmp_path), str(table), "python launch.py --x"]
    # The second takes the place of the first.
    for _ in range(2):
        subprocess.run(record, check=True)
    with table.open() as lines:
        kfold, random = csv.DictReader(lines)
    found = leaky["protocols"]["kfold"]["systems"][NETWORK]
    assert float(kfold["uar_pooled"]) == pytest.approx(found["uar"]["pooled"], abs=1e-4)
    assert float(kfold["uar_low"]) == pytest.approx(found["uar"]["interval"][0], abs=1e-4)
    assert (kfold["folds"], kfold["seeds"], kfold["runs"], kfold["on_both_sides"]) == ("3", "0 1", "6", "")
    assert (random["folds"], random["inflation_over"]) == ("", "kfold")
    sys.path.insert(0, str(ROOT / "results"))
    import make_table

    made = make_table.markdown([kfold, random])
    assert "| ravdess, audio | random (speakers on both sides) | no folds; 0, 1 |" in made
    assert (
        f"Inflation: random (speakers on both sides) shows {100 * round(leaky['inflation'][0]['uar'], 4):+.1f} points"
        in made
    )
    assert made.count("python launch.py --x") == 1
    single = tmp_path / "single.csv"
    single.write_text("corpus,command\n")
    record[3] = str(single)
    refused = subprocess.run(record, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "other columns" in refused.stderr


def real_crossval(config: dict, workdir: pathlib.Path, **popen: object) -> subprocess.Popen:
    """`launch.py --mode=crossval` as a person would give it, its config from the workdir."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(json.dumps(config))
    arguments = [sys.executable, str(ROOT / "launch.py"), "--mode=crossval", f"--workdir={workdir}"]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)


@pytest.mark.slow
def test_killed_half_way_and_run_again_it_ends_as_an_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    config = prepared_corpus(tmp_path, speakers=4, epochs=6)
    config["crossval"] |= {"protocols": ["kfold"], "baselines": False}

    whole = real_crossval(config, tmp_path / "whole")
    out, _ = whole.communicate(timeout=400)
    assert whole.returncode == 0, out
    table = out[out.index("ravdess, audio, clip level") : out.index("results: ")]

    workdir = tmp_path / "killed"
    killed = real_crossval(config, workdir, start_new_session=True)
    second = workdir / "kfold" / "fold-1-seed-0"
    deadline = time.monotonic() + 300
    # In the middle of the second run's training, a checkpoint whole.
    while not any(path.name.isdigit() for path in second.glob("checkpoints/*")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    # Its children end with it.
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert (workdir / "kfold" / "fold-0-seed-0" / "report.html").exists()
    assert not (second / "report.html").exists()
    assert not (workdir / summary.RESULTS).exists()

    again = real_crossval(config, workdir)
    out, _ = again.communicate(timeout=400)
    assert again.returncode == 0, out
    assert "1 of 2 runs are done" in out
    assert "going on from step" in (second / "log.txt").read_text()
    assert out[out.index("ravdess, audio, clip level") : out.index("results: ")] == table
    one, other = (json.loads((tmp_path / name / "crossval.json").read_text()) for name in ("whole", "killed"))
    assert one.pop("times").keys() == other.pop("times").keys()
    assert one == other
    assert (workdir / crossval_report.REPORT).stat().st_size > 10_000
