"""The state of training and the pure functions of one step."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.layers import AXIS

Batch = Mapping[str, Any]  # see `input.batches`


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and all that a checkpoint holds of it.

    Leaves are arrays here, numpy arrays in a checkpoint, and have a leading axis of devices under pmap: their types are
    left open in the three classes below.
    """

    step: PyTree  # int32 []
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree


@flax.struct.dataclass
class TrainSums:
    """Sums over the windows of a step, over all devices."""

    loss: PyTree  # float32 []
    correct: PyTree  # int32 []
    count: PyTree  # int32 []


@flax.struct.dataclass
class EvalSums:
    """Sums over the windows of a part, over all devices; a clip's windows meet in its row."""

    loss: PyTree  # float32 []
    window_confusion: PyTree  # int32 [C, C]
    clip_log_prob: PyTree  # float32 [clips, C]
    clip_windows: PyTree  # int32 [clips]


def create_state(model: FusionNet, tx: optax.GradientTransformation, batch: Batch, *, seed: int) -> TrainState:
    """The state before the first step; `batch` gives the shapes."""
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), dict(batch))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
    )


def train_step(
    state: TrainState, batch: Batch, *, model: FusionNet, tx: optax.GradientTransformation, seed: int
) -> tuple[TrainState, TrainSums]:
    """One update from one device's share of a batch; gradients and statistics are of the whole batch."""
    share = batch["label"].shape[0]
    # Randomness is a function of seed, step and place in the global batch, not of the number of devices.
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    place = jax.lax.axis_index(AXIS) * share + jnp.arange(share)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(place)
    total = jax.lax.psum(batch["mask"].sum(), AXIS)

    def loss_of(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, Array, Array]]:
        logits, changed = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch,
            train=True,
            keys=keys,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        losses = jnp.where(batch["mask"], losses, 0)
        return losses.sum() / jnp.maximum(total, 1), (changed.get("batch_stats", {}), logits, losses)

    grads, (batch_stats, logits, losses) = jax.grad(loss_of, has_aux=True)(state.params)
    correct = (logits.argmax(-1) == batch["label"]) & batch["mask"]
    # Each device's loss is over the global count, so the sum over devices is the gradient of the global mean.
    grads, sums = jax.lax.psum((grads, TrainSums(losses.sum(), correct.sum(), batch["mask"].sum())), AXIS)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return (
        TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        ),
        sums,
    )


def eval_step(state: TrainState, batch: Batch, *, model: FusionNet, n_clips: int) -> EvalSums:
    """The sums of one batch; masked windows count nowhere."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jnp.asarray(model.apply(variables, batch, train=False))
    mask, label = batch["mask"], batch["label"]
    n_classes = logits.shape[-1]
    log_prob = jnp.where(mask[:, None], jax.nn.log_softmax(logits), 0)
    guess = jax.nn.one_hot(logits.argmax(-1), n_classes, dtype=jnp.int32)
    truth = jax.nn.one_hot(label, n_classes, dtype=jnp.int32) * mask[:, None]
    sums = EvalSums(
        loss=-jnp.take_along_axis(log_prob, label[:, None], axis=1).sum(),
        window_confusion=truth.T @ guess,
        clip_log_prob=jax.ops.segment_sum(log_prob, batch["clip"], n_clips),
        clip_windows=jax.ops.segment_sum(mask.astype(jnp.int32), batch["clip"], n_clips),
    )
    return jax.lax.psum(sums, AXIS)


def parameter_count(params: PyTree) -> int:
    """The number of trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def first_bad_leaf(tree: Any) -> str:
    """The path of the first leaf that holds a NaN or an infinity, or an empty string."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not bool(jnp.isfinite(leaf).all()):
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return ""
