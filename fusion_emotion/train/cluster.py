"""Several processes as one: from flags, or from what a cluster puts into the environment."""

import os
import sys
from collections.abc import Mapping

from fusion_emotion.errors import UserError


def announced(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process of several: Slurm's, Open MPI's, a TPU pod's or Kubernetes'."""
    return (
        int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or int(environment.get("OMPI_COMM_WORLD_SIZE", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or int(environment.get("MEGASCALE_NUM_SLICES", 1)) > 1
        or ("KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment)
    )


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Join the other processes of this run where there are any, and say whether there are.

    Flags come before the environment, and `num_processes` 1 says that there are no others. Only the first process
    prints from here on. Raises UserError where some flags are missing or the others cannot be reached.
    """
    if num_processes == 1:
        return False
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        if not announced(os.environ):
            return False
    elif missing:
        raise UserError(f"--{' and --'.join(missing)} missing: a process of several needs --{', --'.join(flags)}")
    elif not 0 <= (process_id or 0) < (num_processes or 0):
        raise UserError(f"--process_id={process_id} is not one of 0 to --num_processes={num_processes} - 1")
    import jax

    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run did not find each other ({str(error).splitlines()[0]})") from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    return True


def joined() -> bool:
    """Whether this process runs together with others."""
    return "jax" in sys.modules and bool(sys.modules["jax"].distributed.is_initialized())
