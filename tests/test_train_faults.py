"""Trainings that are killed, stopped, run out of disk or find a damaged checkpoint."""

import dataclasses
import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import run_tiny
import tiny
from fusion_emotion import commands
from fusion_emotion.errors import UserError
from fusion_emotion.train import devices, loop
from fusion_emotion.train.checkpoint import NOT_VALIDATED, Checkpoints
from fusion_emotion.train.writer import MetricsWriter, read_metrics

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Three steps an epoch, each with a checkpoint, and a row of metrics every second step: kills fall on any of them.
CONFIG = {
    "model__features": 16,
    "model__modalities": "audio",
    "train__epochs": 12,
    "train__validate_every_epochs": 1,
    "train__log_every_steps": 2,
    "train__ema_decay": 0.9,
    "augment__gain_db": 6.0,
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny")


def start(records: pathlib.Path, workdir: pathlib.Path, **changes: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "tests/run_tiny.py", str(records), str(workdir), json.dumps({**CONFIG, **changes})],
        cwd=ROOT,
        env=run_tiny.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a training that ends well; what it said."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output + errors


def setup_of(records: pathlib.Path, **changes: object) -> loop.Setup:
    return loop.Setup.create(run_tiny.settings(**{**CONFIG, **changes}), records)


def newest(setup: loop.Setup, workdir: pathlib.Path) -> tuple[list[np.ndarray], dict]:
    """State and input position of the newest checkpoint."""
    checkpoints = Checkpoints(workdir)
    batches = loop.training_batches(setup.source("train"), batch_size=16, seed=0, random_starts=True, media=False)
    state = checkpoints.restore_latest(setup.new_state(setup.optimizer()), batches)
    checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)], batches.get_state()


def rows(workdir: pathlib.Path) -> list[dict]:
    """The metrics, but for the clock's part."""
    clock = ("seconds", "windows_per_s", "input_wait_share")
    return [{name: value for name, value in row.items() if name not in clock} for row in read_metrics(workdir)]


@pytest.fixture(scope="module")
def uninterrupted(records: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(records, workdir))
    return workdir


def same(records: pathlib.Path, workdir: pathlib.Path, uninterrupted: pathlib.Path) -> None:
    """Parameters, optimizer, averages, input position and metrics, to the last bit."""
    setup = setup_of(records)
    (found, place), (expected, expected_place) = newest(setup, workdir), newest(setup, uninterrupted)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert place == expected_place
    assert rows(workdir) == rows(uninterrupted)


