"""Baselines: what a network must beat, under the same split.

Trained on the training part; what is chosen is chosen on the validation part; the test part is read once.
"""

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import grain
import jax
import numpy as np
from jaxtyping import Float, Int

from fusion_emotion.corpora.protocols import Part
from fusion_emotion.errors import UserError, did_you_mean
from fusion_emotion.evaluate import metrics
from fusion_emotion.input.segments import Windows
from fusion_emotion.models.frontend import mfcc
from fusion_emotion.prepare.records import decode, shard_paths
from fusion_emotion.train.loop import Setup
from fusion_emotion.units import SAMPLE_RATE_HZ

MEANING = {
    "majority": "the most frequent emotion of the training part, always",
    "mfcc": "logistic regression on means and standard deviations of MFCCs and of their differences",
    "egemaps": "logistic regression on the 88 functionals of eGeMAPS (Eyben et al. 2016), by openSMILE",
}

_REGULARISATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, from strong to weak
_LEAST_PROBABILITY = 1e-12  # also of a class that the training part lacks, for a logarithm must be finite
_BATCH_SIZE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineOutcome:
    """What a baseline says of every clip of the test part, and what it chose on the validation part."""

    name: str
    windows: Windows
    clip_log_prob: Float[np.ndarray, "clips C"]
    regularisation: float | None  # scikit-learn's C
    validation_uar: float | None

    @property
    def predicted(self) -> Int[np.ndarray, "clips"]:
        """The predicted label of each clip."""
        return self.clip_log_prob.argmax(axis=1)

    @property
    def clip_confusion(self) -> Int[np.ndarray, "C C"]:
        """The confusion matrix of the clips, each counted once."""
        return metrics.confusion_matrix(self.windows.labels, self.predicted, self.clip_log_prob.shape[1])


def left_out() -> dict[str, str]:
    """The baselines whose packages are not installed, and the first package that each lacks."""
    needed = {"mfcc": ("sklearn",), "egemaps": ("sklearn", "opensmile")}
    lacking = {name: [p for p in packages if importlib.util.find_spec(p) is None] for name, packages in needed.items()}
    return {name: packages[0] for name, packages in lacking.items() if packages}


def baseline(name: str, setup: Setup) -> BaselineOutcome:
    """The outcome of a baseline of `MEANING` on the test part of a split.

    Raises UserError for a name that is none, a missing package, data without sound, and a split of windows: a baseline
    sees whole clips.
    """
    if name not in MEANING:
        raise did_you_mean("baseline", name, tuple(MEANING))
    protocol = setup.config["split"]["protocol"]
    if protocol == "random_windows":
        raise UserError(
            f"split.protocol={protocol} puts windows of one clip on two sides, and the baseline {name} sees whole "
            "clips: choose --config.split.protocol=random or a speaker-independent one"
        )
    test = setup.windows["test"]
    if name == "majority":
        counts = np.bincount(setup.windows["train"].labels, minlength=len(setup.label_names)) + 1
        log_prob = np.tile(np.log(counts / counts.sum()), (test.n_clips, 1))
        return BaselineOutcome(
            name=name, windows=test, clip_log_prob=log_prob, regularisation=None, validation_uar=None
        )
    linear_model = _package("sklearn.linear_model", name)
    features = _standardised(name, setup)
    train, validation = setup.windows["train"], setup.windows["validation"]
    best: tuple[float, float, Any] | None = None
    for regularisation in _REGULARISATIONS:
        model = linear_model.LogisticRegression(C=regularisation, class_weight="balanced", max_iter=2000)
        model.fit(features["train"], train.labels)
        predicted = model.predict(features["validation"])
        uar = metrics.uar(metrics.confusion_matrix(validation.labels, predicted, len(setup.label_names)))
        # Of equals the strongest regularisation.
        if best is None or uar > best[0]:
            best = uar, regularisation, model
    assert best is not None
    uar, regularisation, model = best
    probability = np.zeros((test.n_clips, len(setup.label_names)))
    probability[:, model.classes_] = model.predict_proba(features["test"])
    log_prob = np.log(np.maximum(probability, _LEAST_PROBABILITY))
    return BaselineOutcome(
        name=name, windows=test, clip_log_prob=log_prob, regularisation=regularisation, validation_uar=uar
    )


def _package(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the baseline {name} needs {module.partition('.')[0]}, which is not installed: "
            "pip install -r requirements-baselines.txt"
        ) from error


def _standardised(name: str, setup: Setup) -> dict[Part, Float[np.ndarray, "clips d"]]:
    """The features of the clips of each part, standardised by the training part.

    A clip without sound gets the training part's means.
    """
    rows = [row for windows in setup.windows.values() for row in windows.rows if row.n_samples]
    if not rows:
        raise UserError(f"the baseline {name} needs sound, and no prepared clip has any: use clips with an audio track")
    lengths = tuple(sorted((row.record, row.n_samples) for row in rows))
    values = _features(name, setup.folder, lengths, tuple(setup.config["model"]["mfcc"].items()))
    found = {record: features for (record, _), features in zip(lengths, values, strict=True)}
    nothing = np.full(values.shape[1], np.nan)
    parts = {
        part: np.array([found.get(row.record, nothing) for row in windows.rows])
        for part, windows in setup.windows.items()
    }
    mean, std = np.nanmean(parts["train"], axis=0), np.nanstd(parts["train"], axis=0)
    return {part: np.nan_to_num((clips - mean) / np.where(std > 0, std, 1)) for part, clips in parts.items()}


# The folds of a cross-validation have the same clips.
@functools.lru_cache(2)
def _features(
    name: str, folder: pathlib.Path, lengths: tuple[tuple[int, int], ...], settings: tuple[tuple[str, Any], ...]
) -> Float[np.ndarray, "clips d"]:
    """The features of the clips whose numbers among the records and of samples are `lengths`."""
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))

    def waveform(clip: int) -> np.ndarray:
        return decode(source[lengths[clip][0]]).waveform.astype(np.float32) / 32768

    if name == "egemaps":
        return egemaps(map(waveform, range(len(lengths))))
    return mfcc_statistics(waveform, n_samples=np.array(lengths)[:, 1], **dict(settings))


def mfcc_statistics(
    waveform: Callable[[int], np.ndarray], *, n_samples: Int[np.ndarray, "clips"], **settings: Any
) -> Float[np.ndarray, "clips d"]:
    """Means and standard deviations over time of each clip's MFCCs, then those of their first differences.

    `waveform` gives the sound of a clip, in [-1, 1] at 16 kHz, and `settings` are those of `mfcc`. What fills up a
    batch does not count.
    """
    compute = jax.jit(functools.partial(mfcc, sr=SAMPLE_RATE_HZ, **settings))
    # One shape, and so one compilation, for each length in whole seconds.
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


def egemaps(waveforms: Iterable[np.ndarray]) -> Float[np.ndarray, "clips 88"]:
    """The functionals of eGeMAPS v02 of each clip, in [-1, 1] at 16 kHz. Raises UserError without openSMILE."""
    opensmile = _package("opensmile", "egemaps")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    return np.concatenate([smile.process_signal(waveform, SAMPLE_RATE_HZ).to_numpy() for waveform in waveforms])
