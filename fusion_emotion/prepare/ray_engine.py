"""The engine `ray`: a group of clips is a task, on any machine that sees the clips and the cache folder."""

import collections
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups as groups_
from fusion_emotion.prepare.groups import Group
from fusion_emotion.prepare.settings import Settings

_PACKAGE = pathlib.Path(__file__).parents[1]
_LOST_NODES = 10  # that a task may be on before it is given up
_REACH_S = 10.0
_OBJECT_STORE_BYTES = 100 << 20  # clips and records go by the file system
_TASKS_PER_CPU = 2  # submitted at once: the next one is there when one ends, and the driver stays small


def close_groups(folder: pathlib.Path, groups: Sequence[Group], settings: Settings) -> Iterator[int]:
    """Close each group in a task of Ray, and yield its number of clips; the task of a node that dies runs elsewhere.

    Raises UserError where ray is not installed, its cluster is not there, or a task is lost too often.
    """
    if not groups:
        return
    try:
        import ray
    except ImportError as error:
        raise UserError("prepare.engine=ray needs the package ray: pip install -r requirements-ray.txt") from error
    with _connected(ray, settings):
        task = ray.remote(num_cpus=1, max_retries=_LOST_NODES)(_close_group)
        waiting = collections.deque(groups)
        running: dict[Any, int] = {}
        while waiting or running:
            # Asked each time: nodes come and go.
            most = max(1, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 0)))
            while waiting and len(running) < most:
                group = waiting.popleft()
                running[task.remote(folder, group, settings, _sees(group))] = len(group.clips)
            for done in ray.wait(list(running))[0]:
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"prepare.engine=ray lost a task for good ({str(error).splitlines()[0]}): "
                        "run the same command again, what is done so far is kept"
                    ) from error
                yield running.pop(done)


def _connected(ray: Any, settings: Settings) -> Any:
    """Ray's context: the cluster of `prepare.ray_address`, or one on this machine that ends with it."""
    # Nothing of what is prepared goes to Ray's authors.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The machines run this very code, whatever they have installed.
    how: dict[str, Any] = {"runtime_env": {"py_modules": [str(_PACKAGE)]}, "log_to_driver": False}
    how["logging_level"] = logging.WARNING
    address = settings.ray_address
    if not address:
        return ray.init(
            address="local",
            num_cpus=settings.workers or None,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **how,
        )
    try:
        if address != "auto":
            # Ray itself would go on trying for more than eight minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()
        return ray.init(address=address, **how)
    except (OSError, ValueError) as error:
        raise UserError(
            f"prepare.ray_address={address!r} cannot be reached ({str(error).splitlines()[0]}): expected the host:port "
            "of a head node, auto on a machine of the cluster, or nothing to start Ray here"
        ) from error


def _sees(group: Group) -> bool:
    """Whether this machine sees any clip of a group."""
    return any(os.path.exists(clip.path) for clip in group.clips)


def _close_group(folder: pathlib.Path, group: Group, settings: Settings, seen: bool) -> None:
    """The task; it goes on where another one stopped. `seen` is whether the driver sees the clips."""
    if groups_.is_closed(folder, group):
        return
    # Clips that are on the other machine only would look like clips that are no good.
    for path, there in ((folder, (folder / groups_.PENDING).exists()), (group.clips[0].path, _sees(group) or not seen)):
        if not there:
            raise UserError(
                f"prepare.engine=ray: {socket.gethostname()} does not see {path}: "
                "data.root and prepare.cache must be folders that all machines share"
            )
    # In a process of its own: a clip that crashes the decoder does not take the task along.
    for _ in groups_.finish(folder, groups_.unfinished(folder, group), settings, workers=1):
        pass
    groups_.close(folder, group)
