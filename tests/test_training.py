"""Training, resuming and evaluating on a tiny prepared corpus."""

import dataclasses
import functools
import json
import logging
import pathlib
import pickle
import shutil
from typing import Any

import jax
import numpy as np
import pytest

import run_tiny
import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.models.create import create_model
from fusion_emotion.models.weights import load_model
from fusion_emotion.train import devices
from fusion_emotion.train.checkpoint import Checkpoints, score
from fusion_emotion.train.optimizer import create_optimizer, create_schedule
from fusion_emotion.train.step import leaf_names, train_step
from fusion_emotion.train.watch import Profile
from fusion_emotion.train.writer import MetricsWriter, read_metrics
from run_tiny import Tiny

# A network that compiles fast, for tests of the loop, and networks that learn fast.
SMALL = {"model__modalities": "audio", "model__features": 8}
QUICK = {"model__features": 32, "train__learning_rate": 3e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


@pytest.fixture(scope="module")
def trained(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, pathlib.Path]:
    job = Tiny.of(folder, **QUICK)
    workdir = tmp_path_factory.mktemp("trained")
    job.train(workdir)
    return job, workdir


@pytest.fixture(scope="module")
def results(trained) -> dict:
    job, workdir = trained
    return job.evaluate(workdir)


def test_a_separable_corpus_is_learned(trained, results):
    job, _ = trained
    assert results["test"]["clip"]["uar"] > 0.8
    assert results["test"]["clip"]["count"] == job.data.parts["test"].n_clips == 16
    assert results["test"]["segment"]["count"] == len(job.data.parts["test"])


def test_evaluating_again_gives_the_same_numbers(trained, results, tmp_path):
    """From the checkpoint, and from the exported model alone."""
    job, workdir = trained
    shutil.copytree(workdir / "model", tmp_path / "model")
    for folder in (workdir, tmp_path):
        again = job.evaluate(folder)
        assert {name: again[name] for name in ("test", "checkpoint")} == {
            name: results[name] for name in ("test", "checkpoint")
        }
    about = load_model(workdir).about
    assert about["numbers"]["protocol"] == results["protocol"]
    assert about["temperature"] == results["test"]["calibration"]["temperature"]
    assert about["licence"].startswith("CC BY-NC-SA")
    # Every row says -20 dBFS, and no box has a size.
    shares = about["training"].pop("label_shares")
    assert about["training"] == {"loudness_dbfs": [-20.0, -20.0], "face_px": None, "of_pictures": False}
    labels = job.data.parts["train"].labels
    np.testing.assert_allclose(shares, np.bincount(labels, minlength=len(shares)) / len(labels), atol=1e-5)


def test_the_best_checkpoint_has_the_best_validation(trained, results):
    _, workdir = trained
    best = max((row for row in read_metrics(workdir) if row["part"] == "validation"), key=score)
    assert results["checkpoint"]["step"] == best["step"]
    assert results["checkpoint"]["validation_uar"] == best["validation_uar"]


def test_results_name_protocol_and_choice(trained, results):
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
    for name in ("train/loss", "validation/validation_uar", "train/faces", "validation/confusion", "PNG"):
        assert name.encode() in written


def test_a_resumed_run_ends_as_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    """State, input position and metrics, to the last bit."""
    job, workdir = trained
    save = Checkpoints.save

    def save_then_stop(self, state, *arguments):
        save(self, state, *arguments)
        if state.step > job.plan.validate_every_steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        job.train(tmp_path)
    monkeypatch.undo()
    job.train(tmp_path)
    (state, place), (expected, expected_place) = job.newest(tmp_path), job.newest(workdir)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert place == expected_place
    assert run_tiny.rows(tmp_path) == run_tiny.rows(workdir)


def test_a_finished_run_trains_no_further(trained):
    job, workdir = trained
    before = (workdir / "metrics.jsonl").read_text()
    job.train(workdir)
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    "segment",
    [
        {"seconds": 3.0, "hop_s": 1.0},
        {"seconds": 8.0, "hop_s": 8.0, "pad_to_s": (3.0, 4.0, 8.0), "random_start": False},
    ],
    ids=["3 s", "whole clips"],
)
def test_longer_segments_train(tmp_path, segment):
    """The same code trains on 3 s and on whole clips, and learns."""
    tiny.write(tmp_path / "records", n_frames=17)
    changes = {f"segment__{name}": value for name, value in segment.items()}
    job = Tiny.of(tmp_path / "records", **QUICK, **changes, model__modalities="audio", train__epochs=24)
    job.train(tmp_path)
    results = job.evaluate(tmp_path)
    assert results["parts"]["test"]["segments"] == 16
    assert results["test"]["clip"]["uar"] > 0.5


