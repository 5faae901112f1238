"""The analysis of a trained model: scores without a modality and under degradation, explanations, and features."""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fusion_emotion.analyse import degrade, embeddings, saliency
from fusion_emotion.analyse.degrade import Degradation, Degraded
from fusion_emotion.evaluate import metrics, statistics
from fusion_emotion.evaluate.answers import Answers, hashed
from fusion_emotion.evaluate.evaluator import Evaluator
from fusion_emotion.evaluate.results import best, protocol_of, surroundings
from fusion_emotion.evaluate.table import percent, table
from fusion_emotion.files import atomic
from fusion_emotion.input.data import Data
from fusion_emotion.models.frontend import mel_edges_hz
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.progress import bar
from fusion_emotion.train import devices
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

ANALYSIS = "analysis.json"

EXPLAINED = 4  # right clips, and as many wrong ones
_ALONE = {"audio": "audio alone", "video": "video alone"}
_BOTH = "audio and video"

Variables = Mapping[str, Any]


def analyse(
    model: FusionNet, data: Data, config: Mapping[str, Any], workdir: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Analyse the best checkpoint of `workdir` on the test part.

    Writes the numbers to `ANALYSIS`. Returns them and the arrays that a page needs too: for each `explained` clip
    `faces`, `heat`, `log_mel_db`, `relevance` (None if missing) and `length_s`, the `centres_hz` of the mel bands, and
    the `places` of the clips in the plane. Raises UserError without a checkpoint.
    """
    chosen = best(workdir, model, config)
    opened = data.source("test")
    source = Degraded(opened.segments, opened.records)
    answers, worth, curves = _worth(model, chosen.variables, source, config)
    explained, arrays = _explain(model, chosen.variables, data, config, answers)
    features, places = _embed(model, chosen.variables, data, config)
    results = {
        "corpus": data.corpus.name,
        "modalities": config["model"]["modalities"],
        "label_names": list(data.label_names),
        "protocol": protocol_of(data.protocol, config["split"]),
        "test": {
            "clips": source.segments.n_clips,
            "segments": len(source.segments),
            "speakers": sorted({*source.segments.speakers} - {""}),
            "chance_uar": metrics.chance_level(answers.confusion),
        },
        "checkpoint_step": chosen.step,
        "modality_dropout": config["augment"]["modality_dropout"],
        "worth": worth,
        "degradations": {"voices": degrade.VOICES, "eyes": degrade.EYES, "mouth": degrade.MOUTH},
        "curves": curves,
        "explained": explained,
        "features": features,
        **surroundings(),
    }
    if devices.is_main_process():
        with atomic(workdir / ANALYSIS) as partial:
            partial.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    mfcc = config["model"]["mfcc"]
    centres_hz = mel_edges_hz(mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])[1:-1]
    return results, {"explained": arrays, "centres_hz": centres_hz, "places": places}


def text(results: Mapping[str, Any]) -> str:
    """The table at the end of an analysis; it names its protocol."""
    protocol = results["protocol"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    given = dict(results["worth"]["given"])
    has_intervals = next(iter(given.values()))["interval"] is not None
    for curve in results["curves"]:
        name, scores = next(iter(curve["lines"].items()))
        for at in (len(curve["steps"]) // 2, len(curve["steps"]) - 1):
            given[f"{name}, {curve['title'].lower()}: {curve['steps'][at]} {curve['unit']}"] = scores[at]
    rows = [[name, percent(of["uar"]), " to ".join(map(percent, of["interval"] or []))] for name, of in given.items()]
    return "\n".join(
        [
            f"{results['corpus']}, {results['modalities']}, test part of protocol {protocol['name']}{fold}, "
            f"{results['test']['clips']} clips:",
            f"  {protocol['meaning']}",
            "",
            table(["the model is given", "UAR", "95 % interval"], rows),
            "",
            f"  chance UAR {percent(results['test']['chance_uar'])}"
            + ("" if has_intervals else "; no intervals, for the test part has too few speakers"),
        ]
    )


def _worth(
    model: FusionNet, variables: Variables, source: Degraded, config: Mapping[str, Any]
) -> tuple[Answers, dict[str, Any], list[dict[str, Any]]]:
    """The answers for the test part as it is, the scores without a modality, and those under each degradation."""
    evaluate = functools.partial(Evaluator(model, source, config), devices.replicate(variables))
    modalities = config["model"]["modalities"].split("+")
    fused = len(modalities) > 1
    # Sources by the name of the modalities they keep.
    given = {_ALONE[modalities[0]]: source}
    if fused:
        given = {_BOTH: source, _ALONE["audio"]: source.without("video"), _ALONE["video"]: source.without("audio")}
    answers = {name: evaluate(kept) for name, kept in given.items()}
    scores = {name: _score(said) for name, said in answers.items()}
    first, *others = answers
    gains = {}
    for name in others:
        gain = statistics.difference_interval([answers[first]], [answers[name]], statistic="uar", seed=0)
        gains[name] = {"uar": gain.value, "interval": gain.bounds}

    def curve(degradation: Degradation) -> dict[str, Any]:
        other = degrade.OTHER[degradation.modality]
        steps = list(degradation.steps.values())[1:]
        lines = {first: steps}
        if fused and not any(step.lost for step in steps):
            lines[_ALONE[degradation.modality]] = [step.without(other) for step in steps]
        return {
            **{name: getattr(degradation, name) for name in ("name", "modality", "title", "axis", "unit")},
            "without": _ALONE[other],  # the name of the score without the degraded modality
            "steps": list(degradation.steps),
            "lines": {name: [scores[name], *(_score(evaluate(step)) for step in of)] for name, of in lines.items()},
        }

    degradations = [each for each in degrade.degradations(source) if each.modality in modalities]
    shown = bar(degradations, desc="degrading", unit="way", disable=not devices.is_main_process())
    return answers[first], {"given": scores, "gain_over": gains}, [curve(degradation) for degradation in shown]


def _score(answers: Answers) -> dict[str, Any]:
    """Clip-level UAR and WAR, and the interval of UAR over speakers if there are enough of them."""
    interval = statistics.pooled_interval([answers], statistic="uar", seed=0)
    return {"uar": metrics.uar(answers.confusion), "war": metrics.war(answers.confusion), "interval": interval.bounds}


def choose(answers: Answers) -> list[int]:
    """Choose up to `EXPLAINED` clips that are right, then as many wrong ones, of as many emotions as possible.

    The hash of the clip's name orders them, so that neither looks nor confidence choose. Returns their indices.
    """
    clips = sorted(range(len(answers.true)), key=lambda clip: hashed(answers.clip_ids[clip]))
    chosen: list[int] = []
    for right in (True, False):
        of = [clip for clip in clips if (answers.true[clip] == answers.predicted[clip]) == right]
        labels = answers.true[of].tolist()
        # The first clip of each emotion before the second of any.
        rounds = [labels[:i].count(label) for i, label in enumerate(labels)]
        chosen += [of[i] for i in np.argsort(rounds, kind="stable")[:EXPLAINED]]
    return chosen


def _explain(
    model: FusionNet, variables: Variables, data: Data, config: Mapping[str, Any], answers: Answers
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Explain the answer for the middle segment of each chosen clip. Returns numbers and arrays, one each a clip."""
    source, clips = data.source("test"), choose(answers)
    examples = [source.segment(source.segments.middle(clip)) for clip in clips]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    predicted = answers.predicted[clips].astype(np.int32)
    hop_length = config["model"]["mfcc"]["hop_length"]
    explanation = saliency.explain(model, variables, batch, predicted, hop_length=hop_length)
    heat, log_mel_db, relevance = explanation.heat, explanation.log_mel_db, explanation.relevance
    numbers, arrays = [], []
    for i, clip in enumerate(clips):
        n_frames, padded = int(batch["n_frames"][i]), batch["faces"].shape[1]
        cells = slice(1 + n_frames * SAMPLES_PER_FRAME // hop_length)
        numbers.append(
            {
                "clip_id": answers.clip_ids[clip],
                "speaker": answers.speakers[clip],
                "true": data.label_names[answers.true[clip]],
                "predicted": data.label_names[predicted[i]],
                "start_s": int(batch["start"][i]) / FRAME_RATE_HZ,
                "probability": float(explanation.probability[i]),
            }
        )
        # Without padding.
        arrays.append(
            {
                "length_s": n_frames / FRAME_RATE_HZ,
                "faces": batch["faces"][i, :n_frames] if heat is not None and batch["has_video"][i] else None,
                "heat": heat[i, :, : -(-heat.shape[2] * n_frames // padded)] if heat is not None else None,
                "log_mel_db": log_mel_db[i, cells] if log_mel_db is not None and batch["has_audio"][i] else None,
                "relevance": relevance[i, cells] if relevance is not None else None,
            }
        )
    return numbers, arrays


def _embed(
    model: FusionNet, variables: Variables, data: Data, config: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, np.ndarray | None]:
    """The grouping of the test clips' features, and the clips' places in the plane; None for too few clips."""
    source = data.source("test")
    rows = source.segments.rows
    if len(rows) <= embeddings.NEIGHBOURS:
        return None, None
    parts = embeddings.clip_features(model, variables, source, batch_size=config["train"]["batch_size"])
    whole = np.concatenate(list(parts.values()), axis=1)
    named = ({_BOTH: whole} if len(parts) > 1 else {}) | {_ALONE[name]: part for name, part in parts.items()}
    groups = {"emotion": [data.label_names[row.label] for row in rows]}
    # One speaker groups nothing.
    if len(set(source.segments.speakers)) > 1:
        groups["speaker"] = source.segments.speakers
    places, variance = embeddings.plane(whole)
    summary = {
        "size": whole.shape[1],
        "neighbours": embeddings.NEIGHBOURS,
        "agreement": {
            name: {by: embeddings.agreement(part, values) for by, values in groups.items()}
            for name, part in named.items()
        },
        "chance": {by: embeddings.chance_agreement(values) for by, values in groups.items()},
        "most": {by: embeddings.most_agreement(values) for by, values in groups.items()},
        "variance_shares": variance.tolist(),
        "clips": [
            {"clip_id": row.clip_id, "speaker": row.speaker, "label": row.label, "place": place}
            for row, place in zip(rows, places.round(4).tolist(), strict=True)
        ],
    }
    return summary, places
