"""A model of voices and a model of faces that judge together."""

import dataclasses
import importlib.resources
import json

import cv2
import numpy as np
import pytest

import predict_kit
from films import OneFace, ffmpeg, film
from fusion_emotion import Recognizer, commands
from fusion_emotion import config as config_
from fusion_emotion.corpora import labels
from fusion_emotion.errors import UserError
from fusion_emotion.models.weights import load_model
from fusion_emotion.predict.joint import Joint
from fusion_emotion.predict.on_films import OnFilms, judge_of_films
from fusion_emotion.predict.people import Look
from fusion_emotion.predict.prediction import softmax
from fusion_emotion.predict.recognizer import find
from fusion_emotion.predict.windows import Model, Noted, example, windows

FACE_LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgust", "surprised", "contempt")
BASIC7 = labels.parse("basic7").names
SHARES = (0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.1, 0.05)
N_FRAMES, SIDE = 5, 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The workdirs of a model of voices and of one of faces, with random weights."""
    root = tmp_path_factory.mktemp("models")
    numbers = {**predict_kit.ABOUT["numbers"], "uar": 0.75, "speakers": 0}
    face = {**predict_kit.ABOUT, "label_names": FACE_LABELS, "modalities": "video", "temperature": 2.0}
    face |= {"trained_on": "pictures", "numbers": numbers, "training": {"label_shares": SHARES}}
    voice = {**predict_kit.ABOUT, "modalities": "audio"}
    return (
        predict_kit.model(root / "voice", about=voice, model__modalities="audio"),
        predict_kit.model(
            root / "face",
            about=face,
            model__modalities="video",
            model__strip_network="face",
            segment__seconds=0.2,
            segment__hop_s=0.2,
        ),
    )


@pytest.fixture(scope="module")
def models(folders):
    return tuple(Model(load_model(folder), batch_size=4) for folder in folders)


def faces_and_sound(seed=0):
    random = np.random.default_rng(seed)
    faces = random.integers(0, 256, (N_FRAMES, SIDE, SIDE, 3), np.uint8)
    return faces, (3000 * random.standard_normal(16_000)).astype(np.int16)


def by_hand(probability, names):
    """The probabilities of `BASIC7` from those of a model's labels: calm is neutral, contempt has no place."""
    places = {"calm": "neutral"}
    sums = dict.fromkeys(BASIC7, 0.0)
    for name, value in zip(names, probability, strict=True):
        if name != "contempt":
            sums[places.get(name, name)] += float(value)
    values = np.array(list(sums.values()))
    return values / values.sum()


def on_films(log_prob, temperature, shares=SHARES):
    """The probabilities of a face on a film, by their definition."""
    weights = (np.exp(log_prob) / np.array(shares)) ** (1 / temperature)
    return weights / weights.sum(axis=-1, keepdims=True)


def test_the_sum_of_calibrated_log_probabilities_by_the_share_of_faces(models):
    voice, face = models
    joint = Joint(voice, OnFilms(face.loaded, temperature=1.6, batch_size=4), face_weight=0.5)
    crops, sound = faces_and_sound()
    found = np.array([True, False, True, True, False])
    seen, nothing = (crops, found), np.zeros(0, np.int16)
    told = joint(
        [
            example(joint, seen, sound, N_FRAMES),
            example(joint, seen, nothing, N_FRAMES),
            example(joint, None, sound, N_FRAMES),
        ]
    )
    heard = by_hand(softmax(voice([example(voice, None, sound, N_FRAMES)])[0] / 0.5), voice.label_names)
    alone = [
        by_hand(on_films(face([example(face, (crop[None], np.ones(1, bool)), nothing, 1)])[0], 1.6), FACE_LABELS)
        for crop in crops[found]
    ]
    looked = np.log(alone).mean(axis=0)
    np.testing.assert_allclose(softmax(told[0]), softmax(np.log(heard) + 0.5 * 0.6 * looked), atol=1e-5)
    np.testing.assert_allclose(softmax(told[1]), softmax(looked), atol=1e-5)
    np.testing.assert_allclose(softmax(told[2]), heard, atol=1e-5)
    assert joint.label_names == BASIC7
    assert joint([]).shape == (0, 7)