def test_a_loaded_part_is_where_training_begins(trained, results, folder, tmp_path):
    _, workdir = trained
    audio = {**QUICK, "model__modalities": "audio", "train__learning_rate": 1e-12, "train__epochs": 1}
    job = Tiny.of(folder, **audio, model__init__audio=str(workdir))
    job.train(tmp_path)
    _, variables = Checkpoints(tmp_path).best_variables()
    loaded, began = load_model(workdir).variables["params"], variables["params"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), loaded["audio"], began["audio"])
    new = job.new_state().params["Dense_0"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), new, began["Dense_0"])


def test_nan_stops_the_run_names_the_step_and_keeps_the_batch(folder, tmp_path):
    # The first update makes all parameters huge, and two layers of these overflow; an LSTM alone would be bounded.
    changes = {**SMALL, "model__modalities": "video", "train__schedule": "constant", "train__epochs": 3}
    job = Tiny.of(folder, **changes, train__learning_rate=1e30, run__resident_gb=0.0)
    with pytest.raises(UserError, match=r"step \d+; the first gradient .* is that of [\w/]+\.") as raised:
        job.train(tmp_path)
    [kept] = tmp_path.glob("bad_batch_step_*.npz")
    assert str(kept) in str(raised.value)
    assert np.load(kept)["faces"].shape == (16, 5, tiny.FACE_SIZE, tiny.FACE_SIZE, 3)


def one_step(job: Tiny, *, on_device: bool) -> tuple[Any, Any, Any]:
    """The replicated state before a step, and the state and the report after it."""
    source = job.data.source("train")
    records = devices.resident_copy(source, face_size=tiny.FACE_SIZE, max_gb=1.0) if on_device else None
    options = job.plan.step_options(source.segments, n_classes=8)
    step = functools.partial(train_step, model=job.model, tx=job.plan.optimizer(), options=options, pad_to=5)
    before = devices.replicate(job.new_state())
    batch = {**next(job.batches(media=not on_device)), "stop": np.zeros(16, bool)}
    after = devices.pmapped(step, donate_state=True)(before, devices.shard(batch), records)
    return before, *map(devices.unreplicate, after)


def test_a_step_reduces_donates_and_averages(folder):
    """Segments cut on the device are those cut on the host; the average of the parameters moves fast at first."""
    job = Tiny.of(folder, **SMALL, train__ema_decay=0.75)
    (before, after, report), (_, on_host, _) = (one_step(job, on_device=on_device) for on_device in (True, False))
    assert report.sums.count == 16
    assert after.step == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    jax.tree.map(np.testing.assert_array_equal, after, on_host)
    expected = jax.tree.map(lambda start, end: 0.1 * start + 0.9 * end, job.new_state().params, after.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), after.average, expected)


def test_nothing_is_compiled_after_the_first_validation(folder, tmp_path, caplog, monkeypatch):
    """Neither the second epoch nor its validation nor its checkpoint compiles a function."""
    marks = []
    saved = Checkpoints.save

    def save(self, *arguments):
        saved(self, *arguments)
        marks.append(len(caplog.records))

    monkeypatch.setattr(Checkpoints, "save", save)
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        Tiny.of(folder, **SMALL, train__epochs=2, train__validate_every_epochs=1).train(tmp_path)
    assert len(marks) == 2
    compilations = [n for n, record in enumerate(caplog.records) if "Compiling" in record.getMessage()]
    assert min(compilations) < marks[0]
    assert not [caplog.records[n].getMessage() for n in compilations if n >= marks[0]]


def test_checkpoints_hold_no_pickle(trained, monkeypatch):
    """Reading a checkpoint that someone else made runs no code."""
    job, workdir = trained

    def refuse(*arguments, **named):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert job.newest(workdir)
    names = [path.name for path in (workdir / "checkpoints").rglob("*") if path.is_file()]
    assert names
    assert not [name for name in names if "pickle" in name or name.endswith(".pkl")]


