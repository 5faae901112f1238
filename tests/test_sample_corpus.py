"""The sample corpus: what is made, that it is made once, and that it holds what its script says."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from fusion_emotion.corpora import ravdess, sample
from fusion_emotion.corpora.sample import script
from fusion_emotion.errors import UserError

SEED = 3


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("sample_corpus") / "made"
    sample.make_corpus(root, seed=SEED, actors=2, workers=2)
    return root


@pytest.fixture
def copied(corpus, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(corpus, tmp_path / "copied"))


@pytest.fixture
def recorded(monkeypatch) -> list[dict[int, list[str]]]:
    """What would have been made: the clips are empty files instead."""
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
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound(path: pathlib.Path) -> tuple[np.ndarray, int]:
    import av

    with av.open(str(path)) as container:
        rate_hz = container.streams.audio[0].rate
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]), rate_hz


def files(root: pathlib.Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*.*") if path.is_file()}


def test_the_reader_of_ravdess_finds_every_clip(corpus):
    clips, passed_over = ravdess.find_clips(corpus, corpus="sample")
    assert passed_over == []
    assert len(clips) == 2 * 8 * 2
    assert {(clip.speaker, clip.sex) for clip in clips} == {("01", "male"), ("02", "female")}
    assert {clip.emotion for clip in clips} == set(ravdess.LABEL_NAMES)
    assert all(clip.path.parent.name == f"Actor_{clip.speaker}" for clip in clips)
    assert json.loads((corpus / "sample.json").read_text())["seed"] == SEED


def test_every_clip_is_two_to_three_seconds_of_picture_and_sound(corpus):
    import av

    for path in sorted(corpus.rglob("*.mp4")):
        with av.open(str(path)) as container:
            (video,), (audio,) = container.streams.video, container.streams.audio
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert (video.width, video.height, video.average_rate) == (640, 360, 25)
            assert 50 <= video.frames <= 75
            assert audio.rate == 48_000
            assert abs(audio.duration * audio.time_base - video.duration * video.time_base) < 0.05
        assert path.stat().st_size < 200_000


def test_the_speech_fits_between_the_silences(corpus):
    wave, rate_hz = sound(clip(corpus, 1, "neutral", 0))
    level = np.sqrt(np.mean(wave[: len(wave) // 480 * 480].reshape(-1, 480) ** 2, axis=1))  # of 10 ms
    loud_s = np.flatnonzero(level > 0.1 * level.max()) * 480 / rate_hz
    assert 0.25 < loud_s[0] < 0.5
    assert len(wave) / rate_hz - loud_s[-1] > 0.1
    assert loud_s[-1] - loud_s[0] > 1
    assert 0 < level[:20].max() < 0.02  # a noise floor


def test_a_second_call_touches_nothing(corpus):
    before = files(corpus)
    sample.make_corpus(corpus, seed=SEED, actors=2, workers=2)
    assert files(corpus) == before


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


def test_another_seed_makes_another_clip(corpus, tmp_path):
    name = clip(corpus, 1, "angry", 0).name
    make = f"studio.make_actor(pathlib.Path({str(tmp_path)!r}), 1, [{name!r}], seed={SEED + 1})"
    code = f"import pathlib; from fusion_emotion.corpora.sample import studio; {make}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    ours, others = pictures(clip(corpus, 1, "angry", 0)), pictures(tmp_path / name)
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


@pytest.mark.parametrize("change", ["seed", "version", "fewer actors", "interrupted"])
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
    with pytest.raises(UserError, match=rf"{tmp_path} holds {name.split('/')[0]}"):
        sample.make_corpus(tmp_path, seed=0, actors=2, workers=1)
    assert files(tmp_path).keys() == {name}


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "corpus").touch()
    with pytest.raises(UserError, match=f"{tmp_path / 'corpus'} cannot be made a folder"):
        sample.make_corpus(tmp_path / "corpus", seed=0, actors=2, workers=1)


@pytest.mark.parametrize(("field", "value"), [("actors", 1), ("actors", 25), ("seed", -1), ("workers", 0)])
def test_wrong_arguments_are_named(tmp_path, field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        sample.make_corpus(tmp_path / "corpus", **{"seed": 0, "workers": 1, field: value})
    assert not (tmp_path / "corpus").exists()


def test_the_import_is_light():
    code = "import sys, fusion_emotion.corpora.sample; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert "fusion_emotion.corpora.sample.script" in loaded.split()
    assert not {"cv2", "av", "skimage", "scipy", "espeakng_loader", "jax"} & set(loaded.split())


def test_neither_modality_tells_all_emotions_and_both_together_do():
    faces = [script.EXPRESSION_OF[name] for name in ravdess.LABEL_NAMES]
    voices = [script.PROSODY_OF[name] for name in ravdess.LABEL_NAMES]
    assert len(set(faces)) == len(script.EXPRESSIONS) == 5
    assert len(set(voices)) == len(script.PROSODIES) == 5
    assert len(set(zip(faces, voices, strict=True))) == 8


def test_every_small_corpus_has_a_clip_of_each_trouble():
    for troubles in (script.NO_FACE, script.NO_SOUND):
        assert len(troubles) == 2
        assert min(actor for actor, _, _ in troubles) <= 2
    assert len({actor for actor, _, _ in script.NO_FACE | script.NO_SOUND}) == 4


def test_one_face_in_every_frame_and_none_for_a_second_where_the_script_says_so(corpus):
    from fusion_emotion.prepare.detectors import CenterFace

    detector = CenterFace(sizes=(320, 640), threshold=0.5, providers=["CPUExecutionProvider"])
    for path in sorted(corpus.rglob("*-01-02-01-0?.mp4")):
        counts = np.array([len(detector(frame).box) for frame in pictures(path)[::5]])
        if path == clip(corpus, *next(key for key in script.NO_FACE if key[0] == 1)):
            (away,) = np.nonzero(counts == 0)
            assert len(away) >= 5
            assert (np.diff(away) == 1).all()
            assert counts[0] == counts[-1] == 1
        else:
            assert (counts == 1).all(), path.name


def test_the_silent_clip_is_silent_and_no_other(corpus):
    silent = clip(corpus, *next(key for key in script.NO_SOUND if key[0] == 2))
    assert [path for path in sorted(corpus.rglob("*.mp4")) if np.abs(sound(path)[0]).max() < 1e-4] == [silent]


def test_expressions_differ_more_than_takes_of_one(corpus):
    from fusion_emotion.corpora.sample import heads, looks

    head = heads.Head(looks.look_of(2, seed=SEED))
    rest = np.zeros(3, np.float32)
    drawn = {}
    for name, expression in script.EXPRESSIONS.items():
        weights = np.array([expression.get(unit, 0.0) for unit in heads.UNITS], np.float32)
        drawn[name] = head.frame(weights, rest).astype(int), head.frame(0.8 * weights, rest).astype(int)
    for name, (strong, weak) in drawn.items():
        for other, (their_strong, _) in drawn.items():
            if other != name:
                assert np.abs(strong - their_strong).sum() > 2 * np.abs(strong - weak).sum(), (name, other)


def test_no_warp_folds():
    from fusion_emotion.corpora.sample import heads, looks

    for actor in (1, 2):
        head = heads.Head(looks.look_of(actor, seed=SEED))
        for name, expression in script.EXPRESSIONS.items():
            weights = 1.2 * np.array([expression.get(unit, 0.0) for unit in heads._UNITS], np.float32)
            read = head._face_grid - (weights @ head._fields).reshape(head._face_grid.shape)
            (dy_x, dx_x), (dy_y, dx_y) = (np.gradient(read[..., axis]) for axis in (0, 1))
            assert (dx_x * dy_y - dy_x * dx_y).min() > 0.05, name
