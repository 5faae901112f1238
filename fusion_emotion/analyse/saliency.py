"""Explains answers of a network by gradients at its taps."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from fusion_emotion.models.batch import Batch
from fusion_emotion.models.frontend import frame_mask
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.layers import Tap
from fusion_emotion.units import SAMPLES_PER_FRAME


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """The probability of each segment's label and the evidence for it; None if the network lacks that modality."""

    probability: Float[np.ndarray, "batch"]
    heat: Float[np.ndarray, "batch rows columns"] | None  # Grad-CAM, 0 or more
    log_mel_db: Float[np.ndarray, "batch time n_mels"] | None
    relevance: Float[np.ndarray, "batch time n_mels"] | None  # above 0: the cell speaks for the label


def explain(
    model: FusionNet,
    variables: Mapping[str, PyTree],
    batch: Batch,
    labels: Int[np.ndarray, "batch"],
    *,
    hop_length: int,
) -> Explanation:
    """Explain the logit of each segment's label by gradients.

    `heat` is Grad-CAM (Selvaraju et al. 2017) at the last convolution after its ReLU: the positive part of the sum of
    the maps, each weighted by the mean of its gradient. `relevance` is gradient times input of the log-mel spectrogram,
    with zero at the segment's mean, which SpecAugment writes into a masked cell: to first order, the fall of the logit
    if the cell is masked. Both are zero for a missing modality. `hop_length` is the spectrogram's, in samples.
    """
    explained = jax.jit(functools.partial(_explained, model))
    probability, taps, grads = jax.device_get(explained(variables, dict(batch), labels))
    heat = relevance = log_mel_db = None
    if "maps" in taps:
        weights = grads["maps"].mean(axis=(1, 2), keepdims=True)
        heat = np.maximum((weights * taps["maps"]).sum(axis=-1), 0)
    if "log_mel" in taps:
        log_mel_db = taps["log_mel"]
        n_samples = jnp.asarray(batch["n_frames"]) * SAMPLES_PER_FRAME
        inside = np.asarray(frame_mask(n_samples, hop_length, n_frames=log_mel_db.shape[1]))
        mean = log_mel_db.mean(axis=(1, 2), keepdims=True, where=inside[..., None])
        relevance = grads["log_mel"] * (log_mel_db - mean)
    return Explanation(probability=probability, heat=heat, log_mel_db=log_mel_db, relevance=relevance)


def tapped(
    model: FusionNet, variables: Mapping[str, PyTree], batch: Batch, nudges: Mapping[str, Array] | None = None
) -> tuple[Float[Array, "batch n_classes"], dict[str, Array]]:
    """The logits of a batch and the value at each tap, by the tap's name; `nudges` are added to these values."""
    taps = {}

    def at_taps(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        x = call(*args, **kwargs)
        if not isinstance(context.module, Tap):
            return x
        name = str(context.module.name)
        taps[name] = x
        return x + nudges[name] if nudges else x

    with nn.intercept_methods(at_taps):
        logits = jnp.asarray(model.apply(variables, batch, train=False))
    return logits, taps


def _explained(
    model: FusionNet, variables: PyTree, batch: Batch, labels: Array
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """The labels' probabilities, and the value at each tap with its gradient."""

    def score(nudges: dict[str, Array]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        logits, taps = tapped(model, variables, batch, nudges)
        # In evaluation the segments do not affect each other, so the gradient of the sum is each segment's own.
        return jnp.take_along_axis(logits, labels[:, None], axis=1).sum(), (logits, taps)

    shapes = jax.eval_shape(lambda: tapped(model, variables, batch)[1])
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    grads, (logits, taps) = jax.grad(score, has_aux=True)(zeros)
    probability = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]
    return jax.tree.map(lambda x: x.astype(jnp.float32), (probability, taps, grads))
