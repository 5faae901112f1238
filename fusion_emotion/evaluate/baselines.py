"""Baselines that a network must beat, on the same split: trained, chosen and tested on its three parts."""

import functools
import importlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Float, Int

from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError, unknown_name
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.table import percent, table
from fusion_emotion.input.data import Data
from fusion_emotion.models.frontend import mfcc
from fusion_emotion.prepare.records import Row, decode, shard_paths
from fusion_emotion.units import SAMPLE_RATE_HZ

MEANING = {
    "majority": "the most frequent emotion of the training part, always",
    "mfcc": "logistic regression on means and standard deviations of MFCCs and of their differences",
    "egemaps": "logistic regression on the 88 functionals of eGeMAPS (Eyben et al. 2016), by openSMILE",
    "compare": "logistic regression on the 6,373 functionals of ComParE (Weninger et al. 2013), by openSMILE",
}

_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, from strong to weak
_OF_MANY = _REGULARISATIONS[:3]  # of features that outnumber the clips; weaker ones take long
_SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}  # openSMILE's names
_LEAST_PROBABILITY = 1e-12  # keeps logarithms finite, also for a class that the training part lacks
_BATCH_SIZE = 32


def available(rows: Iterable[Row], *, compare: bool = False) -> list[str]:
    """Return the baselines that these clips and the installed packages allow; print which are left out.

    `compare` adds one that takes minutes.
    """
    names = ["majority"]
    if not any(row.n_samples for row in rows):
        print("the baselines on sound are left out: no clip has sound")
        return names
    needed = {"mfcc": ("sklearn",), **dict.fromkeys(list(_SETS)[: 1 + compare], ("sklearn", "opensmile"))}
    for name, packages in needed.items():
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            print(f"{name} is left out: it needs {missing[0]} (pip install -r requirements-baselines.txt)")
        else:
            names.append(name)
    return names


def text(systems: Mapping[str, Answers]) -> str:
    """Return a table of the baselines' scores."""
    measures = (metrics.uar, metrics.war)
    rows = [
        [MEANING[name], *(percent(measure(answers.confusion)) for measure in measures)]
        for name, answers in systems.items()
    ]
    return table(["baseline", "UAR", "WAR"], rows)


def baseline(name: str, data: Data, config: Mapping[str, Any]) -> Answers:
    """Return the answers of a baseline of `MEANING` on the test part of a split.

    Raises UserError for an unknown name, a missing package, data without sound, and a protocol that places segments.
    """
    if name not in MEANING:
        raise unknown_name("baseline", name, tuple(MEANING))
    if data.protocol.unit == "segment":
        raise UserError(
            f"split.protocol={data.protocol.name} puts segments of one clip on two sides, and the baseline {name} sees "
            "whole clips: choose --config.split.protocol=random or a speaker-independent one"
        )
    test, train, validation = (data.parts[part] for part in ("test", "train", "validation"))
    n_classes = len(data.label_names)
    if name == "majority" or len(set(train.labels)) == 1:
        counts = np.bincount(train.labels, minlength=n_classes) + 1
        return Answers.of(test.rows, np.tile(np.log(counts / counts.sum()), (test.n_clips, 1)))
    linear_model = _package("sklearn.linear_model", name)
    features = _standardised(name, data, config)

    def validation_uar(model: Any) -> float:
        predicted = model.predict(features["validation"])
        return metrics.uar(metrics.confusion_matrix(validation.labels, predicted, n_classes))

    models = [
        linear_model.LogisticRegression(C=strength, class_weight="balanced", max_iter=2000)
        for strength in (_OF_MANY if name == "compare" else _REGULARISATIONS)
    ]
    # Of equal models `max` takes the first, that of the strongest regularisation.
    best = max((model.fit(features["train"], train.labels) for model in models), key=validation_uar)
    probability = np.zeros((test.n_clips, n_classes))
    probability[:, best.classes_] = best.predict_proba(features["test"])
    return Answers.of(test.rows, np.log(np.maximum(probability, _LEAST_PROBABILITY)))


