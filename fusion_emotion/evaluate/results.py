"""Evaluate the best checkpoint of a workdir: `results.json`, `predictions.jsonl` and a model that stands alone."""

import dataclasses
import datetime
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fusion_emotion.cores import cores
from fusion_emotion.corpora.protocols import Protocol
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers, metrics, statistics
from fusion_emotion.evaluate.answers import PREDICTIONS, RESULTS, Answers
from fusion_emotion.evaluate.evaluator import Evaluator
from fusion_emotion.evaluate.table import percent, table
from fusion_emotion.files import atomic
from fusion_emotion.input.data import Data
from fusion_emotion.models import weights
from fusion_emotion.models.batch import batch_spec
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import Checkpoints
from fusion_emotion.train.plan import Plan
from fusion_emotion.train.step import parameter_count
from fusion_emotion.train.writer import read_metrics
from fusion_emotion.versions import versions

_MOST_READ = 200  # records of the training part, for the size of the faces
_PACKAGES = (
    *("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "insightface"),
    *("onnxruntime", "onnxruntime-gpu", "decord2"),  # onnxruntime in one of its two builds
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Best:
    """The variables that validation chose in a workdir."""

    step: int
    validation: Mapping[str, float]  # its metrics at that step
    variables: Mapping[str, Any]


def best(workdir: pathlib.Path, model: FusionNet, config: Mapping[str, Any]) -> Best:
    """Read the best checkpoint of a workdir, or its exported model if the checkpoints are gone. Raises UserError."""
    if not (workdir / "checkpoints").is_dir() and (workdir / weights.FOLDER).is_dir():
        loaded = weights.load_model(workdir)
        return Best(**loaded.about["checkpoint"], variables=loaded.variables)
    checkpoints = Checkpoints(workdir)
    try:
        step, variables = checkpoints.best_variables()
        validation = {
            # Older runs say "window".
            name.replace("window", "segment"): value
            for name, value in checkpoints.metrics(step).items()
            if name.startswith("validation_")
        }
    finally:
        checkpoints.close()
    if difference := weights.misfit(model, batch_spec(config), variables):
        raise UserError(f"the checkpoints of {workdir} are of another model: {difference}; choose another --workdir")
    return Best(step=step, validation=validation, variables=variables)


def evaluate(model: FusionNet, data: Data, config: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluate the best checkpoint of `workdir` on the test part; write results and model, and return the results.

    Raises UserError if there is no checkpoint.
    """
    chosen = best(workdir, model, config)
    replicated = devices.replicate(chosen.variables)
    validated = Evaluator(model, data.source("validation"), config)(replicated)
    tested = Evaluator(model, data.source("test"), config)(replicated)
    log = read_metrics(workdir)
    assert tested.segment_confusion is not None
    results = {
        "corpus": data.corpus.name,
        "modalities": config["model"]["modalities"],
        "label_names": list(data.label_names),
        "protocol": protocol_of(data.protocol, config["split"]),
        "parts": {
            part: {
                "clips": segments.n_clips,
                "segments": len(segments),
                "speakers": sorted({*segments.speakers} - {""}),
            }
            for part, segments in data.parts.items()
        },
        "set_aside": dict(data.set_aside),
        "checkpoint": {
            "step": chosen.step,
            "of_steps": Plan(config, len(data.parts["train"])).n_steps,
            "chosen_by": chosen_by(data, config["split"], choose=config["train"]["choose"]),
            **chosen.validation,
        },
        "test": {
            "loss": tested.loss,
            "clip": _measures(tested.confusion),
            "segment": _measures(tested.segment_confusion),
            "intervals": _intervals(tested),
            "calibration": _calibration(validated, tested),
            "by": {
                group: statistics.breakdown(tested, values)
                for group, values in statistics.groupings(data.parts["test"].rows, data.corpus.groups).items()
            },
        },
        "parameters": parameter_count(chosen.variables["params"]),
        "train_seconds": log[-1]["seconds"] if log else None,
        "seed": config["seed"],
        "config": config,
        **surroundings(),
    }
    if devices.is_main_process():
        answers.write(workdir / PREDICTIONS, tested)
        with atomic(workdir / RESULTS) as partial:
            partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
        weights.save_model(workdir / weights.FOLDER, chosen.variables, config, _about(results, data, chosen))
    return results


def _about(results: Mapping[str, Any], data: Data, chosen: Best) -> dict[str, Any]:
    """Return the part of model.json that says where a model comes from."""
    test = results["test"]
    return {
        "label_names": results["label_names"],
        "modalities": results["modalities"],
        "trained_on": data.corpus.title,
        "licence": data.corpus.licence,
        "commit": results["commit"],
        "date": results["date"],
        "temperature": test["calibration"]["temperature"],
        "training": _training(data, results["config"]),
        "checkpoint": {"step": chosen.step, "validation": dict(chosen.validation)},
        "numbers": {
            "protocol": results["protocol"],
            "clips": test["clip"]["count"],
            "speakers": len(results["parts"]["test"]["speakers"]),
            **{name: test["clip"][name] for name in ("uar", "war", "macro_f1", "chance_uar")},
        },
    }


def _training(data: Data, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the 1st and 99th percentile of the sound's dBFS and the face's px, the shares of the labels, and the kind.

    The shares are those that the loss saw: with class weights all labels count alike.

    How large a face was in its film is not known of pictures that were crops already.
    """
    source = data.source("train")
    rows = source.segments.rows
    targets = np.eye(len(data.label_names))[source.segments.labels] if source.targets is None else source.targets
    chosen = range(0, len(rows), -(-len(rows) // _MOST_READ))
    squares = [source.record(clip).box for clip in chosen if rows[clip].n_frames]
    sides = [float(np.median(square[:, 2] - square[:, 0])) for square in squares]
    sides = [] if config["prepare"]["detector"] == "none" else sides
    # Squares are larger than the faces by a margin (`faces.squares`).
    faces = [side / (1 + 2 * config["prepare"]["margin"]) for side in sides if side > 0]
    shares = np.asarray(targets, float).mean(axis=0)
    if config["train"]["class_weights"]:
        shares = (shares > 0) / (shares > 0).sum()
    levels = [row.rms_dbfs for row in rows if row.n_samples]

    def between(values: list[float]) -> list[float] | None:
        return np.percentile(values, [1, 99]).round(1).tolist() if values else None

    return {
        "loudness_dbfs": between(levels),
        "face_px": between(faces),
        "label_shares": shares.round(5).tolist(),
        "of_pictures": all(row.n_frames == 1 for row in rows),
    }


def protocol_of(protocol: Protocol, split: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the protocol of a config's `split` section, as every result names it."""
    return {
        "name": protocol.name,
        "meaning": protocol.meaning,
        "speaker_independent": protocol.speaker_independent,
        "fold": split["fold"] if protocol.with_folds else None,
        "split_seed": split["seed"],
    }


def chosen_by(data: Data, split: Mapping[str, Any], *, choose: str = "best") -> str:
    """Describe what chose the checkpoint and what the test part is, in one sentence."""
    if data.protocol.everything:
        return "Every clip trains, validates and tests, so neither validation nor test part measures anything."
    validation, unit = data.parts["validation"], data.protocol.unit
    n, fraction = f"{validation.n_clips} clips", f"{split['validation_fraction']:.1%} of the training {unit}s"
    if data.protocol.given and any(row.split == "validation" for row in validation.rows):
        chosen_on = f"the validation part that the corpus's owners or a table name ({n});"
    elif unit == "speaker":
        speakers = ", ".join(sorted(set(validation.speakers)))
        chosen_on = f"speakers {speakers} ({n}), whom neither training nor test holds;"
    elif data.protocol.given:
        chosen_on = f"{fraction} ({n}), drawn from those that the owners or the table name so;"
    elif unit == "segment":
        chosen_on = f"{fraction} (of {n}); segments of the same clips train, validate and test, as in the original:"
    elif data.protocol.with_folds:
        chosen_on = f"{fraction} ({n}), of each emotion alike; the same speakers train, validate and test:"
    else:
        test = f"what the original description calls validation, here {split['test_fraction']:.0%} of all takes"
        chosen_on = f"{fraction} ({n}); the test part is {test}:"
    if choose == "last":
        return f"The checkpoint is the last; the temperature is fitted on {chosen_on} the test part was read once."
    choice = f"The checkpoint has the highest clip-level validation UAR on {chosen_on}"
    return f"{choice} the test part was read once, after that choice."


def _measures(confusion: np.ndarray) -> dict[str, Any]:
    return {
        "war": metrics.war(confusion),
        "uar": metrics.uar(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "chance_uar": metrics.chance_level(confusion),
        "recalls": [statistics.known(recall) for recall in metrics.recalls(confusion)],
        "confusion": confusion.tolist(),
        "count": int(confusion.sum()),
    }


def _intervals(tested: Answers) -> dict[str, list[float]] | None:
    """Return 95 % bootstrap intervals over the speakers of the test part; None for too few speakers."""
    if len(set(tested.speakers)) < statistics.LEAST_SPEAKERS:
        return None
    intervals = {name: statistics.pooled_interval([tested], statistic=name, seed=0) for name in statistics.STATISTICS}
    return {name: [interval.low, interval.high] for name, interval in intervals.items()}


def _calibration(validated: Answers, tested: Answers) -> dict[str, Any]:
    """Return the temperature fitted on the validation part, and the test part's calibration before and after it."""
    temperature = statistics.fit_temperature(validated.log_prob, validated.true)
    return {
        "temperature": temperature,
        "validation_clips": len(validated.clip_ids),
        "before": statistics.calibration(tested.log_prob, tested.true),
        "after": statistics.calibration(statistics.apply_temperature(tested.log_prob, temperature), tested.true),
    }


def surroundings() -> dict[str, Any]:
    """Return versions, commit, devices and time, to be kept beside every number."""
    return {
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
        "commit": _commit(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "machine": f"{_cpu()}, {cores()} cores",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """Return the commit of this source tree, with a plus if it has changes; "unknown" outside of git."""
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
    """Return the tables at the end of a run, which name its protocol and fit a terminal."""
    protocol, test = results["protocol"], results["test"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    names = ("uar", "war", "macro_f1", "chance_uar")
    rows = [
        [f"{level} ({test[level]['count']})", *(percent(test[level][name]) for name in names)]
        for level in ("clip", "segment")
    ]
    by_corpus = test["by"].get("corpus", {})
    rows += [
        [f"clip, {name} ({of['n']})", percent(of["uar"]), percent(of["war"]), "", ""]
        for name, of in by_corpus.items()
        if len(by_corpus) > 1
    ]
    lines = [
        f"{results['corpus']}, {results['modalities']}, test part of protocol {protocol['name']}{fold}:",
        f"  {protocol['meaning']}",
        "",
        table(["level", "UAR", "WAR", "macro-F1", "chance UAR"], rows),
        "",
    ]
    if test["intervals"]:
        low, high = map(percent, test["intervals"]["uar"])
        lines += [f"  95 % of resampled speakers have a clip-level UAR of {low} to {high}", ""]
    recalls = zip(results["label_names"], map(percent, test["clip"]["recalls"]), strict=True)
    return "\n".join([*lines, table(["emotion", "recall (clip)"], list(recalls))])
