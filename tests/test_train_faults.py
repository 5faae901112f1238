"""Trainings that are killed, stopped, run out of disk or find a damaged checkpoint."""

import pathlib
import random
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import run_tiny
import tiny
from fusion_emotion.errors import UserError
from fusion_emotion.train.checkpoint import NOT_VALIDATED, Checkpoints
from fusion_emotion.train.writer import MetricsWriter, read_metrics
from run_tiny import Tiny, finish

# Three steps an epoch, each with a checkpoint, and a row of metrics every second step: kills fall on any of them. A
# constant learning rate lets trainings of any length share a compiled step.
CONFIG = {
    "model__features": 16,
    "model__modalities": "audio",
    "train__epochs": 12,
    "train__validate_every_epochs": 1,
    "train__schedule": "constant",
    "run__log_every_steps": 2,
    "train__ema_decay": 0.9,
    "augment__gain_db": 6.0,
}
# A model whose checkpoint is larger than the files that are then allowed.
WIDE = {"model__features": 80}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


def start(records: pathlib.Path, workdir: pathlib.Path, **changes: object) -> subprocess.Popen:
    return run_tiny.start(records, workdir, {**CONFIG, **changes})


def job_of(records: pathlib.Path, **changes: object) -> Tiny:
    return Tiny.of(records, **{**CONFIG, **changes})


def steps_of(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


@pytest.fixture(scope="module")
def uninterrupted(records: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(records, workdir))
    return workdir


def same(records: pathlib.Path, workdir: pathlib.Path, uninterrupted: pathlib.Path) -> None:
    """Parameters, optimizer, averages, input position and metrics, to the last bit."""
    job = job_of(records)
    (state, place), (expected, expected_place) = job.newest(workdir), job.newest(uninterrupted)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert place == expected_place
    assert run_tiny.rows(workdir) == run_tiny.rows(uninterrupted)


def wait_for_a_row(process: subprocess.Popen, workdir: pathlib.Path) -> None:
    before = len(read_metrics(workdir))
    while len(read_metrics(workdir)) <= before and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
def test_ten_kills_change_nothing(records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> None:
    draw = random.Random(0)
    resumable = []
    for _ in range(10):
        process = start(records, tmp_path)
        # Some way into training, or, every now and then, before it has begun.
        if draw.random() < 0.8:
            wait_for_a_row(process, tmp_path)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.wait()
        resumable.append(max(steps_of(tmp_path), default=0))
    assert resumable == sorted(resumable)
    assert len(set(resumable)) > 2, resumable
    finish(start(records, tmp_path))
    same(records, tmp_path, uninterrupted)
    assert len(steps_of(tmp_path)) == len(list((tmp_path / "checkpoints").iterdir()))


@pytest.mark.slow
def test_a_signal_saves_says_so_and_loses_nothing(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    resumed = 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start(records, tmp_path)
        wait_for_a_row(process, tmp_path)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert (f"going on from step {resumed} of" in output) == bool(resumed)
        last_line = errors.strip().splitlines()[-1]
        assert last_line.startswith(f"stopped by {number.name}: step ")
        assert "run_tiny.py" in last_line
        assert "Traceback" not in errors
        resumed = int(last_line.split("step ")[1].split()[0])
    assert f"going on from step {resumed} of" in finish(start(records, tmp_path))
    same(records, tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_harms_none(
    records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = job_of(records, **WIDE, train__epochs=2)
    job.train(tmp_path)
    before, _ = job.newest(tmp_path)
    error = run_tiny.failed(run_tiny.without_room(start(records, tmp_path, **WIDE, train__epochs=4)))
    assert error.startswith("error: the checkpoint of step 9 cannot be written")
    assert "File too large" in error
    assert "the checkpoint of step 6 is kept" in error
    jax.tree.map(np.testing.assert_array_equal, job.newest(tmp_path)[0], before)


@pytest.mark.slow
def test_a_run_may_go_on_without_its_checkpoints_but_not_end(records: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = run_tiny.without_room(start(records, tmp_path, **WIDE, train__epochs=2, run__on_full_disk="go_on"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("warning: the checkpoint of step 3 cannot be written") == 1
    assert errors.strip().splitlines()[-1].startswith("error: the checkpoint of step 6 cannot be written")
    assert not list((tmp_path / "checkpoints").iterdir())
    assert [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"] == [3, 6]


def test_a_disk_that_fills_up_under_orbax_costs_that_checkpoint_alone(
    records: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax fails half-way though there was room before: its files are removed, and the next save works."""
    job = job_of(records)
    batches = job.batches(media=False)
    state = jax.tree.map(np.asarray, job.new_state()).replace(step=np.int32(1))
    checkpoints = Checkpoints(tmp_path, writes=True)

    def half(self: ocp.CheckpointManager, step: int, **kwargs: object) -> None:
        (tmp_path / "checkpoints" / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nand forty lines more")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", half)
        with pytest.raises(UserError, match=r"checkpoint of step 1 .*RESOURCE"):
            checkpoints.save(state, batches, {"score": 0.5})
    assert not list((tmp_path / "checkpoints").iterdir())
    checkpoints.save(state, batches, {"score": 0.5})
    assert checkpoints.latest_step == checkpoints.best_step == 1
    checkpoints.close()


def test_metrics_that_cannot_be_written_are_one_message(tmp_path: pathlib.Path) -> None:
    """/dev/full has no room for a byte."""
    writer = MetricsWriter(tmp_path)
    writer._lines.close()
    writer._lines = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - the writer closes it
    with pytest.raises(UserError, match=r"metrics\.jsonl .*No space left"), writer:
        writer.write(1, "train", {"loss": 1.0})


def test_a_run_stopped_between_validations_is_not_out_of_patience(
    records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Steps since the best validation count only at a validation."""
    job = job_of(records, train__patience_epochs=2, train__validate_every_epochs=2)
    state = jax.tree.map(np.asarray, job.new_state())
    checkpoints = Checkpoints(tmp_path, writes=True)
    for step, score, out_of_patience in ((6, 0.5, False), (13, NOT_VALIDATED, False), (14, 0.4, True)):
        checkpoints.save(state.replace(step=np.int32(step)), job.batches(media=False), {"score": score})
        assert checkpoints.out_of_patience(job.plan.patience_steps) == out_of_patience
    checkpoints.close()


def halve(folder: pathlib.Path) -> None:
    """Cut off the second half of each file."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_half_written_checkpoint_is_never_gone_on_from(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A kill while saving leaves a temporary folder."""
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    newest = steps_of(tmp_path)[-1]
    half = tmp_path / "checkpoints" / "999.orbax-checkpoint-tmp"
    shutil.copytree(half.with_name(str(newest)), half)
    halve(half)
    checkpoints = Checkpoints(tmp_path, writes=True)
    assert checkpoints.latest_step == newest
    checkpoints.close()
    assert job_of(records).newest(tmp_path)


def test_a_damaged_checkpoint_is_named(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    damaged = tmp_path / "checkpoints" / str(steps_of(tmp_path)[-1])
    halve(damaged / "state")
    with pytest.raises(UserError, match=f"the checkpoint {damaged} cannot be read") as error:
        job_of(records, train__epochs=14).train(tmp_path)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_model_is_named(records: pathlib.Path, uninterrupted: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"is of another model: .*kernel is float32\[16, 8\], expected .*\[12, 8\]"):
        job_of(records, model__features=12).newest(uninterrupted)
