"""The state of training and the pure functions of one step."""

import dataclasses
import functools
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fusion_emotion.input import resident
from fusion_emotion.input.augment import Augmentation, augment
from fusion_emotion.input.resident import Resident
from fusion_emotion.models.batch import Batch, Spec
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.train import devices


@flax.struct.dataclass
class TrainSums:
    """Sums over segments, over all devices."""

    loss: PyTree  # float32 []
    correct: PyTree  # int32 []
    count: PyTree  # int32 []


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint holds.

    The types in this file are open: leaves are jax arrays here, numpy arrays in a checkpoint, and have a leading axis
    of devices under pmap.
    """

    step: PyTree  # int32 []
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    average: PyTree  # the moving average of params; {}: none is kept
    sums: TrainSums  # since the last row of metrics

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables to evaluate with: the averaged parameters if there are some."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Report:
    """Outputs of a step that the host reads."""

    sums: TrainSums  # of the steps since the last row of metrics, this one included
    finite: PyTree  # bool [leaves of params + 1]: the gradient of each, and the loss
    stop: PyTree  # int32 []: devices whose process was told to stop


@flax.struct.dataclass
class EvalSums:
    """Sums over the segments of a part, over all devices; the segments of a clip are summed in its row."""

    loss: PyTree  # float32 []
    segment_confusion: PyTree  # int32 [C, C]
    clip_log_prob: PyTree  # float32 [clips, C]
    clip_segments: PyTree  # int32 [clips]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a step beside the model and the optimizer."""

    seed: int
    row_steps: int  # a row of metrics sums this many steps
    augmentation: Augmentation
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of the loss; (): all alike
    ema_decay: float = 0.0  # of the moving average of the parameters; 0: none is kept


def create_state(
    model: FusionNet, tx: optax.GradientTransformation, spec: Spec, *, seed: int, averaged: bool = False
) -> TrainState:
    """Initialise the state before the first step; `averaged` adds the moving average of the parameters."""
    blank = {name: jnp.zeros(field.shape, field.dtype) for name, field in spec.items()}
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), blank)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=tx.init(params),
        average=params if averaged else {},
        sums=TrainSums(*(jnp.zeros((), dtype) for dtype in (jnp.float32, jnp.int32, jnp.int32))),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    records: Resident | None,
    *,
    model: FusionNet,
    tx: optax.GradientTransformation,
    options: StepOptions,
    pad_to: int,
) -> tuple[TrainState, Report]:
    """Update the state with one device's part of a batch; gradients and statistics are of the whole batch.

    `batch` holds faces and sound, or picks that are cut here from the resident `records`, padded to `pad_to` frames.
    """
    stop = batch["stop"].any()
    if records is not None:
        batch = resident.with_media(records, batch, pad_to=pad_to)
    keys = devices.example_keys(options.seed, state.step, batch["label"].shape[0])
    batch = augment(batch, keys, options.augmentation, n_classes=model.n_classes)
    target = optax.smooth_labels(batch["target"], options.label_smoothing)
    weight = (batch["target"] @ jnp.array(options.class_weights) if options.class_weights else 1.0) * batch["mask"]
    total = devices.summed(weight.sum())

    def loss_of(params: PyTree) -> tuple[Float[Array, ""], tuple[PyTree, Array, Array]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, changed = model.apply(variables, batch, train=True, keys=keys, mutable=["batch_stats"])
        losses = jnp.where(batch["mask"], weight * optax.softmax_cross_entropy(logits, target), 0)
        # If the weights sum to zero, so do the losses.
        return losses.sum() / jnp.where(total > 0, total, 1), (changed.get("batch_stats", {}), logits, losses)

    grads, (batch_stats, logits, losses) = jax.grad(loss_of, has_aux=True)(state.params)
    correct = (logits.argmax(-1) == batch["label"]) & batch["mask"]
    # Each device's loss is over the global weight, so the sum over devices is the gradient of the global mean.
    grads, sums, stop = devices.summed(
        (grads, TrainSums(losses.sum(), correct.sum(), batch["mask"].sum()), stop.astype(jnp.int32))
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The decay begins small, or the first parameters would weigh on the average for many epochs.
    decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
    fresh = state.step % options.row_steps == 0
    sums = jax.tree.map(lambda before, now: jnp.where(fresh, 0, before) + now, state.sums, sums)
    finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in (*jax.tree.leaves(grads), sums.loss)])
    state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=optax.incremental_update(params, state.average, 1 - decay) if state.average else {},
        sums=sums,
    )
    return state, Report(sums, finite, stop)


def eval_step(
    variables: Mapping[str, PyTree],
    batch: Batch,
    records: Resident | None,
    *,
    model: FusionNet,
    n_clips: int,
    pad_to: int,
) -> EvalSums:
    """Compute the sums of one batch; masked examples count nowhere."""
    if records is not None:
        batch = resident.with_media(records, batch, pad_to=pad_to)
    logits = jnp.asarray(model.apply(variables, batch, train=False))
    mask, label = batch["mask"], batch["label"]
    n_classes = logits.shape[-1]
    log_prob = jnp.where(mask[:, None], jax.nn.log_softmax(logits), 0)
    guess = jax.nn.one_hot(logits.argmax(-1), n_classes, dtype=jnp.int32)
    truth = jax.nn.one_hot(label, n_classes, dtype=jnp.int32) * mask[:, None]
    sums = EvalSums(
        loss=-jnp.take_along_axis(log_prob, label[:, None], axis=1).sum(),
        segment_confusion=truth.T @ guess,
        clip_log_prob=jax.ops.segment_sum(log_prob, batch["clip"], n_clips),
        clip_segments=jax.ops.segment_sum(mask.astype(jnp.int32), batch["clip"], n_clips),
    )
    return devices.summed(sums)


def parameter_count(params: PyTree) -> int:
    """Count the trained values."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def parameter_table(params: PyTree) -> str:
    """Return a table of name, shape, number and size of each parameter, and their sum."""
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
    """Return the path of each leaf, in the order of `jax.tree.leaves`."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
