"""Where a network looked and what it listened to: gradients of an answer at the taps of `models`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from fusion_emotion.input.batches import Batch
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.layers import Tap


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """Of each window, how probable its label is and what speaks for it; None for a modality the network has not."""

    probability: Float[np.ndarray, "batch"]
    heat: Float[np.ndarray, "batch rows columns"] | None  # Grad-CAM, 0 or more
    log_mel_db: Float[np.ndarray, "batch time n_mels"] | None
    relevance: Float[np.ndarray, "batch time n_mels"] | None  # above 0: the cell speaks for the label


def explain(
    model: FusionNet, variables: Mapping[str, PyTree], batch: Batch, labels: Int[np.ndarray, "batch"]
) -> Explanation:
    """What in each window of a batch speaks for its one of `labels`, by the gradient of that label's logit.

    `heat` is Grad-CAM (Selvaraju et al. 2017) at the last convolution after its ReLU: the sum of the maps, each
    weighted by the mean of its gradient, where it is above zero. `relevance` is gradient times input of the log-mel
    spectrogram, whose zero is the window's mean, for that is what SpecAugment puts in the place of a cell: to first
    order, how much the logit falls when the cell is hidden so. Both are zero throughout for a modality that is
    missing.
    """
    explained = jax.jit(functools.partial(_explained, model=model))
    probability, passed, grads = jax.device_get(explained(variables, dict(batch), labels))
    heat = relevance = log_mel_db = None
    if "maps" in passed:
        weights = grads["maps"].mean(axis=(1, 2), keepdims=True)
        heat = np.maximum((weights * passed["maps"]).sum(axis=-1), 0)
    if "log_mel" in passed:
        log_mel_db = passed["log_mel"]
        relevance = grads["log_mel"] * (log_mel_db - log_mel_db.mean(axis=(1, 2), keepdims=True))
    return Explanation(probability=probability, heat=heat, log_mel_db=log_mel_db, relevance=relevance)


def tapped(
    model: FusionNet, variables: Mapping[str, PyTree], batch: Batch, nudges: Mapping[str, Array] | None = None
) -> tuple[Float[Array, "batch n_classes"], dict[str, Array]]:
    """The logits of a batch, and what passed each tap, by its name; `nudges` are then added to it."""
    passed = {}

    def at_taps(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        x = call(*args, **kwargs)
        if not isinstance(context.module, Tap):
            return x
        name = str(context.module.name)
        passed[name] = x
        return x + nudges[name] if nudges else x

    with nn.intercept_methods(at_taps):
        logits = jnp.asarray(model.apply(variables, batch, train=False))
    return logits, passed


def _explained(
    variables: PyTree, batch: Batch, labels: Array, *, model: FusionNet
) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """The labels' probabilities, and what passed each tap with its gradient."""

    def score(nudges: dict[str, Array]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        logits, passed = tapped(model, variables, batch, nudges)
        # Outside of training no window has a say in another's logits, so the sum's gradient is each one's own.
        return jnp.take_along_axis(logits, labels[:, None], axis=1).sum(), (logits, passed)

    shapes = jax.eval_shape(lambda: tapped(model, variables, batch)[1])
    zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in shapes.items()}
    grads, (logits, passed) = jax.grad(score, has_aux=True)(zeros)
    probability = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], axis=1)[:, 0]
    as_float = functools.partial(jax.tree.map, lambda x: x.astype(jnp.float32))
    return probability, as_float(passed), as_float(grads)