def test_a_face_is_judged_once_and_forgotten(models, monkeypatch):
    voice, face = models
    joint = Joint(voice, face, face_weight=1.0)
    crops, sound = faces_and_sound()
    judged = []
    judge = Model.__call__
    monkeypatch.setattr(Model, "__call__", lambda self, examples: judged.append(len(examples)) or judge(self, examples))
    both = example(joint, (crops, np.ones(N_FRAMES, bool)), sound, N_FRAMES)
    first, again = joint([both, both]), joint([both])
    assert judged == [1, N_FRAMES, 1, 0]  # the voice, then the new faces
    np.testing.assert_array_equal(first[0], again[0])
    joint([example(joint, None, sound, N_FRAMES)])
    joint([both])
    assert judged[-1] == N_FRAMES


def test_models_of_the_same_labels_keep_them(models):
    voice, face = models
    face.label_names = voice.label_names
    try:
        assert Joint(voice, face, face_weight=1.0).label_names == voice.label_names
    finally:
        face.label_names = FACE_LABELS


def test_models_that_do_not_fit(models, monkeypatch):
    voice, face = models
    for pair in ((face, voice), (voice, voice)):
        with pytest.raises(UserError, match="the first hears only, and the second sees single faces only"):
            Joint(*pair, face_weight=1.0)
    monkeypatch.setattr(face, "label_names", ("happy", "sad"))
    with pytest.raises(UserError, match=r"says happy, sad cannot judge with another: it lacks neutral"):
        Joint(voice, face, face_weight=1.0)


def test_a_film_by_both(folders, tmp_path, monkeypatch):
    name = "+".join(map(str, folders))
    recognizer = Recognizer.load(name)
    recognizer._detector = OneFace()
    clip = film(
        tmp_path / "a.mp4", seconds=3, picture=lambda time: np.full((120, 160, 3), 90 if time < 1.39 else 0, np.uint8)
    )
    monkeypatch.setattr("fusion_emotion.predict.windows._LEAST_SPEECH", 1.1)
    assert set(recognizer(clip).main.modalities) == {"video", "none"}  # sound without speech does not count
    monkeypatch.setattr("fusion_emotion.predict.windows._LEAST_SPEECH", 0.0)
    monkeypatch.setattr("fusion_emotion.predict.windows._LEAST_SPEECH", 1.1)
    with pytest.raises(UserError, match="nothing to read: no picture track; hardly any speech in the sound"):
        recognizer(ffmpeg(clip, tmp_path / "a.wav", "-vn"))
    monkeypatch.setattr("fusion_emotion.predict.windows._LEAST_SPEECH", 0.0)
    told = recognizer(clip)
    assert set(told.main.modalities) == {"audio+video", "audio"}
    assert told.label_names == BASIC7
    np.testing.assert_allclose(told.main.probability.sum(axis=1), 1, rtol=1e-6)
    assert "of people who are not named of pictures the model of the face had 75.0% UAR" in told.notice
    assert "On 32 clips of 2 people it had not met of a corpus of tests the model of the voice had 50.0%" in told.notice
    assert "The two together were not measured" in told.notice
    told.save(tmp_path, formats=("json",))
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["model"]["parts"]["face"]["numbers"]["uar"] == 0.75
    with pytest.raises(UserError, match="export each by itself"):
        commands.export(config_.defaults().to_dict(), given="a.mp4", model=name, output=tmp_path / "a.onnx")


def test_a_face_on_a_film_and_on_a_picture(folders, models, tmp_path):
    """A picture is judged after the temperature of the training, a film more softly, and over the shares of labels."""
    grey = np.tile(np.arange(160, dtype=np.uint8)[None, :, None], (120, 1, 3))
    still, clip = tmp_path / "a.png", film(tmp_path / "a.mp4", seconds=1, picture=lambda time: grey)
    cv2.imwrite(str(still), grey)
    recognizer = Recognizer.load(folders[1], film_temperature=3.0)
    recognizer._detector = OneFace()
    given = Noted(models[1])
    recognizer._of_pictures = given
    of_picture = recognizer(still).main.mean
    log_prob = models[1](given.given)[0]
    np.testing.assert_allclose(of_picture, softmax(log_prob / 2.0), atol=1e-5)
    np.testing.assert_allclose(recognizer(clip).main.mean, on_films(log_prob, 3.0), atol=0.01)  # it is compressed
    assert np.abs(of_picture - on_films(log_prob, 3.0)).max() > 0.03


