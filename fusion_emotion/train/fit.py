"""The logistic regression on descriptors, solved before the first step."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float, Int, PyTree

from fusion_emotion.input.batches import Source, evaluation_batches
from fusion_emotion.models.batch import Batch
from fusion_emotion.models.voice import standardised
from fusion_emotion.progress import bar
from fusion_emotion.train import devices
from fusion_emotion.units import SAMPLES_PER_FRAME

_BATCH_SIZE = 16
_MOST_ITERATIONS = 200


def with_fitted_descriptors(
    variables: Mapping[str, PyTree], view: nn.Module, source: Source, config: Mapping[str, Any]
) -> dict[str, PyTree]:
    """Return variables whose `descriptors` part is fitted to the segments of `source`, each at every speed.

    Classes weigh alike, and the copies of a segment together weigh as much as one. Without any sound to fit to they
    stay as they are.
    """
    settings = config["model"]["descriptors"]
    speeds = (1.0, *settings["speeds"])
    values, labels = _statistics(view, source, speeds)
    if not len(labels):
        return dict(variables)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-8)
    kernel, bias = logistic_regression(
        np.asarray(standardised(*map(jnp.asarray, (values, mean, scale)))),
        labels,
        n_classes=view.n_classes,
        strength=settings["strength"] / len(speeds),
    )
    fitted = {"mean": mean, "scale": scale, "kernel": kernel, "bias": bias}
    return {**variables, "batch_stats": {**variables["batch_stats"], "descriptors": fitted}}


def logistic_regression(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], *, n_classes: int, strength: float
) -> tuple[Float[np.ndarray, "d classes"], Float[np.ndarray, "classes"]]:
    """Solve scikit-learn's multinomial logistic regression with C = `strength` and balanced classes, by L-BFGS.

    A class without an example has the logit of its bias alone, far below the others.
    """
    n, d = x.shape
    counts = np.bincount(labels, minlength=n_classes)
    present = counts > 0
    weight = (strength * n / (present.sum() * counts[labels])).astype(np.float32)[:, None]
    target = np.eye(n_classes, dtype=np.float32)[labels]
    absent = np.where(present, 0, -1e3).astype(np.float32)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = flat[: d * n_classes].reshape(d, n_classes).astype(np.float32), flat[d * n_classes :]
        logits = x @ kernel + bias.astype(np.float32) + absent
        logits -= logits.max(axis=1, keepdims=True)
        log_prob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        slope = weight * (np.exp(log_prob) - target)
        value = -(weight * target * log_prob).sum(dtype=np.float64) + 0.5 * np.square(kernel).sum(dtype=np.float64)
        return float(value), np.concatenate([(x.T @ slope + kernel).ravel(), slope.sum(axis=0)]).astype(np.float64)

    options = {"maxiter": _MOST_ITERATIONS}
    found = scipy.optimize.minimize(loss, np.zeros((d + 1) * n_classes), jac=True, method="L-BFGS-B", options=options)
    solution = found.x.astype(np.float32)
    return solution[: d * n_classes].reshape(d, n_classes), solution[d * n_classes :] + absent


def played(waveform: np.ndarray, speed: float) -> np.ndarray:
    """The int16 sound at another speed, pitch and formants with it, resampled by its Fourier transform."""
    n = round(len(waveform) / speed)
    spectrum = np.fft.rfft(waveform.astype(np.float32))[: n // 2 + 1]
    resampled = np.fft.irfft(spectrum, n) * (n / len(waveform))
    return np.clip(np.round(resampled), -32768, 32767).astype(np.int16)


def _statistics(
    view: nn.Module, source: Source, speeds: tuple[float, ...]
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, "n"]]:
    """The statistics and labels of every segment with sound, at every speed."""
    compute = jax.jit(lambda batch: view.apply({}, batch, method="statistics"))
    n_batches = -(-len(source.segments) // _BATCH_SIZE)
    values, labels = [], []
    with bar(
        total=n_batches * len(speeds), desc="descriptors", unit="batch", disable=not devices.is_main_process()
    ) as shown:
        for batch in evaluation_batches(source, batch_size=_BATCH_SIZE):
            used = batch["mask"] & batch["has_audio"]
            for speed in speeds:
                values.append(np.asarray(compute(_at_speed(batch, speed)))[used])
                labels.append(batch["label"][used])
                shown.update()
    return np.concatenate(values), np.concatenate(labels)


def _at_speed(batch: Batch, speed: float) -> Batch:
    """A batch's sound and its length at another speed, padded to a whole number of seconds."""
    wanted = {name: batch[name] for name in ("waveform", "n_frames")}
    if speed == 1:
        return wanted
    lengths = batch["n_frames"] * SAMPLES_PER_FRAME
    sounds = [played(sound[:n], speed) for sound, n in zip(batch["waveform"], lengths, strict=True)]
    n_frames = np.array([-(-len(sound) // SAMPLES_PER_FRAME) for sound in sounds], np.int32)
    longest = -(-n_frames.max() // 5) * 5 * SAMPLES_PER_FRAME
    return {
        "waveform": np.stack([np.pad(sound, (0, longest - len(sound))) for sound in sounds]),
        "n_frames": n_frames,
    }
