"""Training, resuming and evaluating on a tiny prepared corpus."""

import dataclasses
import functools
import json
import logging
import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import run_tiny
import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.results import evaluate
from fusion_emotion.models.fusion import create_model
from fusion_emotion.train import devices, loop
from fusion_emotion.train.checkpoint import Checkpoints, score
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import leaf_names, train_step
from fusion_emotion.train.watch import Profile
from fusion_emotion.train.writer import MetricsWriter, read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


def config_of(**train: object) -> dict:
    return run_tiny.settings(**{f"train__{name}": value for name, value in train.items()})


@pytest.fixture(scope="module")
def trained(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Setup, pathlib.Path]:
    setup = loop.Setup.create(config_of(), folder)
    workdir = tmp_path_factory.mktemp("trained")
    loop.train(setup, workdir)
    return setup, workdir


@pytest.fixture(scope="module")
def results(trained) -> dict:
    return evaluate(*trained)


def newest(setup: loop.Setup, workdir: pathlib.Path) -> list[np.ndarray]:
    checkpoints = Checkpoints(workdir)
    source = setup.source("train")
    batches = loop.training_batches(source, batch_size=16, seed=0, random_starts=True)
    state = checkpoints.restore_latest(setup.new_state(setup.optimizer()), batches)
    checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def test_it_learns_what_is_plain_to_see(trained, results):
    setup, _ = trained
    assert results["test"]["clip"]["uar"] > 0.8
    assert results["test"]["clip"]["count"] == setup.windows["test"].n_clips == 16
    assert results["test"]["window"]["count"] == len(setup.windows["test"])


def test_evaluating_again_gives_the_same_numbers(trained, results):
    again = evaluate(*trained)
    assert again["test"] == results["test"]
    assert again["checkpoint"] == results["checkpoint"]


def test_the_best_checkpoint_is_the_one_with_the_best_validation(trained, results):
    _, workdir = trained
    best = max((row for row in read_metrics(workdir) if row["part"] == "validation"), key=score)
    assert results["checkpoint"]["step"] == best["step"]
    assert results["checkpoint"]["validation_uar"] == best["validation_uar"]


def test_results_name_protocol_and_what_chose(trained, results):
    _, workdir = trained
    assert results["protocol"]["name"] == "kfold"
    assert results["protocol"]["speaker_independent"]
    for speaker in results["parts"]["validation"]["speakers"]:
        assert speaker in results["checkpoint"]["chosen_by"]
    assert json.loads((workdir / "results.json").read_text())["test"] == results["test"]
    predictions = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    right = np.mean([row["label"] == row["predicted"] for row in predictions])
    assert right == pytest.approx(results["test"]["clip"]["war"])


def test_tensorboard_has_scalars_and_pictures(trained):
    _, workdir = trained
    written = b"".join(path.read_bytes() for path in (workdir / "tensorboard").iterdir())
    for name in ("train/loss", "validation/validation_uar", "train/strips", "validation/confusion", "PNG"):
        assert name.encode() in written


def test_a_resumed_run_ends_as_an_uninterrupted_one(trained, folder, tmp_path, monkeypatch):
    setup, workdir = trained

    class StopHere(Exception):  # noqa: N818 - no error
        pass

    saved = []

    def save_then_stop(self, *arguments):
        original(self, *arguments)
        saved.append(1)
        if len(saved) == 2:
            raise StopHere

    original = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", save_then_stop)
    with pytest.raises(StopHere):
        loop.train(setup, tmp_path)
    monkeypatch.undo()
    loop.train(loop.Setup.create(config_of(), folder), tmp_path)
    for one, other in zip(newest(setup, tmp_path), newest(setup, workdir), strict=True):
        np.testing.assert_array_equal(one, other)
    steps = [(row["step"], row["part"]) for row in read_metrics(tmp_path)]
    assert len(steps) == len(set(steps))
    plain = [{k: v for k, v in row.items() if "loss" in k or "uar" in k} for row in read_metrics(tmp_path)]
    assert plain == [{k: v for k, v in row.items() if "loss" in k or "uar" in k} for row in read_metrics(workdir)]


def test_a_finished_run_trains_no_further(trained):
    setup, workdir = trained
    before = (workdir / "metrics.jsonl").read_text()
    loop.train(setup, workdir)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_nan_stops_the_run_names_the_step_and_keeps_the_batch(folder, tmp_path):
    # Adam's second update of parameters that the first one made huge overflows.
    setup = loop.Setup.create(config_of(learning_rate=1e30, schedule="constant", epochs=3), folder)
    with pytest.raises(
        UserError, match=r"not a number at step (\d+); the first gradient .* is that of [\w/]+\."
    ) as raised:
        loop.train(setup, tmp_path)
    [kept] = tmp_path.glob("bad_batch_step_*.npz")
    assert str(kept) in str(raised.value)
    assert np.load(kept)["strip"].shape == (16, tiny.FACE_SIZE, 5 * tiny.FACE_SIZE, 3)


