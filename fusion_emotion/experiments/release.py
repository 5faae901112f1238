"""A model to give away, with its numbers and a card.

Where the owners of a corpus name its test part, the model is the one that was trained without it. Otherwise it is
trained on every clip, and has no test part of its own: its numbers, its temperature and its failures are those of the
cross-validation of the same config, in which each model was tested on people that it had not met.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusion_emotion.config import completed
from fusion_emotion.corpora.protocols import PROTOCOLS
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import answers, statistics, table
from fusion_emotion.evaluate.answers import PREDICTIONS
from fusion_emotion.evaluate.answers import RESULTS as RUN_RESULTS
from fusion_emotion.experiments.summary import RESULTS
from fusion_emotion.files import atomic
from fusion_emotion.models.weights import ABOUT, FOLDER, WEIGHTS

CARD = "README.md"
_MOST_FAILURES = 5
_FEW = 12  # people


def config_of(crossval: pathlib.Path) -> dict[str, Any]:
    """Return the config that trains on every clip, from the workdir of a finished cross-validation. Raises UserError.

    Its protocols must be speaker-independent, since the numbers are to say how the model does on new people.
    """
    results = read(crossval)
    if leaky := [name for name in results["protocols"] if not _is_independent(name)]:
        raise UserError(
            f"{crossval} has the protocol {leaky[0]}, with the same people in training and test: cross-validate with "
            "--config.crossval.protocols=\"('kfold',)\" first"
        )
    config = completed(results["config"])
    config["split"] |= {"protocol": "everything", "fold": 0}
    config["seed"] = config["crossval"]["seeds"][0]
    return config


def _is_independent(name: str) -> bool:
    return name not in PROTOCOLS or PROTOCOLS[name].speaker_independent


def read(crossval: pathlib.Path) -> dict[str, Any]:
    """Return the numbers of a finished cross-validation. Raises UserError."""
    try:
        results: dict[str, Any] = json.loads((crossval / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{crossval} holds no finished cross-validation ({error}): run --mode=crossval there first"
        ) from error
    return results


def is_tested(workdir: pathlib.Path) -> bool:
    """Return True for the workdir of a finished training whose test part is named by the corpus's owners or a table."""
    try:
        results = json.loads((workdir / RUN_RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    name = results["protocol"]["name"]
    return name in PROTOCOLS and PROTOCOLS[name].given


def release_tested(workdir: pathlib.Path, output: pathlib.Path) -> None:
    """Write the model of a finished training to `output`, with the numbers of its own test part and a card."""
    model = workdir / FOLDER
    results = json.loads((workdir / RUN_RESULTS).read_text(encoding="utf-8"))
    test = results["test"]
    about = json.loads((model / ABOUT).read_text(encoding="utf-8"))
    intervals = test["intervals"] or {}
    about["numbers"] |= {
        "trained_on_clips": results["parts"]["train"]["clips"],
        "uar_interval": intervals.get("uar"),
        "recalls": dict(zip(results["label_names"], test["clip"]["recalls"], strict=True)),
        "by": {},
        "ece_after_temperature": (test["calibration"]["after"] or {}).get("ece"),
        "commit": results["commit"],
    }
    about["numbers"] |= {"by_this_model": True}
    about["numbers"]["protocol"] |= {"seeds": [results["seed"]]}
    about["failures"] = _failures([workdir / PREDICTIONS], results["label_names"])
    write(output, about, (model / WEIGHTS).read_bytes())


def release(everything: pathlib.Path, crossval: pathlib.Path, output: pathlib.Path) -> None:
    """Write the model of a training on every clip to `output`, with the numbers of a cross-validation and a card."""
    model, results = everything / FOLDER, read(crossval)
    trained_on = json.loads((everything / RUN_RESULTS).read_text(encoding="utf-8"))["parts"]["train"]
    name, protocol = next(iter(results["protocols"].items()))
    network = protocol["systems"][table.NETWORK]
    about = json.loads((model / ABOUT).read_text(encoding="utf-8"))
    about["temperature"] = _temperature(network["runs"])
    about["numbers"] = {
        "protocol": {
            "name": name,
            "meaning": protocol["meaning"],
            "speaker_independent": True,
            "folds": protocol["folds"],
            "seeds": protocol["seeds"],
        },
        "clips": protocol["clips"],
        "speakers": len(protocol["speakers"]),
        "trained_on_clips": trained_on["clips"],
        "trained_on_speakers": len({*trained_on["speakers"]} - {""}),  # "": not known
        **{measure: network[measure]["pooled"] for measure in ("uar", "war", "macro_f1")},
        "uar_interval": network["uar"]["interval"],
        "chance_uar": network["chance_uar"],
        "recalls": dict(zip(results["label_names"], network["recalls"], strict=True)),
        "by": {
            # Each clip was answered once by each seed.
            group: {value: {**of, "n": of["n"] // len(protocol["seeds"])} for value, of in values.items()}
            for group, values in network["by"].items()
            if group != "speaker"
        },
        "ece_after_temperature": (network["calibration"]["after"] or {}).get("ece"),
        "commit": results["commit"],
    }
    paths = sorted((crossval / name).glob(f"fold-*-seed-*/{PREDICTIONS}"))
    about["failures"] = _failures(paths, results["label_names"])
    write(output, about, (model / WEIGHTS).read_bytes())


def write(output: pathlib.Path, about: Mapping[str, Any], weights: bytes) -> None:
    """Write a model and its card. Raises UserError where that cannot be."""
    described, told = json.dumps(about, indent=1, ensure_ascii=False), card(output.name, about)
    make_folder(output)
    with atomic(output / WEIGHTS) as partial:
        partial.write_bytes(weights)
    with atomic(output / CARD) as partial:
        partial.write_text(told, encoding="utf-8")
    with atomic(output / ABOUT) as partial:
        partial.write_text(described, encoding="utf-8")


def make_folder(output: pathlib.Path) -> None:
    """Make the folder of a released model. Raises UserError where that cannot be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be made ({error.strerror}): choose another folder") from error


def _temperature(runs: Sequence[Mapping[str, Any]]) -> float:
    """The geometric mean of the temperatures of the folds, each fitted on validation speakers."""
    return float(np.exp(np.mean([np.log(run["temperature"]) for run in runs])))


def _failures(paths: Sequence[pathlib.Path], label_names: Sequence[str]) -> list[dict[str, Any]]:
    """The wrong answers of test parts that the models were surest of; one of an emotion at most."""
    wrong = []
    for path in paths:
        of_run = answers.read(path)
        probability = np.exp(statistics.apply_temperature(of_run.log_prob, 1.0))
        for clip in np.flatnonzero(of_run.predicted != of_run.true).tolist():
            is_, called = int(of_run.true[clip]), int(of_run.predicted[clip])
            sure = float(probability[clip, called])
            wrong.append((sure, of_run.clip_ids[clip], label_names[is_], label_names[called]))
    chosen: dict[str, dict[str, Any]] = {}
    for sure, clip_id, true, predicted in sorted(wrong, reverse=True):
        chosen.setdefault(true, {"clip": clip_id, "true": true, "predicted": predicted, "confidence": round(sure, 3)})
    return list(chosen.values())[:_MOST_FAILURES]


def card(name: str, about: Mapping[str, Any]) -> str:
    """Return the model card, in Markdown."""
    numbers = about["numbers"]
    lines = [
        f"# {name}",
        "",
        f"Reads {about['modalities'].replace('+', ' and ')}; says one of {', '.join(about['label_names'])}.",
        "",
        f"- **Trained on** {about['trained_on']}, {numbers['trained_on_clips']} clips{_of_people(numbers)}.",
        f"- **Licence** of the data, and so of the weights: {about['licence']}{_licence_of(about.get('films'))}.",
        f"- **How good**, {_whom(numbers)}: UAR {table.percent(numbers['uar'])}{_interval(numbers)}, right "
        f"{table.percent(numbers['war'])}, chance {table.percent(numbers['chance_uar'])}. Protocol "
        f"{numbers['protocol']['name']} ({numbers['protocol']['meaning']}), seeds "
        f"{', '.join(map(str, numbers['protocol']['seeds']))} (commit {numbers['commit']}).",
        f"- **Calibration**: expected calibration error {numbers['ece_after_temperature']:.3f} after temperature "
        f"{about['temperature']:.2f}, fitted on validation parts."
        if numbers["ece_after_temperature"] is not None
        else "- **Calibration**: not measured.",
        *_on_films(about.get("films")),
        "- **Not for** decisions about people. It tells how an expression was labelled, not what a person feels; "
        "on ordinary recordings expect less. In the European Union inferring emotions at work or in education is "
        "prohibited (Regulation (EU) 2024/1689, Art. 5(1)(f)).",
        "",
        "| emotion | recall |",
        "|---|---|",
        *(f"| {emotion} | {table.percent(recall)} |" for emotion, recall in numbers["recalls"].items()),
    ]
    for group, values in numbers["by"].items():
        lines += ["", f"| {group} | clips | UAR |", "|---|---|---|"]
        lines += [f"| {value or 'unknown'} | {of['n']} | {table.percent(of['uar'])} |" for value, of in values.items()]
    lines += [
        "",
        "The surest wrong answers of test parts, one of up to five emotions:",
        "",
        "| clip | is | was called | confidence before the temperature |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each['clip']} | {each['true']} | {each['predicted']} | {each['confidence']:.2f} |"
        for each in about["failures"]
    ]
    return "\n".join(lines) + "\n"


def _on_films(films: Mapping[str, Any] | None) -> list[str]:
    """Return the lines of a head for films, none if there is none."""
    if not films:
        return []
    before, after = films["before"], films["numbers"]
    few = " So few people tell little." if after["speakers"] < _FEW else ""
    return [
        f"- **On films** its last layer is another one, fitted to {after['clips']} clips of {after['speakers']} people "
        f"({films['trained_on']}). Each person was judged by a layer that was fitted to the others (protocol "
        f"{after['protocol']['name']}): UAR {table.percent(after['uar'])}, with the layer of pictures "
        f"{table.percent(before['uar'])}; right {table.percent(after['war'])}, {table.percent(before['war'])}; mean "
        f"negative log-likelihood {after['nll']:.2f}, {before['nll']:.2f}; chance {table.percent(after['chance_uar'])} "
        f"(commit {films['commit']}).{few}",
    ]


def _licence_of(films: Mapping[str, Any] | None) -> str:
    return f"; of the layer for films: {films['licence']}" if films else ""


def _of_people(numbers: Mapping[str, Any]) -> str:
    return f" of {n} people" if (n := numbers.get("trained_on_speakers")) else ""


def _whom(numbers: Mapping[str, Any]) -> str:
    if not numbers["protocol"]["speaker_independent"]:
        return f"on {numbers['clips']} others, which may be of the same people"
    if numbers.get("by_this_model"):
        return f"on {numbers['clips']} clips of {numbers['speakers']} people not met"
    return "on people not met, by models of the same config that were trained without them"


def _interval(numbers: Mapping[str, Any]) -> str:
    if not numbers["uar_interval"]:
        return ""
    return f" ({table.interval_text(numbers['uar_interval'])} for 95 % of resampled speakers)"
