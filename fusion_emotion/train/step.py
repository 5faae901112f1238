"""The state of training and the pure functions of one step."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fusion_emotion.input import resident
from fusion_emotion.input.augment import Augmentation, augment
from fusion_emotion.input.batches import Batch
from fusion_emotion.input.resident import Resident
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.layers import AXIS


@flax.struct.dataclass
class TrainSums:
    """Sums over windows, over all devices."""

    loss: PyTree  # float32 []
    correct: PyTree  # int32 []
    count: PyTree  # int32 []

    @classmethod
    def zero(cls) -> "TrainSums":
        """The sums of nothing."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


@flax.struct.dataclass
class TrainState:
    """All that a step changes, and all that a checkpoint holds of it.

    Leaves are arrays here, numpy arrays in a checkpoint, and have a leading axis of devices under pmap: their types are
    left open in the classes of this file.
    """

    step: PyTree  # int32 []
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    average: PyTree  # the moving average of params; {}: none is kept
    sums: TrainSums  # since the last row of metrics

    @property
    def variables(self) -> dict[str, PyTree]:
        """What the model is evaluated with: the averaged parameters where there are some."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Report:
    """What the host wants to know of a step."""

    sums: TrainSums  # of the steps since the last row of metrics, this one included
    finite: PyTree  # bool [leaves of params + 1]: the gradient of each, and the loss
    stop: PyTree  # int32 []: devices whose process was told to stop


@flax.struct.dataclass
class EvalSums:
    """Sums over the windows of a part, over all devices; a clip's windows meet in its row."""

    loss: PyTree  # float32 []
    window_confusion: PyTree  # int32 [C, C]
    clip_log_prob: PyTree  # float32 [clips, C]
    clip_windows: PyTree  # int32 [clips]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a step does beside the model and the optimizer."""

    seed: int
    row_steps: int  # a row of metrics sums this many steps
    mel_shape: tuple[int, int]
    augmentation: Augmentation
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of the loss; (): all alike
    ema_decay: float = 0.0  # of the moving average of the parameters; 0: none is kept


def create_state(
    model: FusionNet, tx: optax.GradientTransformation, batch: Batch, *, seed: int, averaged: bool = False
) -> TrainState:
    """The state before the first step; `batch` gives the shapes, `averaged` whether parameters are."""
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), dict(batch))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        average=params if averaged else {},
        sums=TrainSums.zero(),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    corpus: Resident | None,
    *,
    model: FusionNet,
    tx: optax.GradientTransformation,
    recipe: Recipe,
) -> tuple[TrainState, Report]:
    """One update from one device's share of a batch; gradients and statistics are of the whole batch.

    `batch` has pictures and sounds, or is cut here from the `corpus` that lies on the device.
    """
    stop = batch["stop"].any()
    if corpus is not None:
        batch = resident.with_media(corpus, batch)
    share = batch["label"].shape[0]
    # Randomness is a function of seed, step and place in the global batch, not of the number of devices.
    step_key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
    place = jax.lax.axis_index(AXIS) * share + jnp.arange(share)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(place)
    batch = augment(batch, keys, recipe.augmentation, n_classes=model.n_classes, mel_shape=recipe.mel_shape)
    target = optax.smooth_labels(batch["target"], recipe.label_smoothing)
    weight = (batch["target"] @ jnp.array(recipe.class_weights) if recipe.class_weights else 1.0) * batch["mask"]
    total = jax.lax.psum(weight.sum(), AXIS)

    def loss_of(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, Array, Array]]:
        logits, changed = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch,
            train=True,
            keys=keys,
            mutable=["batch_stats"],
        )
        losses = jnp.where(batch["mask"], weight * optax.softmax_cross_entropy(logits, target), 0)
        # Where nothing weighs, the losses are zero as well.
        return losses.sum() / jnp.where(total > 0, total, 1), (changed.get("batch_stats", {}), logits, losses)

    grads, (batch_stats, logits, losses) = jax.grad(loss_of, has_aux=True)(state.params)
    correct = (logits.argmax(-1) == batch["label"]) & batch["mask"]
    # Each device's loss is over the global weight, so the sum over devices is the gradient of the global mean.
    grads, sums, stop = jax.lax.psum(
        (grads, TrainSums(losses.sum(), correct.sum(), batch["mask"].sum()), stop.astype(jnp.int32)), AXIS
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    fresh = state.step % recipe.row_steps == 0
    sums = jax.tree.map(lambda before, now: jnp.where(fresh, 0, before) + now, state.sums, sums)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in (*jax.tree.leaves(grads), sums.loss)])
    return (
        TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=optax.incremental_update(params, state.average, 1 - recipe.ema_decay) if state.average else {},
            sums=sums,
        ),
        Report(sums, finite, stop),
    )


def eval_step(state: TrainState, batch: Batch, corpus: Resident | None, *, model: FusionNet, n_clips: int) -> EvalSums:
    """The sums of one batch; masked windows count nowhere."""
    if corpus is not None:
        batch = resident.with_media(corpus, batch)
    logits = jnp.asarray(model.apply(state.variables, batch, train=False))
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


def parameter_table(params: PyTree) -> str:
    """Name, shape, number and size of each parameter, and their sum."""
    rows = [
        (name, "x".join(map(str, leaf.shape)), leaf.size, leaf.nbytes)
        for name, leaf in zip(leaf_names(params), jax.tree.leaves(params), strict=True)
    ]
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    wide = max(len(row[0]) for row in rows)
    return "\n".join(
        f"  {name:<{wide}}  {shape:>13}  {count:>11,}  {size / 1e6:8.2f} MB" for name, shape, count, size in rows
    )


def leaf_names(tree: PyTree) -> list[str]:
    """The path of each leaf, in the order of `jax.tree.leaves`."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
