"""A trained model's answers, taken apart: what each modality is worth, why it said that, what its features hold."""

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from fusion_emotion.analyse import degrade, embeddings, saliency
from fusion_emotion.analyse.degrade import Degradation, Degraded
from fusion_emotion.evaluate import metrics, statistics
from fusion_emotion.evaluate.results import protocol_of, surroundings
from fusion_emotion.evaluate.statistics import Answers
from fusion_emotion.evaluate.table import percent, table
from fusion_emotion.files import atomic
from fusion_emotion.models.frontend import mel_edges_hz
from fusion_emotion.pages import figures, page, pictures
from fusion_emotion.pages.run import notes
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import Checkpoints
from fusion_emotion.train.loop import Evaluator, Outcome, Setup
from fusion_emotion.train.step import TrainState
from fusion_emotion.units import FRAME_RATE_HZ

ANALYSIS = "analysis.json"
PAGE = "analysis.html"

EXPLAINED = 4  # right clips, and wrong ones
_ALONE = {"audio": "audio alone", "video": "video alone"}
_BOTH = "audio and video"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explained:
    """A test clip, and the picture of what spoke for its answer."""

    clip_id: str
    speaker: str
    true: str
    predicted: str
    start_s: float
    probability: float  # of `predicted`, in this window
    picture: str  # data URI

    @property
    def right(self) -> bool:
        """Whether the prediction is the true label."""
        return self.true == self.predicted


def analyse(setup: Setup, workdir: pathlib.Path) -> dict[str, Any]:
    """Analyse the best checkpoint of `workdir` on the test part; write the numbers and the page, return the numbers.

    Raises UserError where there is no checkpoint.
    """
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore_best(setup.new_state(setup.optimizer()))
    checkpoints.close()
    opened = setup.source("test")
    source = Degraded(opened.windows, opened.records)
    modalities = setup.config["model"]["modalities"]
    outcome, worth, curves = _worth(setup, state, source)
    explained = _explain(setup, state, outcome)
    held, planes = _embed(setup, state)
    results = {
        "corpus": setup.config["data"]["corpus"],
        "modalities": modalities,
        "label_names": list(setup.label_names),
        "protocol": protocol_of(setup.config["split"]),
        "test": {
            "clips": source.windows.n_clips,
            "windows": len(source.windows),
            "speakers": sorted({row.speaker for row in source.windows.rows}),
            "chance_uar": metrics.chance_level(outcome.clip_confusion),
        },
        "checkpoint_step": int(state.step),
        "modality_dropout": setup.config["augment"]["modality_dropout"],
        "worth": worth,
        "curves": curves,
        "explained": [
            {name: value for name, value in dataclasses.asdict(each).items() if name != "picture"} for each in explained
        ],
        "features": held,
        **surroundings(),
    }
    with atomic(workdir / ANALYSIS) as partial:
        partial.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    page.write(
        workdir / PAGE,
        "analysis.html",
        results=results,
        corpus_title=page.CORPUS_TITLES.get(results["corpus"], results["corpus"]),
        notes=notes(results),
        curves=[(curve, _drawn(curve, results)) for curve in curves],
        explained=[
            ("Right", [each for each in explained if each.right]),
            ("Wrong", [each for each in explained if not each.right]),
        ],
        pictures=planes,
        bands={"eyes": degrade.EYES, "mouth": degrade.MOUTH},
        voices=degrade.VOICES,
        neighbours=embeddings.NEIGHBOURS,
        credit=page.CREDITS.get(results["corpus"], ""),
        command=f"python launch.py --mode=analyse --workdir={shlex.quote(workdir.name)}",
        workdir=workdir.name,
    )
    return results


