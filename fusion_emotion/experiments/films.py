"""The head for films of a model of single pictures.

The model's last layer is fitted to clips of acted speech, and kept beside the one of pictures. It is a logistic
regression on the features of a clip, the mean over its frames with a face, and is drawn towards what the model said of
films before. How good it is, is measured on each speaker by a head that was fitted to the others.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
import scipy.optimize
from jaxtyping import Float, Int

from fusion_emotion.config import completed
from fusion_emotion.corpora.protocols import PROTOCOLS
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics, statistics, table
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.results import surroundings
from fusion_emotion.experiments.release import write
from fusion_emotion.input.batches import Source, evaluation_batches
from fusion_emotion.input.data import Data
from fusion_emotion.models.films import is_of_pictures, own_head, sees_single_faces
from fusion_emotion.models.weights import ABOUT, Head, LoadedModel, load_model, with_films

STRENGTH = 1.0  # of the pull towards the head before, against the mean loss; chosen with docs/recipe.md's table
_BATCH_SIZE = 64


def config_for(config: Mapping[str, Any], model: pathlib.Path) -> dict[str, Any]:
    """Return a config of films whose frames are cropped as the model's pictures were.

    Raises UserError for a model that does not judge single pictures, or is not released.
    """
    try:
        about = json.loads((model / ABOUT).read_text(encoding="utf-8"))
        of_faces, is_released = sees_single_faces(about["config"]) and is_of_pictures(about), "failures" in about
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{model / ABOUT} cannot be read ({type(error).__name__}: {error})") from error
    if not of_faces:
        raise UserError("--mode=films is for a model of single pictures, as of configs/faces.py: give its --model")
    if not is_released:
        raise UserError(
            f"{model} has no card yet: first --mode=release --workdir=WORKDIR --output=DIR, then --model=DIR"
        )
    wanted = completed(config)
    wanted["split"]["protocol"] = "everything"
    wanted["model"]["modalities"] = "video"
    wanted["segment"] |= {"seconds": 0.2, "hop_s": 0.2, "pad_to_s": ()}
    wanted["prepare"] |= {name: about["config"]["prepare"][name] for name in ("face_size", "margin", "align")}
    return wanted


def release_head(config: Mapping[str, Any], records: pathlib.Path, model: pathlib.Path, output: pathlib.Path) -> str:
    """Write the model to `output` with a head for films, and return a table of how good that head is.

    `config` is of `config_for`, and `records` its prepared films. Raises UserError for clips that cannot be used: no
    face, speakers who are not named or fewer than two, other labels than the model's.
    """
    loaded = load_model(model)
    data = Data.open(config, records)
    if data.label_names != loaded.label_names:
        raise UserError(
            f"the clips have the labels {', '.join(data.label_names)} and the model {', '.join(loaded.label_names)}: "
            "write the model's out in data.labels"
        )
    source = data.source("train")
    clips = Clips.of(loaded, source)
    if not clips.rows:
        raise UserError("no clip shows a face: see --mode=inspect, or choose another --config.prepare.detector")
    if "" in clips.speakers or len(set(clips.speakers)) < 2:
        raise UserError("a head for films is measured on speakers that it was not fitted to: name two or more, each")
    before = own_head(loaded, temperature=config["predict"]["film_temperature"])
    rows = [source.segments.rows[clip] for clip in clips.rows]
    after = np.zeros((len(rows), len(loaded.label_names)))
    for speaker in sorted(set(clips.speakers)):
        held_out = np.array([name == speaker for name in clips.speakers])
        after[held_out] = log_prob(clips.features[held_out], fitted(clips.part(~held_out), before, strength=STRENGTH))
    systems = {"before": Answers.of(rows, log_prob(clips.features, before)), "fitted": Answers.of(rows, after)}
    protocol, around = PROTOCOLS["loso"], surroundings()
    films = {
        "trained_on": data.corpus.title,
        "licence": data.corpus.licence,
        "numbers": {
            "protocol": {"name": protocol.name, "meaning": protocol.meaning, "speaker_independent": True},
            "clips": len(rows),
            "speakers": len(set(clips.speakers)),
            **_numbers(systems["fitted"]),
        },
        "before": _numbers(systems["before"]),
        "strength": STRENGTH,
        "film_temperature": config["predict"]["film_temperature"],
        "detector": config["prepare"]["detector"],
        "commit": around["commit"],
        "date": around["date"],
    }
    about, arrays = with_films(model, fitted(clips, before, strength=STRENGTH), films)
    write(output, about, safetensors.numpy.save(arrays))
    return _table(systems)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips with a face: their places in the rows of the source, features, labels and speakers."""

    rows: Sequence[int]
    features: Float[np.ndarray, "n features"]
    labels: Int[np.ndarray, "n"]
    speakers: Sequence[str]

    @classmethod
    def of(cls, loaded: LoadedModel, source: Source) -> "Clips":
        """Compute the features of each clip: the mean over its frames with a face."""

        @jax.jit
        def features_of(batch: Mapping[str, Any]) -> Any:
            return loaded.net.apply(loaded.variables, batch, method=lambda net, batch: net.video(batch, train=False))

        rows = source.segments.rows
        total, count = np.zeros((len(rows), loaded.config["model"]["features"])), np.zeros(len(rows))
        for batch in evaluation_batches(source, batch_size=_BATCH_SIZE):
            features, found = (np.asarray(value) for value in features_of(batch))
            np.add.at(total, batch["clip"][found], features[found])
            np.add.at(count, batch["clip"][found], 1)
        kept = np.flatnonzero(count).tolist()
        return cls(
            rows=kept,
            features=total[kept] / count[kept, None],
            labels=np.array([rows[i].label for i in kept], int),
            speakers=[rows[i].speaker for i in kept],
        )

    def part(self, chosen: np.ndarray) -> "Clips":
        """The clips where `chosen` is True."""
        places = np.flatnonzero(chosen).tolist()
        return Clips(
            [self.rows[i] for i in places],
            self.features[chosen],
            self.labels[chosen],
            [self.speakers[i] for i in places],
        )


