"""A corpus of a million clips is read and split in seconds and in bounded memory, and is at most 512 files."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from conftest import ROOT, settings_of
from films import sounds
from fusion_emotion.config import defaults
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import run
from fusion_emotion.prepare.records import MANIFEST, read_rows, shard_paths
from fusion_emotion.train import devices

N_CLIPS = 1_000_000
CLIPS_OF_A_SPEAKER = 100
# These run in processes of their own, to measure the memory of this work alone.
PEAK_MB = """
import json, pathlib, re, sys, time
def peak_mb():
    # Not ru_maxrss, which a process inherits from its parent.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024
"""
MEASURED = (
    PEAK_MB
    + """
from fusion_emotion import config
from fusion_emotion.input.segments import Cutting, split_segments, usable_rows

split = {"fold": 0, "n_folds": 5, "test_fraction": 0.2, "validation_fraction": 0.125, "seed": 0}
began = time.process_time()
rows = usable_rows(pathlib.Path(sys.argv[1]), config.defaults().to_dict()).rows
measured = {"read_s": time.process_time() - began, "parts": {}}
for protocol in ("random", "kfold"):
    began = time.process_time()
    parts = split_segments(rows, {**split, "protocol": protocol}, Cutting())
    measured[f"{protocol}_s"] = time.process_time() - began
    measured["parts"][protocol] = {part: (segments.n_clips, len(segments)) for part, segments in parts.items()}
measured["peak_mb"] = peak_mb()
print(json.dumps(measured))
"""
)
TABLE_READ = (
    PEAK_MB
    + """
from fusion_emotion.corpora import catalogue, folder
from fusion_emotion.corpora.corpus import Wanted

began = time.process_time()
wanted = Wanted(audio_alone=True, channel="both", table="labels.csv")
clips = catalogue.find_clips(folder.CORPUS, pathlib.Path(sys.argv[1]), wanted).clips
measured = {"read_s": time.process_time() - began, "peak_mb": peak_mb()}
print(json.dumps({**measured, "clips": len({clip.clip_id for clip in clips})}))
"""
)


def n_frames(clip: int) -> int:
    return 10 + clip % 15


@pytest.fixture
def prepared(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of the manifest of a million clips of 10,000 speakers."""
    tiny.write(tmp_path / "one", speakers=1)
    fields = dataclasses.asdict(next(read_rows(tmp_path / "one" / MANIFEST)))
    del fields["label"]  # which is never written
    names = {"clip_id": "ravdess/01-%07d", "take_id": "ravdess/%07d", "speaker": "ravdess/%05d"}
    line = json.dumps({**fields, **names, "n_frames": "%d", "record": "%d"}).replace('"%d"', "%d") + "\n"
    with (tmp_path / MANIFEST).open("w") as out:
        out.writelines(line % (i, i, i // CLIPS_OF_A_SPEAKER, n_frames(i), i) for i in range(N_CLIPS))
    return tmp_path


@pytest.mark.slow
def test_a_million_clips_are_read_and_split_in_seconds_and_a_gigabyte(prepared: pathlib.Path) -> None:
    command = [sys.executable, "-c", MEASURED, str(prepared)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout)
    print({name: round(value, 1) for name, value in measured.items() if name != "parts"})
    for protocol, parts in measured["parts"].items():
        n_clips, n_windows = np.sum(list(parts.values()), axis=0)
        assert (n_clips, n_windows) == (N_CLIPS, sum(n_frames(i) // 5 for i in range(N_CLIPS)))
        # kfold holds out speakers, who have equal numbers of clips.
        assert {part: clips for part, (clips, _) in parts.items()} == {
            "train": 700_000,
            "validation": 100_000,
            "test": 200_000,
        }, protocol
    assert measured["peak_mb"] < 1_000
    # Several times what a desktop needs.
    assert measured["read_s"] < 60
    assert measured["random_s"] < 60
    assert measured["kfold_s"] < 60


@pytest.mark.slow
def test_a_table_of_a_million_excerpts_is_read_in_a_minute_and_little_memory(tmp_path: pathlib.Path) -> None:
    for number in range(1_000):
        (tmp_path / f"{number}.wav").write_bytes(b"RIFF")
    with (tmp_path / "labels.csv").open("w") as table:
        table.write("path,emotion,speaker,start_s,end_s\n")
        for i in range(N_CLIPS):
            second, file = divmod(i, 1_000)
            table.write(f"{file}.wav,{('angry', 'sad')[i % 2]},{file},{second},{second + 1}\n")
    command = [sys.executable, "-c", TABLE_READ, str(tmp_path)]
    measured = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    print(measured)
    assert measured["clips"] == N_CLIPS
    assert measured["read_s"] < 60  # 28 s on a slow core of an EPYC
    assert measured["peak_mb"] < 1_500


def test_a_large_corpus_has_larger_shards_rather_than_more(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "GROUP", 1)
    monkeypatch.setattr(run, "MOST_SHARDS", 3)
    clips = sounds(tmp_path, 8)
    assert len(shard_paths(run.prepare(clips, settings_of(tmp_path / "many", workers=1)))) == 3  # of 3, 3 and 2
    assert len(shard_paths(run.prepare(clips[:2], settings_of(tmp_path / "few", workers=1)))) == 2


def test_a_batch_larger_than_memory_is_refused():
    config = defaults()
    devices.check_batch_size(config.to_dict())
    config.train.batch_size, config.segment.seconds = 2**16, 60.0  # 367 GB
    with pytest.raises(UserError, match=r"batch_size=65536 .* GB .*lower --config\.train\.batch_size"):
        devices.check_batch_size(config.to_dict())


def test_a_function_that_takes_more_than_memory_is_not_run():
    large = devices.pmapped(lambda x: jnp.sort(jnp.broadcast_to(x, (2**20, 2**20))).sum())  # 4.4 TB
    with pytest.raises(UserError, match=r"GB .*lower --config\.train\.batch_size"):
        devices.compile_for(large, np.zeros((1, 2**20), np.float32))