def text(results: Mapping[str, Any]) -> str:
    """The table at the end of an analysis; it names its protocol."""
    protocol = results["protocol"]
    fold = "" if protocol["fold"] is None else f", fold {protocol['fold']}"
    rows = [[name, percent(score["uar"]), _interval(score)] for name, score in results["worth"]["given"].items()]
    for curve in results["curves"]:
        of = next(iter(curve["lines"]))
        for at in (len(curve["steps"]) // 2, len(curve["steps"]) - 1):
            score = curve["lines"][of][at]
            rows.append(
                [
                    f"{of}, {curve['title'].lower()}: {curve['steps'][at]} {curve['unit']}",
                    percent(score["uar"]),
                    _interval(score),
                ]
            )
    return "\n".join(
        [
            f"{results['corpus']}, {results['modalities']}, test part of protocol {protocol['name']}{fold}, "
            f"{results['test']['clips']} clips:",
            f"  {protocol['meaning']}",
            "",
            table(["the model is given", "UAR", "95 % interval"], rows),
            "",
            f"  chance UAR {percent(results['test']['chance_uar'])}"
            + ("" if rows[0][2] else "; no intervals, for the test part has too few speakers"),
        ]
    )


def _interval(score: Mapping[str, Any]) -> str:
    return " to ".join(percent(end) for end in score["interval"]) if score["interval"] else ""


def _worth(setup: Setup, state: TrainState, source: Degraded) -> tuple[Outcome, dict[str, Any], list[dict[str, Any]]]:
    """The outcome of the test part as it is, the scores without a modality, and those under each degradation."""
    evaluator, replicated = Evaluator(setup, "test"), devices.replicate(state)
    modalities = setup.config["model"]["modalities"].split("+")
    fused = len(modalities) > 1
    # Each is the source of what the model is given, under the name of it.
    given = {_ALONE[modalities[0]]: source}
    if fused:
        given = {_BOTH: source, _ALONE["audio"]: source.without("video"), _ALONE["video"]: source.without("audio")}
    outcomes = {name: evaluator(replicated, each) for name, each in given.items()}
    scores = {name: _score(outcome) for name, outcome in outcomes.items()}
    first, *others = outcomes

    def lines_of(degradation: Degradation) -> dict[str, list[Degraded]]:
        steps = list(degradation.steps.values())[1:]
        lines = {first: steps}
        if fused and not any(step.lost for step in steps):
            lines[_ALONE[degradation.modality]] = [step.without(degrade.OTHER[degradation.modality]) for step in steps]
        return lines

    degradations = [each for each in degrade.degradations(source) if each.modality in modalities]
    curves = [
        {
            **{name: getattr(each, name) for name in ("name", "modality", "title", "axis", "unit")},
            "steps": list(each.steps),
            "lines": {
                name: [scores[name], *(_score(evaluator(replicated, step)) for step in steps)]
                for name, steps in lines_of(each).items()
            },
        }
        for each in tqdm(degradations, desc="degrading", unit="way", disable=not devices.leads())
    ]
    gains = {name: _gain(outcomes[first], outcomes[name]) for name in others}
    return outcomes[first], {"given": scores, "gain_over": gains}, curves


def _answers(outcome: Outcome) -> Answers:
    speakers = [row.speaker for row in outcome.windows.rows]
    return Answers(true=outcome.windows.labels, predicted=outcome.predicted, speakers=speakers)


def _score(outcome: Outcome) -> dict[str, Any]:
    """Clip-level UAR and WAR, and the interval of UAR over speakers where there are enough of them."""
    found = statistics.pooled_interval([_answers(outcome)], statistic="uar", seed=0)
    return {
        "uar": metrics.uar(outcome.clip_confusion),
        "war": metrics.war(outcome.clip_confusion),
        "interval": _ends(found),
    }


def _gain(one: Outcome, other: Outcome) -> dict[str, Any]:
    """How much more UAR `one` has than `other` on the same clips."""
    found = statistics.difference_interval([_answers(one)], [_answers(other)], statistic="uar", seed=0)
    return {"uar": found.value, "interval": _ends(found)}


def _ends(found: statistics.Interval) -> list[float] | None:
    return [found.low, found.high] if found.n_speakers >= statistics.LEAST_SPEAKERS else None


def _drawn(curve: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The picture of a curve; a level for what is left when the degraded modality is gone."""
    other = _ALONE[degrade.OTHER[curve["modality"]]]
    given = results["worth"]["given"]
    return figures.svg_uri(
        figures.degradation(
            {name: [(score["uar"], score["interval"]) for score in scores] for name, scores in curve["lines"].items()},
            curve["steps"],
            chance=results["test"]["chance_uar"],
            level=(other, given[other]["uar"]) if other in given else None,
            xlabel=f"{curve['axis']} ({curve['unit']})",
            ylabel="UAR of clips (%)",
        )
    )


def choose(outcome: Outcome) -> list[int]:
    """Up to `EXPLAINED` clips that are right, then wrong ones, of as many emotions as there are.

    The order is that of a hash of the clip's name, so that neither looks nor confidence choose.
    """
    rows, labels, predicted = outcome.windows.rows, outcome.windows.labels, outcome.predicted
    clips = sorted(range(len(rows)), key=lambda i: page.hashed(rows[i].clip_id))

    def spread(among: Sequence[int]) -> Iterator[int]:
        seen: list[int] = []
        for clip in among:
            seen.append(int(labels[clip]))
            yield seen.count(int(labels[clip]))

    chosen: list[int] = []
    for right in (True, False):
        among = [clip for clip in clips if (labels[clip] == predicted[clip]) == right]
        # The first of each emotion before the second of any.
        nth = dict(zip(among, spread(among), strict=True))
        chosen += sorted(among, key=lambda clip: nth[clip])[:EXPLAINED]
    return chosen


def _explain(setup: Setup, state: TrainState, outcome: Outcome) -> list[Explained]:
    """The chosen clips' middle windows, each with what speaks for the clip's answer."""
    source, windows = setup.source("test"), setup.windows["test"]
    clips = choose(outcome)
    middles = [int(of_clip[len(of_clip) // 2]) for of_clip in (np.flatnonzero(windows.clip == clip) for clip in clips)]
    examples = [source.window(index) for index in middles]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    labels = outcome.predicted[clips].astype(np.int32)
    found = saliency.explain(setup.model, state.variables, batch, labels)
    mfcc = setup.config["model"]["mfcc"]
    centres_hz = mel_edges_hz(mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])[1:-1]
    explained = []
    for i, clip in enumerate(clips):
        row = windows.rows[clip]
        start_s = float(windows.start[middles[i]]) / FRAME_RATE_HZ
        picture = pictures.explanation(
            strip=batch["strip"][i] if found.heat is not None and batch["has_video"][i] else None,
            heat=found.heat[i] if found.heat is not None else None,
            log_mel_db=found.log_mel_db[i] if found.log_mel_db is not None and batch["has_audio"][i] else None,
            relevance=found.relevance[i] if found.relevance is not None else None,
            centres_hz=centres_hz,
            start_s=start_s,
        )
        explained.append(
            Explained(
                clip_id=row.clip_id,
                speaker=row.speaker,
                true=setup.label_names[row.label],
                predicted=setup.label_names[labels[i]],
                start_s=start_s,
                probability=float(found.probability[i]),
                picture=pictures.jpeg_uri(picture),
            )
        )
    return explained


def _embed(setup: Setup, state: TrainState) -> tuple[dict[str, Any] | None, dict[str, str]]:
    """How the test clips' features group, and pictures of it; nothing where a clip has too few neighbours."""
    source = setup.source("test")
    rows = source.windows.rows
    if len(rows) <= embeddings.NEIGHBOURS:
        return None, {}
    features = embeddings.clip_features(
        setup.model, state.variables, source, batch_size=setup.config["train"]["batch_size"]
    )
    modalities = setup.config["model"]["modalities"].split("+")
    parts = {_BOTH: features} if len(modalities) > 1 else {}
    parts |= {
        _ALONE[name]: part for name, part in zip(modalities, np.split(features, len(modalities), axis=1), strict=True)
    }
    groups = {"emotion": [setup.label_names[row.label] for row in rows]}
    # One speaker groups nothing.
    if len({row.speaker for row in rows}) > 1:
        groups["speaker"] = [row.speaker for row in rows]
    places, variance = embeddings.plane(features)
    held = {
        "size": features.shape[1],
        "neighbours": embeddings.NEIGHBOURS,
        "agreement": {
            name: {by: embeddings.agreement(part, of) for by, of in groups.items()} for name, part in parts.items()
        },
        "chance": {by: embeddings.chance_agreement(of) for by, of in groups.items()},
        "most": {by: embeddings.most_agreement(of) for by, of in groups.items()},
        "variance_shares": variance.tolist(),
        "clips": [
            {"clip_id": row.clip_id, "speaker": row.speaker, "label": row.label, "place": place}
            for row, place in zip(rows, places.round(4).tolist(), strict=True)
        ],
    }
    names = {
        "emotion": [name for name in setup.label_names if name in groups["emotion"]],
        "speaker": sorted({row.speaker for row in rows}),
    }
    planes = {by: figures.svg_uri(figures.scatter(places, of, names[by], shares=variance)) for by, of in groups.items()}
    return held, planes
