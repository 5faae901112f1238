"""Train on a prepared corpus in a process of its own: python tests/run_tiny.py RECORDS WORKDIR CONFIG_JSON [CLUSTER].

CONFIG_JSON changes fields of `settings`; CLUSTER is coordinator, number of processes and process id. The exit code and
the messages are launch.py's.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
from typing import Any

import tiny
from configs import ravdess
from fusion_emotion.errors import Stopped, UserError


def settings(**changes: Any) -> dict[str, Any]:
    """The configuration of a training of seconds; `changes` name fields with dots as underscores (train__epochs)."""
    config = ravdess.get_config()
    config.split.protocol = "kfold"
    config.split.n_folds = 3
    config.prepare.face_size = tiny.FACE_SIZE
    config.train.update({"batch_size": 16, "epochs": 8, "validate_every_epochs": 2, "log_every_steps": 3})
    for name, value in changes.items():
        section, field = name.split("__")
        config[section].unlock()
        config[section][field] = tuple(value) if isinstance(value, list) else value
    return config.to_dict()


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
    from fusion_emotion.train import cluster, loop

    if cluster_flags:
        coordinator, num_processes, process_id = cluster_flags
        cluster.join(coordinator, int(num_processes), int(process_id))
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    loop.train(loop.Setup.create(settings(**json.loads(changes)), pathlib.Path(records)), folder)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(f"stopped by {stopped}", file=sys.stderr)
        sys.exit(stopped.exit_code)
