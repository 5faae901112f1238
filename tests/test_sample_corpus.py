"""The sample corpus is made once, whoever asks for it, and holds what its script says."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from conftest import ROOT
from fusion_emotion.corpora import ravdess, sample
from fusion_emotion.corpora.sample import script
from fusion_emotion.corpora.walk import find_all
from fusion_emotion.errors import UserError
from fusion_emotion.prepare.detectors import CenterFace

SEED = 0  # of the fixture sample_corpus


@pytest.fixture
def copied(sample_corpus, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(sample_corpus, tmp_path / "copied"))


@pytest.fixture
def recorded(monkeypatch) -> list[dict[int, list[str]]]:
    """The clips of each call; files of a few bytes are made instead."""
    calls = []

    def record(root, missing, *, seed, workers):
        calls.append(missing)
        for actor, names in missing.items():
            (root / f"Actor_{actor:02d}").mkdir(exist_ok=True)
            for name in names:
                (root / f"Actor_{actor:02d}" / name).write_text(str(seed))

    monkeypatch.setattr(sample, "_record", record)
    return calls


def clip(root: pathlib.Path, actor: int, emotion: str, statement: int) -> pathlib.Path:
    return root / f"Actor_{actor:02d}" / script.Take(actor, emotion, statement).file_name


def pictures(path: pathlib.Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: pathlib.Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def files(root: pathlib.Path) -> dict[str, int]:
    """The times of change of all files but the lock."""
    paths = [path for path in root.rglob("*.*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in paths}


def test_the_reader_of_ravdess_finds_every_clip(sample_corpus):
    found = find_all(sample_corpus, functools.partial(ravdess.parse_name, corpus="sample"))
    clips = found.clips
    assert not found.passed_over
    assert len(clips) == 2 * 8 * 2
    assert {(clip.speaker, clip.sex) for clip in clips} == {("sample/01", "male"), ("sample/02", "female")}
    assert {clip.emotion for clip in clips} == set(ravdess.LABEL_NAMES)
    assert all(clip.path.parent.name == f"Actor_{clip.speaker[-2:]}" for clip in clips)
    assert json.loads((sample_corpus / "sample.json").read_text())["seed"] == SEED


def test_every_clip_is_two_to_three_seconds_of_picture_and_sound(sample_corpus):
    for path in sorted(sample_corpus.rglob("*.mp4")):
        with av.open(str(path)) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, video.average_rate) == (640, 360, 25)
            assert 50 <= video.frames <= 75
            assert audio.rate == 48_000
            assert abs(audio.duration * audio.time_base - video.duration * video.time_base) < 0.05
        assert path.stat().st_size < 200_000


def test_a_second_call_touches_nothing(sample_corpus):
    before = files(sample_corpus)
    sample.make_corpus(sample_corpus, seed=SEED, actors=2, workers=2)
    assert files(sample_corpus) == before


MAKER = """
import pathlib, sys, time
from fusion_emotion.corpora import sample

def record(root, missing, *, seed, workers):
    (root / "begun").touch()
    while missing and not (root / "go").exists():
        time.sleep(0.02)
    for actor, names in missing.items():
        (root / f"Actor_{actor:02d}").mkdir()
        for name in names:
            (root / f"Actor_{actor:02d}" / name).write_text(sys.argv[2])