def _package(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the baseline {name} needs {module.partition('.')[0]}, which is not installed: "
            "pip install -r requirements-baselines.txt"
        ) from error


def _standardised(name: str, data: Data, config: Mapping[str, Any]) -> dict[Part, Float[np.ndarray, "clips d"]]:
    """Return the features of each part's clips, standardised by the training part; zeros without sound."""
    rows = [row for row in data.rows if row.n_samples]
    if not rows:
        raise UserError(f"the baseline {name} needs sound, and no prepared clip has any: use clips with an audio track")
    lengths = tuple(sorted((row.record, row.n_samples) for row in rows))
    values = _features(name, data.folder, lengths, tuple(config["model"]["mfcc"].items()))
    by_record = {record: features for (record, _), features in zip(lengths, values, strict=True)}
    nothing = np.full(values.shape[1], np.nan)
    parts = {
        part: np.array([by_record.get(row.record, nothing) for row in segments.rows])
        for part, segments in data.parts.items()
    }
    mean, std = np.nanmean(parts["train"], axis=0), np.nanstd(parts["train"], axis=0)
    return {part: np.nan_to_num((clips - mean) / np.where(std > 0, std, 1)) for part, clips in parts.items()}


# Cached: the folds of a cross-validation have the same clips.
@functools.lru_cache(2)
def _features(
    name: str, folder: pathlib.Path, lengths: tuple[tuple[int, int], ...], settings: tuple[tuple[str, Any], ...]
) -> Float[np.ndarray, "clips d"]:
    """Compute the features of clips; `lengths` has (index among the records, number of samples) of each."""
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))

    def waveform(clip: int) -> np.ndarray:
        return decode(source[lengths[clip][0]]).waveform.astype(np.float32) / 32768

    if name in _SETS:
        return opensmile_functionals(name, map(waveform, range(len(lengths))))
    return mfcc_statistics(waveform, n_samples=np.array(lengths)[:, 1], **dict(settings))


def mfcc_statistics(
    waveform: Callable[[int], np.ndarray], *, n_samples: Int[np.ndarray, "clips"], **settings: Any
) -> Float[np.ndarray, "clips d"]:
    """Compute means and standard deviations over time of each clip's MFCCs, then those of their first differences.

    `waveform` returns the sound of a clip, in [-1, 1] at 16 kHz; `settings` are those of `mfcc`. Padding is left out.
    """
    compute = jax.jit(functools.partial(mfcc, sr=SAMPLE_RATE_HZ, **settings))
    # One shape, hence one compilation, for each length in whole seconds.
    seconds = -(-n_samples // SAMPLE_RATE_HZ)
    features = np.zeros((len(n_samples), 4 * settings["n_mfcc"]), np.float32)
    for length in np.unique(seconds):
        clips = np.flatnonzero(seconds == length)
        for first in range(0, len(clips), _BATCH_SIZE):
            chosen = clips[first : first + _BATCH_SIZE]
            batch = np.zeros((_BATCH_SIZE, length * SAMPLE_RATE_HZ), np.float32)
            for place, clip in enumerate(chosen):
                batch[place, : n_samples[clip]] = waveform(int(clip))
            for clip, coefficients in zip(chosen, np.asarray(compute(batch)), strict=False):
                values = coefficients[: 1 + n_samples[clip] // settings["hop_length"]]
                differences = np.diff(values, axis=0) if len(values) > 1 else np.zeros_like(values)
                features[clip] = np.concatenate(
                    [f(x, axis=0) for x in (values, differences) for f in (np.mean, np.std)]
                )
    return features


def opensmile_functionals(name: str, waveforms: Iterable[np.ndarray]) -> Float[np.ndarray, "clips d"]:
    """Compute the functionals of a baseline's feature set of each clip, in [-1, 1] at 16 kHz.

    Raises UserError without openSMILE.
    """
    opensmile = _package("opensmile", name)
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet[_SETS[name]], feature_level=opensmile.FeatureLevel.Functionals
    )
    return np.concatenate([smile.process_signal(waveform, SAMPLE_RATE_HZ).to_numpy() for waveform in waveforms])
