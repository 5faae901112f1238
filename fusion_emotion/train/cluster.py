"""Several processes as one, by JAX's own detection of clusters or by address."""

import os
import re
import socket
import sys

from fusion_emotion.errors import UserError


def join(distributed: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run: `distributed` is "off", "auto" (JAX detects the cluster) or HOST:PORT.

    HOST:PORT is the address of the first process; it also needs the number of processes and this one's id, from 0. Only
    the first process prints from here on. Raises UserError if a flag is missing or wrong, the port is in use, or the
    others cannot be reached.
    """
    if distributed == "off":
        return
    flags = {"num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in flags.items() if value is None]
    if distributed == "auto":
        address = None
    elif missing:
        raise UserError(f"--distributed={distributed} also needs {' and '.join(missing)}")
    elif not 0 <= (process_id or 0) < (num_processes or 0):
        raise UserError(f"--process_id={process_id} is out of range: expected 0 to --num_processes={num_processes} - 1")
    else:
        address = _checked(distributed, first=process_id == 0)
    import jax

    try:
        jax.distributed.initialize(address, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({str(error).splitlines()[0]}): start all of them, "
            "with --distributed=HOST:PORT of the first where JAX detects no cluster"
        ) from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def _checked(address: str, *, first: bool) -> str:
    """Return HOST:PORT if HOST has an address and, in the first process, PORT is free. Raises UserError.

    JAX ends with a segmentation fault at a port that is in use.
    """
    parts = re.fullmatch(r"\[([^\[\]]+)\]:([0-9]{1,5})|([^:\[\]]+):([0-9]{1,5})", address)
    host, port = (parts[1] or parts[3], int(parts[2] or parts[4])) if parts else ("", 0)
    if not 0 < port < 2**16:
        raise UserError(
            f"--distributed={address} is unknown: expected off, auto or HOST:PORT of the first process, with a PORT "
            "from 1 to 65535, as in node1:1234 or [::1]:1234"
        )
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--distributed={address}: the host {host} is not known ({reason}): check its name") from error
    both = socket.has_dualstack_ipv6()
    try:
        if first:  # listens at all addresses, as JAX does
            family = socket.AF_INET6 if both else socket.AF_INET
            socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise UserError(
            f"--distributed={address}: the first process cannot listen at port {port} "
            f"({os.strerror(error.errno or 0)}): give every process another port"
        ) from error
    return address


def joined() -> bool:
    """True if this process runs together with others."""
    return "jax" in sys.modules and bool(sys.modules["jax"].distributed.is_initialized())
