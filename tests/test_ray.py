"""The engine `ray` leaves what the local one does: also if a node, the driver or a decoder dies on the way."""

import dataclasses
import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator

import pytest

from conftest import ROOT, settings_of
from fusion_emotion import corpora
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups, ray_engine, run
from fusion_emotion.prepare.groups import CLOSED, PENDING, Group
from fusion_emotion.prepare.hardware import resolve
from fusion_emotion.prepare.records import MANIFEST, SHARDS, read_rows
from fusion_emotion.prepare.settings import Settings
from test_prepare_faults import contents

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install -r requirements-ray.txt"
)
GROUP = 4

pytestmark = pytest.mark.slow

# A process of its own, so that no thread, signal handler or variable of Ray stays with the other tests.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
# A node that is gone is noticed within two seconds.
health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
cluster = Cluster(True, head_node_args={**node, "_system_config": health})
other = cluster.add_node(**node)
print(cluster.address, other.all_processes["raylet"][0].process.pid, flush=True)
for line in sys.stdin:
    cluster.remove_node(other, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""

DRIVER = """
import pathlib, sys
from fusion_emotion import corpora
from fusion_emotion.prepare import run
from fusion_emotion.prepare.settings import Settings

if __name__ == "__main__":
    root, settings, count, group = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    clips, _ = corpora.find_clips("sample", pathlib.Path(root), audio_alone=False, channel="speech")
    run.prepare(clips[:count], settings, group=group)
"""


def clips_of(root: pathlib.Path) -> list[Clip]:
    return corpora.find_clips("sample", root, audio_alone=False, channel="speech")[0]


def until(condition: Callable[[], bool], *, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


@dataclasses.dataclass
class Cluster:
    process: subprocess.Popen
    address: str
    other: int  # process of the node that is not the driver's
    environment: dict[str, str]
    mark: bytes

    def kill_node(self) -> None:
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "killed\n"

    def drive(self, root: pathlib.Path, settings: Settings, *, count: int = 32, group: int = GROUP) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(root), repr(settings), str(count), str(group)],
            cwd=ROOT,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def readers(self, *, of: int = 1) -> list[int]:
        """The processes in which a task reads its clips, of all nodes or of one."""
        return [
            pid for pid, line in processes(self.mark).items() if b"multiprocessing.spawn" in line and descends(pid, of)
        ]


def processes(mark: bytes) -> dict[int, bytes]:
    """The command lines of the cluster whose variables hold `mark`, of its drivers and of all their children."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is another's
    return found


def descends(process: int, ancestor: int) -> bool:
    while process not in (0, ancestor):
        try:
            process = int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return process == ancestor


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one core each."""
    # Not in pytest's folder: the paths of its sockets would be too long.
    folder = tempfile.mkdtemp(prefix="ray-")
    environment = {
        **os.environ,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # only the loopback interface
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 2,  # or one would be written to the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": folder,
        "FUSION_EMOTION_TEST": folder,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    mark = f"FUSION_EMOTION_TEST={folder}".encode()
    try:
        address, other = process.stdout.readline().split()
        yield Cluster(process, address, int(other), environment, mark)
        process.stdin.close()
        assert process.wait(30) == 0
        until(lambda: not processes(mark), timeout_s=10)
    finally:
        for left in processes(mark):
            os.kill(left, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reference(sample_corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, list]:
    """The rows and records of the local engine."""
    return contents(run.prepare(clips_of(sample_corpus), settings_of(tmp_path_factory.mktemp("local")), group=GROUP))


def n_closed(cache: pathlib.Path) -> int:
    return len(list(cache.glob(f"sample-*/{CLOSED}/[0-9]*")))


def assert_ended_well(driver: subprocess.Popen) -> None:
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 0, said


# On a cluster


@needs_ray
def test_a_clip_that_kills_its_decoder_costs_itself(cluster, sample_corpus, tmp_path, reference):
    driver = cluster.drive(
        sample_corpus, settings_of(tmp_path, engine="ray", ray_address=cluster.address), count=12, group=12
    )
    pending = f"sample-*/{PENDING}/[0-9]*"
    until(lambda: len(list(tmp_path.glob(pending))) > 1)
    [reader] = cluster.readers()
    os.kill(reader, signal.SIGSEGV)
    assert_ended_well(driver)
    rows, records = contents(next(tmp_path.glob("sample-*")))
    [lost] = [row for row in rows if "signal 11" in row.reason]
    assert lost.reason == "the worker that read it died of signal 11"
    expected = [row for row in reference[0][:12] if row.clip_id != lost.clip_id]
    assert [dataclasses.replace(row, record=0) for row in rows if row is not lost] == [
        dataclasses.replace(row, record=0) for row in expected
    ]
    assert records == [reference[1][row.record] for row in expected if row.status == "ok"]


@needs_ray
def test_a_driver_that_was_killed_goes_on(cluster, sample_corpus, tmp_path, reference):
    settings = settings_of(tmp_path, engine="ray", ray_address=cluster.address)
    driver = cluster.drive(sample_corpus, settings, count=16)
    until(lambda: n_closed(tmp_path) >= 1)
    driver.kill()
    driver.communicate()
    before = {path: path.stat().st_ino for path in tmp_path.glob(f"sample-*/{CLOSED}/[0-9]*/shard*")}
    assert 1 <= len(before) < 4
    assert_ended_well(cluster.drive(sample_corpus, settings, count=16))
    folder = next(tmp_path.glob("sample-*"))
    rows, records = contents(folder)
    assert (rows, records) == (reference[0][:16], reference[1][: len(records)])
    # What was closed then is what is there now, and nothing else is.
    for path, inode in before.items():
        assert (folder / SHARDS / f"{path.parent.name}.arrayrecord").stat().st_ino == inode
    assert {path.name for path in folder.iterdir()} == {"lock", "settings.json", MANIFEST, SHARDS}


@needs_ray
def test_a_node_that_dies_half_way_costs_nothing(cluster, sample_corpus, tmp_path, reference):
    driver = cluster.drive(sample_corpus, settings_of(tmp_path, engine="ray", ray_address=cluster.address))
    until(lambda: n_closed(tmp_path) >= 1 and bool(cluster.readers(of=cluster.other)))
    cluster.kill_node()
    assert n_closed(tmp_path) < 8
    assert_ended_well(driver)
    assert contents(next(tmp_path.glob("sample-*"))) == reference


# Without one


def test_ray_that_is_not_installed_is_said(sample_corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray: pip install -r requirements-ray.txt"):
        run.prepare(clips_of(sample_corpus), settings_of(tmp_path, engine="ray"))


@pytest.mark.parametrize("address", ["localhost:{port}", "nonsense", "ray://localhost:{port}"])
def test_a_head_node_that_is_not_there_is_said_soon(sample_corpus, tmp_path, monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace())
    with socket.socket() as closed:
        closed.bind(("localhost", 0))  # and not listened to
        address = address.format(port=closed.getsockname()[1])
        with pytest.raises(
            UserError, match=f"prepare.ray_address='{address}' cannot be reached .*expected the host:port"
        ):
            run.prepare(clips_of(sample_corpus), settings_of(tmp_path, engine="ray", ray_address=address))


def test_a_machine_that_does_not_see_the_clips_does_not_quarantine_them(sample_corpus, tmp_path):
    [clip, *_] = clips_of(sample_corpus)
    group = Group(0, 0, [dataclasses.replace(clip, path=tmp_path / "gone.mp4")])
    with pytest.raises(UserError, match=r"does not see .*: data.root and prepare.cache must be folders that all"):
        ray_engine._close_group(tmp_path, group, settings_of(tmp_path), True)
    groups.set_out(tmp_path)
    with pytest.raises(UserError, match=r"does not see .*gone.mp4"):
        ray_engine._close_group(tmp_path, group, settings_of(tmp_path), True)
    # Where no machine sees it, it is the clip that is no good.
    ray_engine._close_group(tmp_path, group, settings_of(tmp_path), False)
    groups.join(tmp_path, 1)
    [row] = read_rows(tmp_path / MANIFEST)
    assert (row.status, row.clip_id) == ("quarantined", clip.clip_id)
    assert "cannot be read" in row.reason


def test_an_engine_is_a_known_one_and_does_not_name_the_cache(tmp_path):
    with pytest.raises(UserError, match=r"prepare.engine='spark' is unknown: choose one of local, ray"):
        settings_of(tmp_path, engine="spark")
    here, there = settings_of(tmp_path), settings_of(tmp_path, engine="ray", ray_address="auto")
    assert here.cache_folder("sample", []) == there.cache_folder("sample", [])


def test_ray_prepares_on_cpus(tmp_path):
    settings = resolve(settings_of(tmp_path, engine="ray"))
    assert (settings.decoder, settings.provider) == ("cpu", "cpu")
    with pytest.raises(UserError, match=r"prepare.provider=cuda does not go with prepare.engine=ray"):
        resolve(settings_of(tmp_path, engine="ray", provider="cuda"))


@pytest.fixture
def group(sample_corpus: pathlib.Path, tmp_path: pathlib.Path) -> Group:
    """A group whose clips are finished."""
    group = Group(0, 0, clips_of(sample_corpus)[:2])
    groups.set_out(tmp_path)
    list(groups.finish(tmp_path, groups.unfinished(tmp_path, group), settings_of(tmp_path), workers=1))
    return group


def test_the_second_of_two_that_close_a_group_changes_nothing(group, tmp_path):
    pending = {path: path.read_bytes() for path in (tmp_path / PENDING).iterdir()}
    groups.close(tmp_path, group)
    first = {path: path.read_bytes() for path in tmp_path.glob(f"{CLOSED}/*/*")}
    # The second one prepared the clips as well, with another outcome (swapped here), and was slower.
    for path, data in zip(pending, reversed(pending.values()), strict=True):
        path.write_bytes(data)
    groups.close(tmp_path, group)
    assert {path: path.read_bytes() for path in tmp_path.glob(f"{CLOSED}/*/*")} == first
    # Or it was about to read what the first had removed.
    groups.close(tmp_path, group)
    assert not list((tmp_path / PENDING).iterdir())
    assert len(list((tmp_path / CLOSED).iterdir())) == 1


def test_a_group_that_is_not_complete_cannot_be_closed(group, tmp_path):
    next((tmp_path / PENDING).iterdir()).unlink()
    with pytest.raises(FileNotFoundError):
        groups.close(tmp_path, group)
    assert not list((tmp_path / CLOSED).iterdir())


def test_a_task_that_finds_its_group_closed_returns_at_once(group, tmp_path):
    groups.close(tmp_path, group)
    gone = [dataclasses.replace(clip, path=tmp_path / "gone.mp4") for clip in group.clips]
    before = sorted(tmp_path.rglob("*"))
    ray_engine._close_group(tmp_path, Group(0, 0, gone), settings_of(tmp_path), True)
    assert sorted(tmp_path.rglob("*")) == before
