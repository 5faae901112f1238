"""Training, resuming and evaluating on a tiny prepared corpus."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

import tiny
from configs import ravdess
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate.evaluate import evaluate
from fusion_emotion.train import devices, loop
from fusion_emotion.train.checkpoint import Checkpoints, score
from fusion_emotion.train.step import first_bad_leaf, train_step
from fusion_emotion.train.writer import MetricsWriter, read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


def config_of(**train: object) -> dict:
    config = ravdess.get_config()
    config.split.protocol = "kfold"
    config.split.n_folds = 3
    config.prepare.face_size = tiny.FACE_SIZE
    config.train.update({"batch_size": 16, "epochs": 8, "validate_every_epochs": 2, "log_every_steps": 3} | train)
    return config.to_dict()


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


def test_nan_stops_the_run_and_names_the_step(folder, tmp_path):
    setup = loop.Setup.create(config_of(learning_rate=float("inf"), schedule="constant", epochs=3), folder)
    with pytest.raises(UserError, match=r"not a number by step 3; the first parameter to hold one is \w+"):
        loop.train(setup, tmp_path)


def test_a_step_reduces_over_the_devices_and_donates(folder):
    setup = loop.Setup.create(config_of(), folder)
    tx = setup.optimizer()
    state = devices.replicate(setup.new_state(tx))
    step = devices.parallel(functools.partial(train_step, model=setup.model, tx=tx, seed=0), donate_state=True)
    batches = loop.training_batches(setup.source("train"), batch_size=16, seed=0, random_starts=True)
    after, sums = step(state, devices.shard(next(batches)))
    assert int(devices.unreplicate(sums).count) == 16
    assert int(devices.unreplicate(after).step) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_batch_that_does_not_divide_is_an_error(folder):
    with pytest.raises(UserError, match="batch_size=0"):
        loop.Setup.create(config_of(batch_size=0), folder)


def test_first_bad_leaf_names_the_path():
    assert first_bad_leaf({"a": np.ones(2), "b": {"c": np.array([1.0, np.nan])}}) == "b/c"
    assert first_bad_leaf({"a": np.ones(2)}) == ""


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.write(step, "train", {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "par')
    with MetricsWriter(tmp_path, resume_step=2) as writer:
        writer.write(3, "train", {"loss": 30.0})
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
