"""The best checkpoint of a workdir to `results.json` and `predictions.jsonl`."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fusion_emotion.corpora import protocols
from fusion_emotion.evaluate import answers as predictions
from fusion_emotion.evaluate import metrics, statistics
from fusion_emotion.evaluate.answers import PREDICTIONS
from fusion_emotion.evaluate.table import percent, table
from fusion_emotion.files import atomic
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import Checkpoints
from fusion_emotion.train.loop import Evaluator, Outcome, Setup
from fusion_emotion.train.step import parameter_count
from fusion_emotion.train.writer import read_metrics

RESULTS = "results.json"


def evaluate(setup: Setup, workdir: pathlib.Path) -> dict[str, Any]:
    """Restore the best checkpoint of `workdir`, read the test part, write the results and return them.

    Raises UserError where there is no checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore_best(setup.new_state(setup.optimizer()))
    step = int(state.step)
    validation = {k: v for k, v in checkpoints.metrics(step).items() if k.startswith("validation_")}
    checkpoints.close()
    replicated = devices.replicate(state)
    validated = Evaluator(setup, "validation")(replicated)
    outcome = Evaluator(setup, "test")(replicated)
    log = read_metrics(workdir)
    results = {
        "corpus": setup.config["data"]["corpus"],
        "modalities": setup.config["model"]["modalities"],
        "label_names": list(setup.label_names),
        "protocol": protocol_of(setup.config["split"]),
        "parts": {
            part: {
                "clips": windows.n_clips,
                "windows": len(windows),
                "speakers": sorted({row.speaker for row in windows.rows}),
            }
            for part, windows in setup.windows.items()
        },
        "set_aside": dict(setup.set_aside),
        "checkpoint": {"step": step, "of_steps": setup.n_steps, "chosen_by": chosen_by(setup), **validation},
        "test": {
            "loss": outcome.loss,
            "clip": _measures(outcome.clip_confusion),
            "window": _measures(outcome.window_confusion),
            "intervals": _intervals(outcome),
            "calibration": _calibration(validated, outcome),
            "by": {
                by: {
                    value: dataclasses.asdict(group)
                    for value, group in statistics.breakdown(
                        outcome.windows.rows, outcome.windows.labels, outcome.predicted, by
                    ).items()
                }
                for by in ("speaker", "sex", "intensity", "statement")
            },
        },
        "parameters": parameter_count(state.params),
        "train_seconds": log[-1]["seconds"] if log else None,
        "seed": setup.config["seed"],
        "config": setup.config,
        **surroundings(),
    }
    if devices.leads():
        predictions.write(workdir / PREDICTIONS, outcome.windows, outcome.clip_log_prob)
        with atomic(workdir / RESULTS) as partial:
            partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def protocol_of(split: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a config's `split` section, as every result names it."""
    return {
        "name": split["protocol"],
        "meaning": protocols.MEANING[split["protocol"]],
        "speaker_independent": split["protocol"] in protocols.SPEAKER_INDEPENDENT,
        "fold": split["fold"] if split["protocol"] in protocols.WITH_FOLDS else None,
        "split_seed": split["seed"],
    }


def chosen_by(setup: Setup) -> str:
    """One sentence that says exactly what chose the checkpoint and what the test part is."""
    n = setup.windows["validation"].n_clips
    share = setup.config["split"]["validation_fraction"]
    test = setup.config["split"]["test_fraction"]
    protocol = setup.config["split"]["protocol"]
    best = "The checkpoint has the highest clip-level validation UAR"
    once = "the test part was read once, after that choice"
    if protocol == "random":
        return (
            f"{best} on {share:.1%} of the training takes ({n} clips); the {test:.0%} of all takes that the original "
            f"description calls validation are the test part here: {once}."
        )
    if protocol == "takes":
        return (
            f"{best} on {share:.1%} of the training takes ({n} clips), of each emotion alike; the same speakers train, "
            f"validate and test: {once}."
        )
    if protocol == "random_windows":
        return (
            f"{best} on {share:.1%} of the training windows (of {n} clips); windows of the same clips train, validate "
            f"and test, as in the original: {once}."
        )
    speakers = ", ".join(sorted({row.speaker for row in setup.windows["validation"].rows}))
    return f"{best} on speakers {speakers} ({n} clips), whom neither training nor test holds; {once}."


def _measures(confusion: np.ndarray) -> dict[str, Any]:
    return {
        "war": metrics.war(confusion),
        "uar": metrics.uar(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "chance_uar": metrics.chance_level(confusion),
        "recalls": [None if np.isnan(recall) else float(recall) for recall in metrics.recalls(confusion)],
        "confusion": confusion.tolist(),
        "count": int(confusion.sum()),
    }


def _intervals(outcome: Outcome) -> dict[str, list[float]] | None:
    """95 % bootstrap intervals over the speakers of the test part; none of few, where they are too narrow."""
    speakers = [row.speaker for row in outcome.windows.rows]
    if len(set(speakers)) < statistics.LEAST_SPEAKERS:
        return None
    intervals = {
        name: statistics.bootstrap_interval(outcome.windows.labels, outcome.predicted, speakers, statistic=name, seed=0)
        for name in ("uar", "war", "macro_f1")
    }
    return {name: [interval.low, interval.high] for name, interval in intervals.items()}


def _calibration(validated: Outcome, outcome: Outcome) -> dict[str, Any]:
    """The temperature that suits the validation part, and how calibrated the test part is without and with it."""
    temperature = statistics.fit_temperature(validated.clip_log_prob, validated.windows.labels)
    true = outcome.windows.labels
    return {
        "temperature": temperature,
        "validation_clips": len(validated.windows.rows),
        "before": reliability(outcome.clip_log_prob, true),
        "after": reliability(statistics.apply_temperature(outcome.clip_log_prob, temperature), true),
    }


def reliability(log_prob: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """The expected calibration error and its bins of confidence, None for what an empty bin lacks."""
    found = statistics.calibration(log_prob, true)
    bins = {name: getattr(found, name) for name in ("confidence", "accuracy")}
    return {
        "ece": found.ece,
        "count": found.count.tolist(),
        **{name: [None if np.isnan(value) else float(value) for value in values] for name, values in bins.items()},
    }


def surroundings() -> dict[str, Any]:
    """Versions, commit, devices and time: what a number needs beside it."""
    packages = (
        "jax",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
        "numpy",
        "insightface",
        "onnxruntime",
        "decord2",
    )
    return {
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "commit": _commit(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """The commit of this source tree, with a plus where it has changes; "unknown" outside of git."""
    here = pathlib.Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def results_table(results: dict[str, Any]) -> str:
    """The table at the end of a run; it names its protocol and fits a terminal."""
    protocol = results["protocol"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    rows = [
        [
            f"{level} ({results['test'][level]['count']})",
            *(percent(results["test"][level][name]) for name in ("uar", "war", "macro_f1", "chance_uar")),
        ]
        for level in ("clip", "window")
    ]
    intervals = results["test"]["intervals"]
    over_speakers = (
        [
            f"  95 % of resampled speakers have a clip-level UAR of {percent(intervals['uar'][0])} to "
            f"{percent(intervals['uar'][1])}",
            "",
        ]
        if intervals
        else []
    )
    recalls = [
        [name, percent(recall)]
        for name, recall in zip(results["label_names"], results["test"]["clip"]["recalls"], strict=True)
    ]
    return "\n".join(
        [
            f"{results['corpus']}, {results['modalities']}, test part of protocol {protocol['name']}{fold}:",
            f"  {protocol['meaning']}",
            "",
            table(["level", "UAR", "WAR", "macro-F1", "chance UAR"], rows),
            "",
            *over_speakers,
            table(["emotion", "recall (clip)"], recalls),
        ]
    )