sample._record = record
sample.make_corpus(pathlib.Path(sys.argv[1]), seed=0, actors=2, workers=1)
"""


def test_a_second_process_says_for_whom_it_waits_and_makes_nothing_again(tmp_path):
    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-c", MAKER, str(tmp_path / "corpus"), name]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    first = start("first")
    while not (tmp_path / "corpus" / "begun").exists():
        assert first.poll() is None
        time.sleep(0.02)
    second = start("second")
    assert f"process {first.pid}" in second.stdout.readline()
    assert second.poll() is None
    (tmp_path / "corpus" / "go").touch()
    assert (first.communicate(timeout=30), second.communicate(timeout=30)) == (("", None), ("", None))
    assert (first.returncode, second.returncode) == (0, 0)
    assert {path.read_text() for path in (tmp_path / "corpus").rglob("*.mp4")} == {"first"}


def test_only_the_missing_clip_is_made_and_is_the_same_again(copied):
    lost = clip(copied, 2, "sad", 1)
    bytes_before = lost.read_bytes()
    leftover = lost.with_name(script.unfinished(lost.name))
    lost.rename(leftover)
    leftover.write_bytes(bytes_before[:1000])
    before = files(copied)
    sample.make_corpus(copied, seed=SEED, actors=2, workers=1)
    after = files(copied)
    assert set(after) - set(before) == {str(lost.relative_to(copied))}
    assert set(before) - set(after) == {str(leftover.relative_to(copied))}
    assert all(after[name] == before[name] for name in after if name in before)
    assert lost.read_bytes() == bytes_before


def test_another_seed_makes_another_clip(sample_corpus, tmp_path):
    name = clip(sample_corpus, 1, "angry", 0).name
    make = f"studio.make_actor(pathlib.Path({str(tmp_path)!r}), 1, [{name!r}], seed={SEED + 1})"
    code = f"import pathlib; from fusion_emotion.corpora.sample import studio; {make}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    ours, others = pictures(clip(sample_corpus, 1, "angry", 0)), pictures(tmp_path / name)
    assert np.abs(ours[0].astype(int) - others[0]).mean() > 5


def test_an_interrupted_making_goes_on_where_it_stopped(tmp_path, recorded, monkeypatch):
    root = tmp_path / "corpus"

    def stop(root, missing, *, seed, workers):
        clip(root, 1, "calm", 0).parent.mkdir()
        clip(root, 1, "calm", 0).write_text("whole")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sample, "_record", stop)
        with pytest.raises(KeyboardInterrupt):
            sample.make_corpus(root, seed=0, actors=2, workers=1)
    assert not (root / "sample.json").exists()
    sample.make_corpus(root, seed=0, actors=2, workers=1)
    assert [len(names) for names in recorded[0].values()] == [15, 16]
    assert clip(root, 1, "calm", 0).read_text() == "whole"
    assert (root / "sample.json").exists()


@pytest.mark.parametrize("change", ["seed", "version", "interrupted"])
def test_another_recipe_makes_way_for_the_new_one(tmp_path, recorded, monkeypatch, change):
    root = tmp_path / "corpus"
    sample.make_corpus(root, seed=0, actors=3, workers=1)
    (root / "Actor_01" / "notes.txt").write_text("mine")
    if change == "interrupted":
        (root / "sample.json").rename(root / "sample.begun.json")
        clip(root, 3, "sad", 0).rename(
            clip(root, 3, "sad", 0).with_name(script.unfinished(clip(root, 3, "sad", 0).name))
        )
    if change == "version":
        monkeypatch.setattr(sample, "CORPUS_VERSION", sample.CORPUS_VERSION + 1)
    seed = 1 if change in ("seed", "interrupted") else 0
    sample.make_corpus(root, seed=seed, actors=2, workers=1)
    assert len(recorded) == 2
    assert sum(map(len, recorded[1].values())) == 32
    assert not (root / "Actor_03").exists()
    assert not list(root.rglob("*.partial"))
    assert clip(root, 1, "calm", 0).read_text() == str(seed)
    assert (root / "Actor_01" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["holiday.mp4", "Actor_01/01-01-01-01-01-01-01.mp4"])
def test_a_folder_of_something_else_is_left_alone(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=name.split("/")[0]):
        sample.make_corpus(tmp_path, seed=0, actors=2, workers=1)
    assert files(tmp_path).keys() == {name}


def test_neither_modality_tells_all_emotions_and_both_together_do():
    faces = [script.EXPRESSION_OF[name] for name in ravdess.LABEL_NAMES]
    voices = [script.PROSODY_OF[name] for name in ravdess.LABEL_NAMES]
    assert len(set(faces)) == len(script.EXPRESSIONS) == 5
    assert len(set(voices)) == len(script.PROSODIES) == 5
    assert len(set(zip(faces, voices, strict=True))) == 8


def test_one_face_in_every_frame_and_none_for_a_second_where_the_script_says_so(sample_corpus):
    detector = CenterFace(sizes=(320, 640), threshold=0.5, providers=["CPUExecutionProvider"])
    away_clip = clip(sample_corpus, *next(key for key in script.NO_FACE if key[0] == 1))
    for path in sorted(sample_corpus.rglob("*-01-02-01-0?.mp4")):
        frames = pictures(path)[:: 5 if path == away_clip else 20]
        counts = np.array([len(detector(frame).box) for frame in frames])
        if path == away_clip:
            (away,) = np.nonzero(counts == 0)
            assert len(away) >= 5
            assert (np.diff(away) == 1).all()
            assert counts[0] == counts[-1] == 1
        else:
            assert (counts == 1).all(), path.name


def test_the_silent_clip_is_silent_and_no_other(sample_corpus):
    silent = clip(sample_corpus, *next(key for key in script.NO_SOUND if key[0] == 2))
    assert [path for path in sorted(sample_corpus.rglob("*.mp4")) if np.abs(sound(path)).max() < 1e-4] == [silent]
