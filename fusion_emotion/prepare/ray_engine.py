"""The engine `ray`: each group of clips is a task on any machine that can access the clips and the cache folder."""

import collections
import logging
import os
import pathlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fusion_emotion.cores import cores
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.groups import PENDING, Group, close, finish, is_closed, unfinished
from fusion_emotion.prepare.settings import Settings

_PACKAGE = pathlib.Path(__file__).parents[1]
_RETRIES = 10  # of a task whose node dies
_CONNECT_TIMEOUT_S = 10.0
_OBJECT_STORE_BYTES = 100 << 20  # small: clips and records go through the file system
_TASKS_PER_CPU = 2  # submitted at once: one to run and one to follow, which keeps the driver small


def close_groups(store: pathlib.Path, groups: Sequence[Group], settings: Settings) -> Iterator[int]:
    """Close each group in a Ray task and yield its number of clips; if a node dies, its tasks run on another.

    Raises UserError if ray is not installed, the cluster cannot be reached, or a task is lost too often.
    """
    if not groups:
        return
    try:
        import ray
    except ImportError as error:
        raise UserError("run.engine=ray needs the package ray: pip install -r requirements-ray.txt") from error
    with _connected(ray, settings):
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(close_group)
        waiting = collections.deque(groups)
        running: dict[Any, int] = {}
        while waiting or running:
            # Ask each time: nodes join and leave.
            max_running = max(1, int(_TASKS_PER_CPU * ray.cluster_resources().get("CPU", 0)))
            while waiting and len(running) < max_running:
                group = waiting.popleft()
                running[task.remote(store, group, settings, _any_clip_exists(group))] = len(group.clips)
            for done in ray.wait(list(running))[0]:
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"run.engine=ray lost a task for good ({str(error).splitlines()[0]}): "
                        "run the same command again, what is done so far is kept"
                    ) from error
                yield running.pop(done)


def _connected(ray: Any, settings: Settings) -> Any:
    """Return Ray's context: the cluster at `run.ray_address`, or a temporary one on this machine."""
    # No usage statistics to Ray's authors.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {
        "runtime_env": {"py_modules": [str(_PACKAGE)]},  # all machines run this code, not an installed version
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    address = settings.ray_address
    if not address:
        return ray.init(
            address="local",
            num_cpus=settings.workers or cores(),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            **options,
        )
    try:
        if address != "auto":
            # Check first: Ray itself retries for more than eight minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
        return ray.init(address=address, **options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"run.ray_address={address!r} cannot be reached ({str(error).splitlines()[0]}): expected the host:port "
            "of a head node, auto on a machine of the cluster, or nothing to start Ray here"
        ) from error


def _any_clip_exists(group: Group) -> bool:
    """Return True if this machine can access any clip of a group."""
    return any(os.path.exists(clip.path) for clip in group.clips.values())


def close_group(store: pathlib.Path, group: Group, settings: Settings, driver_sees_clips: bool) -> None:
    """Prepare and close a group; the body of a task. Clips that an earlier attempt finished are not prepared again."""
    if is_closed(store, group):
        return
    # A machine without the shared folders would quarantine all clips as missing.
    for path, exists in (
        (store, (store / PENDING).exists()),
        (next(iter(group.clips.values())).path, _any_clip_exists(group) or not driver_sees_clips),
    ):
        if not exists:
            raise UserError(
                f"run.engine=ray: {socket.gethostname()} does not see {path}: "
                "data.root and run.cache must be folders that all machines share"
            )
    # In a process of its own, so that a clip that crashes the decoder does not end the task.
    for _ in finish(store, unfinished(store, group), settings, workers=1):
        pass
    close(store, group)
