"""Several processes as one, by JAX's own detection of clusters or by address."""

import os
import sys

from fusion_emotion.errors import UserError


def join(distributed: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run: `distributed` is "off", "auto" (JAX detects the cluster) or HOST:PORT.

    HOST:PORT is the address of the first process; it also needs the number of processes and this one's id, from 0. Only
    the first process prints from here on. Raises UserError if a flag is missing or the others cannot be reached.
    """
    if distributed == "off":
        return
    flags = {"num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if distributed == "auto":
        address = None
    elif ":" not in distributed:
        raise UserError(f"--distributed={distributed} is unknown: expected off, auto or HOST:PORT of the first process")
    elif missing:
        raise UserError(f"--distributed={distributed} also needs {' and '.join(missing)}")
    elif not 0 <= (process_id or 0) < (num_processes or 0):
        raise UserError(f"--process_id={process_id} is out of range: expected 0 to --num_processes={num_processes} - 1")
    else:
        address = distributed
    import jax

    try:
        jax.distributed.initialize(address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of this run did not find each other ({str(error).splitlines()[0]})") from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def joined() -> bool:
    """True if this process runs together with others."""
    return "jax" in sys.modules and bool(sys.modules["jax"].distributed.is_initialized())