@pytest.mark.slow
def test_ten_kills_change_nothing(records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path) -> None:
    draw = random.Random(0)
    went_on = []
    for _ in range(10):
        process = start(records, tmp_path)
        before = len(read_metrics(tmp_path))
        deadline = time.monotonic() + 120
        # Some way into training, or, every now and then, before it has begun.
        if draw.random() < 0.8:
            while len(read_metrics(tmp_path)) < before + 1 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.wait()
        steps = [int(path.name) for path in (tmp_path / "checkpoints").glob("*") if path.name.isdigit()]
        went_on.append(max(steps, default=0))
    assert went_on == sorted(went_on)
    assert len(set(went_on)) > 2, went_on
    finish(start(records, tmp_path))
    same(records, tmp_path, uninterrupted)
    assert not [path.name for path in (tmp_path / "checkpoints").iterdir() if not path.name.isdigit()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_loses_nothing(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    process = start(records, tmp_path)
    while not read_metrics(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    said = errors.strip().splitlines()[-1]
    assert said.startswith(f"stopped by {number.name}: step ")
    assert "is saved; the same command goes on from there: python tests/run_tiny.py" in said
    step = int(said.split("step ")[1].split()[0])
    assert "Traceback" not in errors
    assert f"going on from step {step} of" in finish(start(records, tmp_path))
    same(records, tmp_path, uninterrupted)


# A model whose checkpoint is larger than the files that are then allowed.
WIDE = {"model__features": 200}


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_harms_none(
    records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    finish(start(records, tmp_path, **WIDE, train__epochs=2))
    before = newest(setup_of(records, **WIDE), tmp_path)[0]
    process = run_tiny.without_room(start(records, tmp_path, **WIDE, train__epochs=4))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    said = errors.strip().splitlines()[-1]
    assert said.startswith("error: the checkpoint of step 9 cannot be written")
    assert "File too large" in said
    assert "the checkpoint of step 6 is kept: make room, then run the same command again" in said
    for one, other in zip(newest(setup_of(records, **WIDE), tmp_path)[0], before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "going on from step 6 of 12" in finish(start(records, tmp_path, **WIDE, train__epochs=4))


def test_a_run_may_go_on_without_its_checkpoints_but_not_end(records: pathlib.Path, tmp_path: pathlib.Path) -> None:
    process = run_tiny.without_room(start(records, tmp_path, **WIDE, train__epochs=2, train__on_full_disk="go_on"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output.count("warning: the checkpoint of step 3 cannot be written") == 1
    assert errors.strip().splitlines()[-1].startswith("error: the checkpoint of step 6 cannot be written")
    assert not list((tmp_path / "checkpoints").iterdir())
    assert [row["step"] for row in read_metrics(tmp_path) if row["part"] == "validation"] == [3, 6]


def test_a_disk_that_fills_up_under_orbax_costs_that_checkpoint_alone(
    records: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room when it was asked for: Orbax's own failure half-way is swept up, and the next save works."""
    setup = setup_of(records)
    source = setup.source("train")
    batches = loop.training_batches(source, batch_size=16, seed=0, random_starts=True, media=False)
    first = jax.tree.map(np.asarray, setup.new_state(setup.optimizer()))
    second = dataclasses.replace(first, step=first.step + 1)
    checkpoints = Checkpoints(tmp_path, writes=True)

    def half(self: ocp.CheckpointManager, step: int, **kwargs: object) -> None:
        (tmp_path / "checkpoints" / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: no space left\nand forty lines more")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", half)
        with pytest.raises(
            UserError, match=r"^the checkpoint of step 1 cannot be .*\(RESOURCE.* left\); there is none"
        ):
            checkpoints.save(second, batches, {"score": 0.5})
    assert not list((tmp_path / "checkpoints").iterdir())
    checkpoints.save(second, batches, {"score": 0.5})
    assert checkpoints.latest_step == checkpoints.best_step == 1
    checkpoints.close()


def test_metrics_that_cannot_be_written_are_one_message(tmp_path: pathlib.Path) -> None:
    """/dev/full has no room for a byte."""
    writer = MetricsWriter(tmp_path)
    writer._lines.close()
    writer._lines = open("/dev/full", "ab", buffering=0)  # noqa: SIM115 - the writer closes it
    with (
        pytest.raises(UserError, match=r"metrics\.jsonl .* cannot be written \(No space left on device\): make room"),
        writer,
    ):
        writer.write(1, "train", {"loss": 1.0})


def test_a_run_stopped_between_validations_is_not_out_of_patience(
    records: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Steps since the best validation count when there is a validation to compare with."""
    setup = setup_of(records, train__patience_epochs=2, train__validate_every_epochs=2)
    state = devices.unreplicate(devices.replicate(setup.new_state(setup.optimizer())))
    batches = loop.training_batches(setup.source("train"), batch_size=16, seed=0, random_starts=True, media=False)
    checkpoints = Checkpoints(tmp_path, writes=True)
    checkpoints.save(state.replace(step=np.int32(6)), batches, {"score": 0.5})
    checkpoints.save(state.replace(step=np.int32(13)), batches, {"score": NOT_VALIDATED})
    assert not loop._out_of_patience(setup, checkpoints)
    checkpoints.save(state.replace(step=np.int32(14)), batches, {"score": 0.4})
    assert loop._out_of_patience(setup, checkpoints)
    checkpoints.close()


def copy_with_newest(uninterrupted: pathlib.Path, workdir: pathlib.Path) -> pathlib.Path:
    shutil.copytree(uninterrupted, workdir, dirs_exist_ok=True)
    return max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def test_a_half_written_checkpoint_is_never_gone_on_from(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """What a kill leaves of a save is a temporary folder."""
    whole = copy_with_newest(uninterrupted, tmp_path)
    half = whole.with_name("999.orbax-checkpoint-tmp")
    shutil.copytree(whole, half)
    for path in half.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checkpoints = Checkpoints(tmp_path, writes=True)
    assert checkpoints.latest_step == int(whole.name)
    checkpoints.close()
    assert newest(setup_of(records), tmp_path)[0]


def test_a_damaged_checkpoint_is_named(
    records: pathlib.Path, uninterrupted: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    damaged = copy_with_newest(uninterrupted, tmp_path)
    for path in (damaged / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    process = start(records, tmp_path, train__epochs=14)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    said = errors.strip().splitlines()[-1]
    assert said.startswith(f"error: the checkpoint {damaged} cannot be read")
    assert "remove that folder and run the same command again" in said


def test_a_checkpoint_of_another_model_is_named(records: pathlib.Path, uninterrupted: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"is of another model: .*kernel is float32\[16, 8\] there, .*\[12, 8\]"):
        newest(setup_of(records, model__features=12), uninterrupted)


def test_a_workdir_says_what_changed_and_refuses_what_may_not(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_tiny.settings(**CONFIG)
    commands._save_config(config, tmp_path)
    commands._check_owner(run_tiny.settings(**CONFIG, train__resident_gb=1.0, profile__steps=[1, 2]), tmp_path)
    assert capsys.readouterr().out == ""
    commands._check_owner(run_tiny.settings(**{**CONFIG, "train__epochs": 30}), tmp_path)
    assert capsys.readouterr().out == "changed    train.epochs is 12 there, 30 here\n"
    for field, value in (
        ("model__features", 17),
        ("split__protocol", "random"),
        ("data__channel", "song"),
        ("train__learning_rate", 0.5),
    ):
        with pytest.raises(UserError, match=rf"{field.replace('__', '.')} is .* there, {value!r} here"):
            commands._check_owner(run_tiny.settings(**{**CONFIG, field: value}), tmp_path)


def test_a_workdir_of_another_version_is_named(tmp_path: pathlib.Path) -> None:
    config = run_tiny.settings(**CONFIG)
    commands._save_config(config, tmp_path)
    assert commands.load_config(tmp_path, like=config)["train"] == config["train"]
    with pytest.raises(UserError, match=r"config\.json lacks train\.newer: another version"):
        commands.load_config(tmp_path, like={**config, "train": {**config["train"], "newer": 1}})
