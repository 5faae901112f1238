"""Preparation that is killed or started twice: nothing is lost, half-written or there twice."""

import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time

import msgpack
import pytest

from conftest import ROOT, clips_of, settings_of
from films import by_clip, contents, sounds, start_preparation
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups, run
from fusion_emotion.prepare.records import MANIFEST, decode, read_rows
from fusion_emotion.prepare.store import keys_of, set_folder, write_set

COUNT, GROUP = 8, 3


def start(root: pathlib.Path, settings) -> subprocess.Popen:
    return start_preparation(root, settings, count=COUNT, group=GROUP)


def kill(process: subprocess.Popen) -> None:
    """Kill a process and its workers at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def clips(sample_corpus) -> list[Clip]:
    return clips_of(sample_corpus)[:COUNT]


@pytest.fixture(scope="module")
def reference(clips, tmp_path_factory) -> pathlib.Path:
    """The folder of an uninterrupted run."""
    return run.prepare(clips, settings_of(tmp_path_factory.mktemp("reference")), group=GROUP)


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_never_killed(sample_corpus, tmp_path, reference):
    rng = random.Random(0)
    kills = 0
    while True:
        process = start(sample_corpus, settings_of(tmp_path))
        try:
            # Workers need about three seconds to start; kills fall before and after that.
            process.wait(timeout=rng.uniform(0.5, 6.0) if kills < 10 else 300)
        except subprocess.TimeoutExpired:
            # Now and then kill the parent alone.
            kill(process) if kills % 3 else process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.stderr.read()
        if kills >= 10:
            break
        # It finished before the tenth kill: remove some of its results, so that there is work to interrupt.
        [folder] = tmp_path.glob("sample-*")
        shutil.rmtree(folder / "sets")
        for shard in sorted((folder / "shards").iterdir())[kills % 3 :]:
            shutil.rmtree(shard)
    [folder] = tmp_path.glob("sample-*/sets/*")
    assert by_clip(folder) == by_clip(reference)


def test_finished_clips_are_not_prepared_again(sample_corpus, clips, tmp_path):
    process = start(sample_corpus, settings_of(tmp_path))
    finished: list[pathlib.Path] = []
    while not finished and process.poll() is None:
        time.sleep(0.02)
        finished = [path for path in tmp_path.glob("sample-*/pending/*") if not path.name.startswith(".")]
    kill(process)
    # A mark in a finished clip is lost if that clip is prepared again.
    marked = next(path for path in finished if path.exists())
    row, record = msgpack.unpackb(marked.read_bytes())
    marked.write_bytes(msgpack.packb([{**row, "reason": "marked"}, record]))
    folder = run.prepare(clips, settings_of(tmp_path), group=GROUP)
    assert [r.clip_id for r in read_rows(folder / MANIFEST) if r.reason == "marked"] == [row["clip_id"]]


def test_a_clip_that_kills_its_decoder_costs_itself(tmp_path):
    clips = sounds(tmp_path, 4)
    keys = keys_of(clips, full=False)
    group = groups.Group(dict(zip(keys, clips, strict=True)))
    groups.set_out(tmp_path)
    finishing = groups.finish(tmp_path, groups.unfinished(tmp_path, group), settings_of(tmp_path), workers=1)
    next(finishing)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSEGV)
    assert len(list(finishing)) == 3
    groups.close(tmp_path, group)
    write_set(tmp_path, group.clips, {})
    rows, records = contents(set_folder(tmp_path, group.clips))
    assert ["signal 11" in row.reason for row in rows] == [False, True, False, False]
    assert [row.retry for row in rows] == [False, True, False, False]
    assert len(records) == 3


def test_a_second_run_on_the_same_folder_names_the_first(sample_corpus, clips, tmp_path):
    process = start(sample_corpus, settings_of(tmp_path))
    try:
        while not list(tmp_path.glob("sample-*/pending")):
            time.sleep(0.02)
        with pytest.raises(UserError, match=str(process.pid)):
            run.prepare(clips, settings_of(tmp_path), group=GROUP)
    finally:
        kill(process)


def test_every_clip_is_once_in_the_manifest_and_its_record_is_its_own(reference, clips):
    rows, records = contents(reference)
    assert [row.clip_id for row in rows] == [clip.clip_id for clip in clips]
    usable = [row for row in rows if row.status == "ok"]
    assert [row.record for row in usable] == list(range(len(records)))
    for row, data in zip(usable, records, strict=True):
        record = decode(data)
        assert (record.clip_id, record.emotion) == (row.clip_id, row.emotion)
        assert (len(record.faces), len(record.waveform)) == (row.n_frames, row.n_samples)
        assert hashlib.sha256(data).hexdigest().startswith(row.digest)
        assert len(row.digest) == 16
    assert not list(reference.parents[1].glob("pending/*"))


def test_what_a_killed_run_finished_serves_another_set_of_clips(sample_corpus, clips, tmp_path):
    process = start(sample_corpus, settings_of(tmp_path))
    while process.poll() is None and not list(tmp_path.glob("sample-*/shards/[0-9a-f]*")):
        time.sleep(0.01)
    kill(process)
    [store] = tmp_path.glob("sample-*")
    kept = {row.key for rows in store.glob("shards/[0-9a-f]*/rows.jsonl") for row in read_rows(rows)}
    # Those of a closed group, which was killed before it removed them, do not count.
    pending = [path for path in store.glob("pending/[0-9a-f]*") if path.name not in kept]
    for path in pending:
        row, record = msgpack.unpackb(path.read_bytes())
        path.write_bytes(msgpack.packb([{**row, "reason": "marked"}, record]))
    before = set(store.glob("shards/[0-9a-f]*"))
    folder = run.prepare(clips[1:], settings_of(tmp_path), group=GROUP)
    rows = {row.key: row for row in read_rows(folder / MANIFEST)}
    assert [rows[path.name].reason for path in pending if path.name in rows] == ["marked"] * len(pending)
    assert before <= set(store.glob("shards/[0-9a-f]*"))
    new = [row.key for shard in set(store.glob("shards/*")) - before for row in read_rows(shard / "rows.jsonl")]
    assert set(new) == set(rows) - kept


def group_of(number: int) -> list[list[str]]:
    """State, parent and group of each process of a group."""
    stats = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text().rpartition(")")[2].split()[:3])
    return [stat for stat in stats if stat[2] == str(number)]


@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_ends_in_one_line_and_keeps_what_is_done(sample_corpus, tmp_path, begun):
    # Not as the sample corpus, of which the command would first make the other clips.
    command = [sys.executable, "launch.py", "--config=configs/ravdess.py", "--mode=prepare"]
    command += ["--config.prepare.detector=centerface"]
    command += [f"--config.data.root={sample_corpus}", f"--config.run.cache={tmp_path}", "--config.run.workers=2"]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    # The workers are starting, or one has finished a clip.
    while not list(tmp_path.glob("*/pending/[0-9a-f]*" if begun else "*/pending")):
        assert process.poll() is None
        time.sleep(0.01)
    if not begun:
        time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    asked = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - asked < 2
    assert process.returncode == 130
    assert "Traceback" not in errors
    *bars, line = errors.splitlines()
    assert all(bar.startswith("preparing:") for bar in bars), errors
    assert line.startswith("stopped by SIGINT: ")
    assert line.endswith(shlex.join(["python", *command[1:]]))
    while living := [stat for stat in group_of(process.pid) if stat[0] != "Z"]:
        assert time.monotonic() - asked < 2, living
        time.sleep(0.02)
    assert bool(list(tmp_path.glob("*/pending/[0-9a-f]*"))) == begun
