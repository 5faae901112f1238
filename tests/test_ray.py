"""The engine `ray` gives the records of the local one, also if a node or the driver dies on the way."""

import dataclasses
import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import types

import pytest

from conftest import clips_of, settings_of
from films import by_clip, sounds, start_preparation
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups, ray_engine, run
from fusion_emotion.prepare.groups import PENDING, Group
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, SHARDS, read_rows
from fusion_emotion.prepare.store import keys_of, set_folder, write_set

needs_ray = [pytest.mark.slow, pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")]
COUNT, GROUP = 16, 4
CLOSED_GROUPS = f"sample-*/{SHARDS}/[0-9a-f]*"

# Run in its own process, so that no thread, signal handler or variable of Ray stays with the other tests.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
# A node that is gone is noticed within two seconds.
health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
cluster = Cluster(True, head_node_args={**node, "_system_config": health})
other = cluster.add_node(**node)
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


def until(condition, *, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


class Cluster:
    """Two nodes of one core each."""

    def __init__(self, folder: str):
        self.environment = {
            **os.environ,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # only the loopback interface
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,  # or one would be written to the home folder
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": folder,
        }
        command, pipe = [sys.executable, "-c", CLUSTER], subprocess.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, cwd=folder, env=self.environment, **streams)
        self.address = self.process.stdout.readline().strip()

    def kill_node(self) -> None:
        print("kill", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "killed\n"

    def prepare(self, root: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
        settings = settings_of(cache, engine="ray", ray_address=self.address)
        return start_preparation(root, settings, count=COUNT, group=GROUP, environment=self.environment)


@pytest.fixture(scope="module")
def cluster():
    # Not in pytest's folder: the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder)
        yield cluster
        cluster.process.stdin.close()
        assert cluster.process.wait(60) == 0


@pytest.fixture(scope="module")
def clips(sample_corpus):
    return clips_of(sample_corpus)


@pytest.fixture(scope="module")
def reference(clips, tmp_path_factory):
    """The rows and records of the local engine."""
    return by_clip(run.prepare(clips[:COUNT], settings_of(tmp_path_factory.mktemp("local")), group=GROUP))


def assert_ended_well(driver: subprocess.Popen) -> None:
    _, errors = driver.communicate(timeout=120)
    assert driver.returncode == 0, errors


class TestCluster:
    """These share one cluster, whose second node dies in the last test."""

    pytestmark = needs_ray

    def test_a_killed_driver_goes_on(self, cluster, sample_corpus, tmp_path, reference):
        driver = cluster.prepare(sample_corpus, tmp_path)
        until(lambda: list(tmp_path.glob(CLOSED_GROUPS)))
        driver.kill()
        driver.communicate()
        before = {path: path.stat().st_ino for path in tmp_path.glob(f"{CLOSED_GROUPS}/shard*")}
        assert 1 <= len(before) < 4
        assert_ended_well(cluster.prepare(sample_corpus, tmp_path))
        [folder] = tmp_path.glob("sample-*/sets/*")
        assert by_clip(folder) == reference
        assert {path: path.stat().st_ino for path in before} == before

    def test_a_node_that_dies_half_way_costs_nothing(self, cluster, sample_corpus, tmp_path, reference):
        driver = cluster.prepare(sample_corpus, tmp_path)
        until(lambda: list(tmp_path.glob(CLOSED_GROUPS)))
        cluster.kill_node()
        assert len(list(tmp_path.glob(CLOSED_GROUPS))) < 4
        assert_ended_well(driver)
        [folder] = tmp_path.glob("sample-*/sets/*")
        assert by_clip(folder) == reference


def test_without_ray_the_error_names_the_package(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="requirements-ray"):
        run.prepare(clips, settings_of(tmp_path, engine="ray"))


@pytest.mark.parametrize("address", ["localhost:{port}", "nonsense", "ray://localhost:{port}"])
def test_a_missing_head_node_is_an_error_at_once(clips, tmp_path, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    with socket.socket() as unused:
        unused.bind(("localhost", 0))  # and does not listen
        address = address.format(port=unused.getsockname()[1])
        with pytest.raises(UserError, match=r"run\.ray_address"):
            run.prepare(clips, settings_of(tmp_path, engine="ray", ray_address=address))


def test_the_engine_does_not_name_the_cache_and_runs_on_cpus(tmp_path):
    local, ray = settings_of(tmp_path), settings_of(tmp_path, engine="ray", ray_address="auto")
    assert local.store("sample") == ray.store("sample")
    assert (resolve(ray).decoder, resolve(ray).provider) == ("cpu", "cpu")
    with pytest.raises(UserError, match=r"run\.provider"):
        resolve(settings_of(tmp_path, engine="ray", provider="cuda"))


# Groups


def test_a_machine_without_the_clips_does_not_quarantine_them(clips, tmp_path):
    clip = dataclasses.replace(clips[0], path=tmp_path / "gone.mp4")
    [key] = keys_of([clip], full=False)
    group = Group({key: clip})
    with pytest.raises(UserError, match=r"run\.cache"):
        ray_engine.close_group(tmp_path, group, settings_of(tmp_path), True)
    groups.set_out(tmp_path)
    with pytest.raises(UserError, match=r"gone\.mp4"):
        ray_engine.close_group(tmp_path, group, settings_of(tmp_path), True)
    # A clip that no machine sees is a bad clip.
    ray_engine.close_group(tmp_path, group, settings_of(tmp_path), False)
    write_set(tmp_path, group.clips, {})
    [row] = read_rows(set_folder(tmp_path, group.clips) / MANIFEST)
    assert (row.status, row.clip_id, row.retry) == ("quarantined", clip.clip_id, True)


@pytest.fixture
def group(tmp_path) -> Group:
    """A group whose clips are finished."""
    clips = sounds(tmp_path, 2)
    group = Group(dict(zip(keys_of(clips, full=False), clips, strict=True)))
    groups.set_out(tmp_path)
    list(groups.finish(tmp_path, groups.unfinished(tmp_path, group), settings_of(tmp_path), workers=1))
    return group


def test_the_second_to_close_a_group_changes_nothing(group, tmp_path):
    pending = {path: path.read_bytes() for path in (tmp_path / PENDING).iterdir()}
    groups.close(tmp_path, group)
    first = {path: path.read_bytes() for path in tmp_path.glob(f"{SHARDS}/*/*")}
    # The second had prepared the clips as well, with another outcome (swapped here), but closes later.
    for path, data in zip(pending, reversed(pending.values()), strict=True):
        path.write_bytes(data)
    groups.close(tmp_path, group)
    assert {path: path.read_bytes() for path in tmp_path.glob(f"{SHARDS}/*/*")} == first
    # Or it was about to read the files that the first removed.
    groups.close(tmp_path, group)
    assert not list((tmp_path / PENDING).iterdir())
    assert len(list((tmp_path / SHARDS).iterdir())) == 1


def test_an_incomplete_group_cannot_be_closed(group, tmp_path):
    next((tmp_path / PENDING).iterdir()).unlink()
    with pytest.raises(FileNotFoundError):
        groups.close(tmp_path, group)
    assert not list((tmp_path / SHARDS).iterdir())


def test_the_task_of_a_closed_group_returns_at_once(group, tmp_path):
    groups.close(tmp_path, group)
    gone = {key: dataclasses.replace(clip, path=tmp_path / "gone.mp4") for key, clip in group.clips.items()}
    before = sorted(tmp_path.rglob("*"))
    ray_engine.close_group(tmp_path, Group(gone), settings_of(tmp_path), True)
    assert sorted(tmp_path.rglob("*")) == before