def test_a_label_that_training_lacked_is_never_said_of_films(models):
    crops, _ = faces_and_sound()
    shares = (*SHARES[:-1], 0.0)
    given = [example(models[1], (crop[None], np.ones(1, bool)), np.zeros(0, np.int16), 1) for crop in crops]
    loaded = dataclasses.replace(models[1].loaded, about={**models[1].about, "training": {"label_shares": shares}})
    lacking = np.exp(OnFilms(loaded, temperature=2.0, batch_size=4)(given))
    known = on_films(models[1](given)[:, :7], 2.0, SHARES[:7])
    np.testing.assert_allclose(lacking[:, :7], known, atol=1e-5)
    assert lacking[:, 7].max() < 1e-9


@pytest.mark.parametrize(("training", "is_other"), [({}, True), ({"of_pictures": False}, False)])
def test_only_a_model_of_pictures_judges_films_otherwise(models, training, is_other):
    loaded = dataclasses.replace(models[1].loaded, about={**models[1].about, "training": training})
    assert isinstance(judge_of_films(Model(loaded), temperature=2.0), OnFilms) == is_other
    assert not isinstance(judge_of_films(models[0], temperature=2.0, joined=True), OnFilms)
    crop = example(models[1], (faces_and_sound()[0][:1], np.ones(1, bool)), np.zeros(0, np.int16), 1)
    about = {**loaded.about, "training": {**training, "label_shares": SHARES}}
    joined = judge_of_films(Model(dataclasses.replace(loaded, about=about)), temperature=3.0, joined=True)
    expected = on_films(models[1]([crop])[0], 3.0 if is_other else 2.0)  # its own temperature is 2
    np.testing.assert_allclose(np.exp(joined([crop])[0]), expected, atol=1e-5)


@pytest.fixture(scope="module")
def of_three_seconds(tmp_path_factory):
    """A model of the voice in 3 s, with random weights."""
    about = {**predict_kit.ABOUT, "modalities": "audio"}
    longer = {"segment__seconds": 3.0, "segment__hop_s": 3.0, "model__modalities": "audio"}
    return predict_kit.model(tmp_path_factory.mktemp("longer"), about=about, **longer)


def test_a_voice_is_heard_around_each_second(of_three_seconds):
    """Five frames before a window and five after it, as far as the recording goes; it is asked once a second."""
    model = Model(load_model(of_three_seconds), batch_size=4)
    assert (model.n_frames, model.n_heard) == (5, 15)
    n_steps = 23
    sound = (3000 * np.random.default_rng(1).standard_normal(n_steps * 3200)).astype(np.int16)
    looks = [Look(sound[3200 * step : 3200 * (step + 1)], {}) for step in range(n_steps)]
    told = [window for block in windows(iter(looks), model) for window in block]
    assert [window.step for window in told] == list(range(n_steps - 4))
    assert {window.n_frames for window in told} == {5}
    for step in (0, 3, 9, n_steps - 5):
        middle = step - step % 5
        around = sound[3200 * max(0, middle - 5) : 3200 * (middle + 10)]
        np.testing.assert_allclose(told[step].voice, model([example(model, None, around, 5)])[0], atol=1e-4)
    rest = [window for block in windows(iter(looks[4:]), model, first=4, skip=12) for window in block]
    assert [window.step for window in rest] == [window.step for window in told[12:]]
    for again, before in zip(rest, told[12:], strict=True):
        np.testing.assert_allclose(again.voice, before.voice, atol=1e-4)
    [short] = [window for block in windows(iter(looks[:3]), model) for window in block]
    assert (short.step, short.n_frames) == (0, 3)
    np.testing.assert_allclose(short.voice, model([example(model, None, sound[:9600], 3)])[0], atol=1e-4)


def test_a_live_voice_is_judged_from_the_first_second_on(of_three_seconds, tmp_path):
    path = film(tmp_path / "a.mp4", seconds=2)
    told = list(Recognizer.load(of_three_seconds).stream(f"lavfi:amovie={path},arealtime"))
    assert told[0].end == pytest.approx(1)
    assert [moment.modalities for moment in told] == ["audio"] * len(told)
    assert len(told) >= 4


def test_names_of_two(folders, tmp_path, monkeypatch):
    voice, face = folders
    assert find(f"{voice}+{face}") == (voice / "model", face / "model")
    with pytest.raises(UserError, match=r"--model=nowhere is unknown"):
        find(f"{voice}+nowhere")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    (tmp_path / "released" / "voice-base").mkdir(parents=True)
    with pytest.raises(UserError, match=r"--model=av-base is unknown.*one of voice-base\)"):
        find("av-base")
    (tmp_path / "released" / "face-base").mkdir()
    assert find("av-base") == (tmp_path / "released" / "voice-base", tmp_path / "released" / "face-base")