def fitted(clips: Clips, start: Head, *, strength: float) -> Head:
    """Return the head of the least mean cross-entropy plus `strength` times its squared distance from `start`.

    Speakers weigh alike. Solved by L-BFGS from `start`; the loss is convex.
    """
    _, person, count = np.unique(clips.speakers, return_inverse=True, return_counts=True)
    weight = (1 / (len(count) * count[person]))[:, None]
    target = np.eye(len(start.bias))[clips.labels]
    n_kernel = start.kernel.size

    def moved(flat: np.ndarray) -> Head:
        return Head(start.kernel + flat[:n_kernel].reshape(start.kernel.shape), start.bias + flat[n_kernel:])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        said = log_prob(clips.features, moved(flat))
        slope = weight * (np.exp(said) - target)
        gradient = np.concatenate([(clips.features.T @ slope).ravel(), slope.sum(axis=0)])
        value = -(weight * target * said).sum() + strength * np.square(flat).sum()
        return float(value), gradient + 2 * strength * flat

    found = scipy.optimize.minimize(loss, np.zeros(n_kernel + len(start.bias)), jac=True, method="L-BFGS-B")
    return moved(found.x)


def log_prob(features: Float[np.ndarray, "n features"], head: Head) -> Float[np.ndarray, "n classes"]:
    """The log-probabilities that a head gives features."""
    return statistics.apply_temperature(features @ head.kernel + head.bias, 1.0)


def _numbers(answers: Answers) -> dict[str, Any]:
    """Return UAR, WAR and the chance UAR of the clips, and the mean negative log-likelihood."""
    chosen = answers.log_prob[np.arange(len(answers.true)), answers.true]
    confusion = answers.confusion
    return {
        "uar": float(metrics.uar(confusion)),
        "war": float(metrics.war(confusion)),
        "chance_uar": float(metrics.chance_level(confusion)),
        "nll": float(-chosen.mean()),
    }


def _table(systems: Mapping[str, Answers]) -> str:
    """Return a line for each speaker and one for all, of the head of pictures and of one fitted to the others."""
    of_all = next(iter(systems.values()))
    lines = []
    for speaker in [*sorted(set(of_all.speakers)), "all"]:
        chosen = np.array([speaker in (name, "all") for name in of_all.speakers])
        cells = [speaker, str(chosen.sum())]
        for answers in systems.values():
            numbers = _numbers(
                dataclasses.replace(
                    answers,
                    true=answers.true[chosen],
                    predicted=answers.predicted[chosen],
                    log_prob=answers.log_prob[chosen],
                )
            )
            cells += [table.percent(numbers["uar"]), table.percent(numbers["war"]), f"{numbers['nll']:.2f}"]
        lines.append(cells)
    header = ["tested on", "clips", *(f"{name} {of}" for of in systems for name in ("UAR", "WAR", "NLL"))]
    return table.table(header, lines)