def one_step(setup: loop.Setup, *, on_device: bool, donate: bool = True) -> tuple[Any, Any, Any]:
    """The state before and after a step, and its report."""
    source = setup.source("train")
    corpus = setup.corpus(source) if on_device else None
    batches = loop.training_batches(source, batch_size=16, seed=0, random_starts=True, media=not on_device)
    tx = setup.optimizer()
    state = devices.replicate(setup.new_state(tx))
    step = devices.parallel(
        functools.partial(train_step, model=setup.model, tx=tx, recipe=setup.recipe), donate_state=donate
    )
    batch = {**next(batches), "stop": np.zeros(16, bool)}
    return state, *step(state, devices.shard(batch), corpus)


def test_a_step_reduces_over_the_devices_and_donates(folder):
    before, after, report = one_step(loop.Setup.create(config_of(), folder), on_device=True)
    assert int(devices.unreplicate(report).sums.count) == 16
    assert int(devices.unreplicate(after).step) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_windows_cut_on_the_device_are_those_cut_on_the_host(folder):
    setup = loop.Setup.create(config_of(), folder)
    (_, here, _), (_, there, _) = (one_step(setup, on_device=on_device) for on_device in (False, True))
    jax.tree.map(np.testing.assert_array_equal, here, there)


def test_nothing_is_compiled_after_the_first_validation(folder, tmp_path, caplog, monkeypatch):
    """The second epoch, its validation and its checkpoint included, finds every function compiled."""
    marks = []
    saved = Checkpoints.save

    def save(self, *arguments):
        saved(self, *arguments)
        marks.append(len(caplog.records))

    monkeypatch.setattr(Checkpoints, "save", save)
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        loop.train(loop.Setup.create(config_of(epochs=4, validate_every_epochs=1), folder), tmp_path)
    assert len(marks) == 4
    compilations = [n for n, record in enumerate(caplog.records) if "Compiling" in record.getMessage()]
    assert min(compilations) < marks[0]
    assert not [caplog.records[n].getMessage() for n in compilations if n >= marks[0]]


def test_checkpoints_hold_no_pickle(trained, monkeypatch):
    """Reading a checkpoint that someone else made runs no code."""
    setup, workdir = trained

    def refuse(*arguments, **named):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert newest(setup, workdir)
    names = [path.name for path in (workdir / "checkpoints").rglob("*") if path.is_file()]
    assert names
    assert not [name for name in names if "pickle" in name or name.endswith(".pkl")]


def test_the_loss_is_weighted_and_smoothed(folder):
    """By hand: the cross-entropy with smoothed labels, each window weighed by its class's share of the windows."""
    plain = loop.Setup.create(config_of(), folder)
    counts = np.bincount(plain.windows["train"].labels[plain.windows["train"].clip], minlength=8)
    setup = loop.Setup.create(config_of(class_weights=True, label_smoothing=0.2), folder)
    assert setup.recipe.class_weights == pytest.approx(counts.sum() / (8 * counts))
    # Classes as many as each other weigh one; others are needed to see it.
    weights = np.arange(1, 9) / 4.5
    recipe = dataclasses.replace(setup.recipe, class_weights=tuple(weights))
    source = setup.source("train")
    batch = next(loop.training_batches(source, batch_size=16, seed=0, random_starts=True))
    model = setup.model.clone(dropout_rate=0.0)
    state = devices.replicate(setup.new_state(setup.optimizer()))
    step = devices.parallel(functools.partial(train_step, model=model, tx=setup.optimizer(), recipe=recipe))
    _, report = step(state, devices.shard({**batch, "stop": np.zeros(16, bool)}), None)
    variables = setup.new_state(setup.optimizer()).variables
    alone = create_model(setup.config["model"], n_classes=8).clone(dropout_rate=0.0)
    logits, _ = alone.apply(variables, jax.tree.map(jnp.asarray, batch), train=True, mutable=["batch_stats"])
    log_prob = np.asarray(jax.nn.log_softmax(logits))
    target = 0.8 * np.eye(8)[batch["label"]] + 0.2 / 8
    expected = -(weights[batch["label"]] * (target * log_prob).sum(axis=1)).sum()
    assert float(devices.unreplicate(report).sums.loss) == pytest.approx(expected, rel=1e-4)


