"""Train on a prepared corpus in a process of its own: python tests/run_tiny.py RECORDS WORKDIR CONFIG_JSON [CLUSTER].

CONFIG_JSON changes fields of `settings`; CLUSTER is coordinator, number of processes and process id. The exit code and
the messages are launch.py's.
"""

import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

import tiny
from fusion_emotion import config
from fusion_emotion.errors import Stopped, UserError

if TYPE_CHECKING:
    import grain

    from fusion_emotion.input.data import Data
    from fusion_emotion.models.fusion import FusionNet
    from fusion_emotion.train.plan import Plan
    from fusion_emotion.train.step import TrainState


def settings(**changes: Any) -> dict[str, Any]:
    """The config of a training of seconds; `changes` name fields with two underscores for a dot (train__epochs)."""
    base = {
        "split__protocol": "kfold",
        "split__n_folds": 3,
        "prepare__face_size": tiny.FACE_SIZE,
        "train__batch_size": 16,
        "train__epochs": 8,
        "train__validate_every_epochs": 2,
        "run__log_every_steps": 3,
    }
    given = config.dotted(config.defaults().to_dict()) | {
        name.replace("__", "."): tuple(value) if isinstance(value, list) else value
        for name, value in {**base, **changes}.items()
    }
    return config.completed(given)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A config on prepared records, ready to train and to evaluate."""

    config: dict[str, Any]
    data: "Data"
    model: "FusionNet"
    plan: "Plan"

    @classmethod
    def of(cls, records: pathlib.Path, **changes: Any) -> "Tiny":
        from fusion_emotion.input.data import Data
        from fusion_emotion.models.create import create_model
        from fusion_emotion.train import devices
        from fusion_emotion.train.plan import Plan

        values = settings(**changes)
        config.check(values)
        devices.check_batch_size(values)
        data = Data.open(values, records)
        model = create_model(values, n_classes=len(data.label_names), axis_name=devices.AXIS)
        return cls(values, data, model, Plan(values, len(data.parts["train"])))

    def train(self, workdir: pathlib.Path) -> None:
        from fusion_emotion.evaluate.evaluator import Evaluator
        from fusion_emotion.train import loop

        validate = Evaluator(self.model, self.data.source("validation"), self.config)
        loop.train(self.model, self.data, self.plan, workdir, validate)

    def evaluate(self, workdir: pathlib.Path) -> dict[str, Any]:
        from fusion_emotion.evaluate.results import evaluate

        return evaluate(self.model, self.data, self.config, workdir)

    def new_state(self) -> "TrainState":
        from fusion_emotion.models.batch import batch_spec
        from fusion_emotion.train.step import create_state

        averaged = self.config["train"]["ema_decay"] > 0
        spec = batch_spec(self.config)
        return create_state(self.model, self.plan.optimizer(), spec, seed=self.config["seed"], averaged=averaged)

    def batches(self, *, media: bool = True) -> "grain.DatasetIterator":
        from fusion_emotion.input.batches import training_batches

        return training_batches(self.data.source("train"), batch_size=16, seed=0, media=media)

    def newest(self, workdir: pathlib.Path) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The leaves of the newest checkpoint's state, and its input position."""
        import jax

        from fusion_emotion.train.checkpoint import Checkpoints

        checkpoints, batches = Checkpoints(workdir), self.batches(media=False)
        state = checkpoints.restore_latest(self.new_state(), batches)
        checkpoints.close()
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state)], batches.get_state()


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics of a run, without those that depend on time."""
    from fusion_emotion.train.writer import read_metrics

    times = ("seconds", "segments_per_s", "input_wait_share")
    return [{name: value for name, value in row.items() if name not in times} for row in read_metrics(workdir)]


def start(
    records: pathlib.Path, workdir: pathlib.Path, config: dict[str, Any], *cluster_flags: str, devices: int = 1
) -> subprocess.Popen:
    """Start such a process."""
    command = [sys.executable, __file__, str(records), str(workdir), json.dumps(config), *cluster_flags]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(devices), text=True, **pipes)


def failed(process: subprocess.Popen) -> str:
    """Wait for a process that ends with a user's error; return its last line."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


def finish(process: subprocess.Popen) -> str:
    """Wait for a process that ends well; return its output."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output + errors


def environment(devices: int = 1) -> dict[str, str]:
    """What such a process needs, with so many devices of the CPU."""
    return {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[1]),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }


def without_room(process: subprocess.Popen) -> subprocess.Popen:
    """The same process, whose files cannot grow beyond 400 kB from here on: metrics fit, a checkpoint does not."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400_000, 400_000))
    return process


def main(records: str, workdir: str, changes: str, *cluster_flags: str) -> None:
    from fusion_emotion.train import cluster

    if cluster_flags:
        address, num_processes, process_id = cluster_flags
        cluster.join(address, int(num_processes), int(process_id))
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    Tiny.of(pathlib.Path(records), **json.loads(changes)).train(folder)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
