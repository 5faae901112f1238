"""Preparation that is killed or started twice: nothing is lost, half-written or there twice."""

import dataclasses
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import time

import msgpack
import pytest

from conftest import clips_of, settings_of
from films import contents, sounds, start_preparation
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import groups, run
from fusion_emotion.prepare.records import MANIFEST, decode, read_rows

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
        folder = next(tmp_path.glob("sample-*"))
        (folder / MANIFEST).unlink()
        for shard in sorted((folder / "shards").iterdir())[kills % 3 :]:
            shard.unlink()
    assert contents(next(tmp_path.glob("sample-*"))) == contents(reference)


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
    group = groups.Group(0, 0, sounds(tmp_path, 4))
    groups.set_out(tmp_path)
    finishing = groups.finish(tmp_path, groups.unfinished(tmp_path, group), settings_of(tmp_path), workers=1)
    next(finishing)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSEGV)
    assert len(list(finishing)) == 3
    groups.close(tmp_path, group)
    groups.join(tmp_path, 1)
    rows, records = contents(tmp_path)
    assert ["signal 11" in row.reason for row in rows] == [False, True, False, False]
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
    assert not list(reference.glob("pending/*"))


def test_the_cache_folder_depends_on_the_files_and_the_settings_but_not_on_the_workers(tmp_path):
    files = [("01-01-01-01-01-01-01.mp4", 100)]
    settings = settings_of(tmp_path)
    folder = settings.cache_folder("sample", files)
    assert dataclasses.replace(settings, workers=7).cache_folder("sample", files) == folder
    assert dataclasses.replace(settings, margin=0.3).cache_folder("sample", files) != folder
    assert settings.cache_folder("sample", [(files[0][0], 101)]) != folder