def test_the_loss_is_weighted_and_smoothed(folder):
    """By hand: the cross-entropy with smoothed labels, each segment weighted by its class."""
    job = Tiny.of(folder, **SMALL, train__class_weights=True, train__label_smoothing=0.2, model__dropout_rate=0.0)
    segments = job.data.parts["train"]
    options = job.plan.step_options(segments, n_classes=8)
    counts = np.bincount(segments.labels[segments.clip], minlength=8)
    assert options.class_weights == pytest.approx(counts.sum() / (8 * counts))
    # The classes are balanced, so all weights are one; other weights show the effect.
    weights = np.arange(1, 9) / 4.5
    options = dataclasses.replace(options, class_weights=tuple(weights))
    batch = next(job.batches())
    state = job.new_state()
    step = functools.partial(train_step, model=job.model, tx=job.plan.optimizer(), options=options, pad_to=5)
    sharded = devices.shard({**batch, "stop": np.zeros(16, bool)})
    _, report = devices.pmapped(step)(devices.replicate(state), sharded, None)
    alone = jax.jit(functools.partial(create_model(job.config, n_classes=8).apply, train=True, mutable=["batch_stats"]))
    logits, _ = alone(state.variables, batch)
    log_prob = np.asarray(jax.nn.log_softmax(logits))
    target = 0.8 * np.eye(8)[batch["label"]] + 0.2 / 8
    expected = -(weights[batch["label"]] * (target * log_prob).sum(axis=1)).sum()
    assert float(devices.unreplicate(report).sums.loss) == pytest.approx(expected, rel=1e-4)


def test_weight_decay_leaves_biases_and_normalisation_alone():
    train = run_tiny.settings(train__weight_decay=0.1, train__learning_rate=0.5, train__schedule="constant")["train"]
    tx = create_optimizer(train, create_schedule(train, n_steps=10, steps_per_epoch=1))
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.5 * 0.1)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_accumulated_batches_make_the_update_of_their_mean_gradient():
    train = run_tiny.settings(train__accumulate_steps=2, train__clip_norm=1.0, train__schedule="constant")["train"]
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
def test_all_options_together_still_learn(folder, tmp_path):
    job = Tiny.of(
        folder,
        train__weight_decay=1e-3,
        train__clip_norm=1.0,
        train__accumulate_steps=2,
        train__label_smoothing=0.1,
        augment__erase=0.2,
        augment__erase_size=(0.2, 0.5),
        train__class_weights=True,
        train__ema_decay=0.5,
        train__epochs=20,
        run__resident_gb=0.0,
    )
    job.train(tmp_path)
    assert job.evaluate(tmp_path)["test"]["clip"]["uar"] > 0.5


def test_training_stops_early_and_stays_stopped(folder, tmp_path):
    # The parameters hardly move: after the first few validations none is better.
    patience = {"patience_epochs": 2, "validate_every_epochs": 1, "epochs": 9, "learning_rate": 1e-12}
    job = Tiny.of(folder, **SMALL, **{f"train__{name}": value for name, value in patience.items()})
    job.train(tmp_path)
    steps = [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"]
    assert steps[-1] < job.plan.n_steps
    job.train(tmp_path)
    assert [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"] == steps


def test_checkpoints_are_kept_as_the_config_says(folder, tmp_path):
    job = Tiny.of(folder, **SMALL, train__validate_every_epochs=1, run__keep_every_epochs=3, train__epochs=8)
    job.train(tmp_path)
    every = job.plan.validate_every_steps
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert {3 * every, 6 * every, job.plan.n_steps} <= kept
    assert len(kept) <= 4  # these and the best


@pytest.mark.parametrize(("first", "traced"), [(1, True), (3, False)], ids=["ends early", "resumes after the first"])
def test_a_run_of_a_part_of_the_profiled_steps(tmp_path, first, traced):
    with Profile(tmp_path, (2, 40)) as profile:
        for step in range(first, 5):
            profile.before(step)
            profile.after(step, ())
    assert bool(list(tmp_path.rglob("perfetto_trace.json.gz"))) == traced


@pytest.mark.slow
def test_a_profile_is_written(folder, tmp_path):
    Tiny.of(folder, **SMALL, train__epochs=2, run__profile_steps=(2, 3)).train(tmp_path)
    assert list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))


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
    assert [row["loss"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]
