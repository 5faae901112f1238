"""Preparation killed, crowded out or sabotaged: nothing is lost, half-written or there twice."""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import grain
import msgpack
import pytest

from conftest import ROOT, settings_of
from fusion_emotion import corpora
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import run
from fusion_emotion.prepare.records import MANIFEST, decode, read_rows, shard_paths

DRIVER = """
import pathlib, sys
from fusion_emotion import corpora
from fusion_emotion.prepare import run
from fusion_emotion.prepare.settings import Settings

if __name__ == "__main__":
    root, settings = sys.argv[1], eval(sys.argv[2])
    clips, _ = corpora.find_clips("sample", pathlib.Path(root), audio_alone=False, channel="speech")
    run.prepare(clips, settings, group=5)
"""


def start(root: pathlib.Path, settings) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root), repr(settings)],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: pathlib.Path) -> tuple[list, list]:
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))
    return list(read_rows(folder / MANIFEST)), [source[i] for i in range(len(source))]


@pytest.fixture(scope="module")
def reference(sample_corpus, tmp_path_factory):
    """The folder of an uninterrupted run."""
    settings = settings_of(tmp_path_factory.mktemp("reference"))
    clips, _ = corpora.find_clips("sample", sample_corpus, audio_alone=False, channel="speech")
    return run.prepare(clips, settings, group=5)


@pytest.mark.slow
def test_killed_ten_times_it_ends_as_if_never_killed(sample_corpus, tmp_path, reference):
    rng = random.Random(0)
    settings = settings_of(tmp_path)
    kills = 0
    while True:
        process = start(sample_corpus, settings)
        try:
            # Workers need about two seconds to start; kills fall before and after that.
            process.wait(timeout=rng.uniform(0.5, 5.0) if kills < 10 else 300)
        except subprocess.TimeoutExpired:
            # The whole session at once, as a power cut would; now and then the parent alone.
            os.killpg(process.pid, signal.SIGKILL) if kills % 3 else process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0, process.stderr.read()
        if kills >= 10:
            break
        # It was done before the tenth kill: the rest of the kills fall on runs that begin anew.
        folder = next(tmp_path.glob("sample-*"))
        (folder / MANIFEST).unlink()
        for shard in sorted((folder / "shards").iterdir())[kills % 3 :]:
            shard.unlink()
    assert contents(next(tmp_path.glob("sample-*"))) == contents(reference)


def test_what_was_finished_is_not_done_again(sample_corpus, tmp_path):
    settings = settings_of(tmp_path)
    process = start(sample_corpus, settings)
    finished: list[pathlib.Path] = []
    while not finished and process.poll() is None:
        time.sleep(0.02)
        finished = [path for path in tmp_path.glob("sample-*/pending/*") if not path.name.startswith(".")]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # A mark in what is finished is still there at the end, which it would not be if the clip were prepared again.
    marked = next(path for path in finished if path.exists())
    row, record = msgpack.unpackb(marked.read_bytes())
    marked.write_bytes(msgpack.packb([{**row, "reason": "marked"}, record]))
    clips, _ = corpora.find_clips("sample", sample_corpus, audio_alone=False, channel="speech")
    folder = run.prepare(clips, settings, group=5)
    assert [r.clip_id for r in read_rows(folder / MANIFEST) if r.reason == "marked"] == [row["clip_id"]]


def test_a_second_run_on_the_same_folder_says_who_holds_it(sample_corpus, tmp_path):
    settings = settings_of(tmp_path)
    process = start(sample_corpus, settings)
    try:
        while not list(tmp_path.glob("sample-*/pending")):
            time.sleep(0.02)
        clips, _ = corpora.find_clips("sample", sample_corpus, audio_alone=False, channel="speech")
        with pytest.raises(UserError, match=f"being prepared by process {process.pid}"):
            run.prepare(clips, settings, group=5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_every_clip_is_once_in_the_manifest_and_its_record_is_its_own(reference, sample_corpus):
    rows, records = contents(reference)
    clips, _ = corpora.find_clips("sample", sample_corpus, audio_alone=False, channel="speech")
    assert [row.clip_id for row in rows] == [clip.clip_id for clip in clips]
    usable = [row for row in rows if row.status == "ok"]
    assert [row.record for row in usable] == list(range(len(records)))
    for row in usable:
        record = decode(records[row.record])
        assert (record.clip_id, record.label, len(record.faces), len(record.waveform)) == (
            *(row.clip_id, row.label, row.n_frames, row.n_samples),
        )
    assert not list(reference.glob("pending/*"))


def test_other_settings_have_another_folder_and_the_number_of_workers_has_not(tmp_path):
    files = [("01-01-01-01-01-01-01.mp4", 100)]
    settings = settings_of(tmp_path)
    folder = settings.cache_folder("sample", files)
    assert dataclasses.replace(settings, workers=7).cache_folder("sample", files) == folder
    assert dataclasses.replace(settings, margin=0.3).cache_folder("sample", files) != folder
    assert settings.cache_folder("sample", [(files[0][0], 101)]) != folder