def test_the_average_moves_by_its_decay(folder):
    setup = loop.Setup.create(config_of(ema_decay=0.75), folder)
    before, after, _ = one_step(setup, on_device=True, donate=False)
    for start, params, average in zip(
        *(jax.tree.leaves(tree) for tree in (before.params, after.params, after.average)), strict=True
    ):
        np.testing.assert_allclose(average, 0.75 * start + 0.25 * params, rtol=1e-5, atol=1e-7)


def test_weight_decay_leaves_biases_and_normalisation_alone():
    train = config_of(weight_decay=0.1, learning_rate=0.5, schedule="constant")["train"]
    tx = create_optimizer(train, create_schedule(train, n_steps=10, steps_per_epoch=1))
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_accumulated_batches_make_the_update_of_their_mean_gradient():
    train = config_of(accumulate_steps=2, clip_norm=1.0, schedule="constant")["train"]
    both = create_optimizer(train, create_schedule(train, n_steps=10, steps_per_epoch=1))
    once = create_optimizer({**train, "accumulate_steps": 1}, create_schedule(train, n_steps=10, steps_per_epoch=1))
    params = {"w": np.array([1.0, 2.0], np.float32)}
    first, second = {"w": np.array([6.0, 0.0], np.float32)}, {"w": np.array([0.0, 8.0], np.float32)}
    nothing, state = both.update(first, both.init(params), params)
    np.testing.assert_array_equal(nothing["w"], 0)
    update, _ = both.update(second, state, params)
    expected, _ = once.update({"w": np.array([3.0, 4.0], np.float32)}, once.init(params), params)
    np.testing.assert_allclose(update["w"], expected["w"], rtol=1e-6)


@pytest.mark.slow
def test_what_training_may_need(folder, tmp_path):
    """Everything at once still learns."""
    config = config_of(
        weight_decay=1e-3,
        clip_norm=1.0,
        accumulate_steps=2,
        label_smoothing=0.1,
        class_weights=True,
        ema_decay=0.5,
        epochs=20,
        resident_gb=0.0,
    )
    setup = loop.Setup.create(config, folder)
    loop.train(setup, tmp_path)
    assert evaluate(setup, tmp_path)["test"]["clip"]["uar"] > 0.5
    checkpoints = Checkpoints(tmp_path)
    state = checkpoints.restore_best(setup.new_state(setup.optimizer()))
    checkpoints.close()
    moved = [
        float(np.abs(one - other).max())
        for one, other in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.average), strict=True)
    ]
    assert max(moved) > 0


def test_training_stops_early_and_stays_stopped(folder, tmp_path):
    # Parameters that stay as they are: after the first few validations none is better.
    setup = loop.Setup.create(
        config_of(learning_rate=1e-12, schedule="constant", patience_epochs=2, validate_every_epochs=1, epochs=9),
        folder,
    )
    loop.train(setup, tmp_path)
    steps = [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"]
    assert steps[-1] < setup.n_steps
    loop.train(setup, tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"] == steps


def test_checkpoints_are_kept_as_the_config_says(folder, tmp_path):
    setup = loop.Setup.create(config_of(validate_every_epochs=1, keep_every_epochs=3, epochs=8), folder)
    loop.train(setup, tmp_path)
    every = setup.validate_every_steps
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert {3 * every, 6 * every, setup.n_steps} <= kept
    assert len(kept) <= 4  # these and the best


def test_a_run_that_goes_on_between_the_steps_of_a_profile_traces_nothing(tmp_path):
    with Profile(tmp_path, (2, 4)) as profile:
        for step in (3, 4):
            profile.before(step)
            profile.after(step, ())
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_before_its_last_traced_step_leaves_what_was_traced(tmp_path, capsys):
    with Profile(tmp_path, (2, 40)) as profile:
        for step in (1, 2, 3):
            profile.before(step)
            profile.after(step, ())
    assert list(tmp_path.rglob("perfetto_trace.json.gz"))
    assert f"profile    {tmp_path} (open its" in capsys.readouterr().out


def test_a_profile_is_written(folder, tmp_path):
    config = config_of(epochs=2)
    config["profile"] = {"steps": (2, 3)}
    loop.train(loop.Setup.create(config, folder), tmp_path)
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))


def test_a_batch_of_nothing_is_an_error(folder):
    with pytest.raises(UserError, match="batch_size=0 is out of range: expected more than 0"):
        loop.Setup.create(config_of(batch_size=0), folder)


def test_leaves_are_named_by_their_path():
    tree = {"a": np.ones(2), "b": {"c": np.array([1.0, np.nan])}}
    assert leaf_names(tree) == ["a", "b/c"]


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "par')
    with MetricsWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, "train", {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
