"""A last layer for films, fitted to clips of people and measured on others."""

import dataclasses
import json
import pathlib

import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy

import predict_kit
import tiny
from films import OneFace, film
from fusion_emotion import Recognizer
from fusion_emotion.corpora.ravdess import LABEL_NAMES
from fusion_emotion.errors import UserError
from fusion_emotion.experiments.films import Clips, config_for, fitted, log_prob, release_head
from fusion_emotion.input.data import Data
from fusion_emotion.models.films import own_head
from fusion_emotion.models.weights import Head, load_model
from fusion_emotion.predict.on_films import OnFilms
from fusion_emotion.predict.windows import example
from launch_kit import launch, refused
from run_tiny import settings

ZERO = Head(np.zeros((4, 3)), np.zeros(3))


def clips(n: int = 60) -> Clips:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n, 4))
    labels = 1 * (features[:, 0] > 0) + (features[:, 1] + 0.5 * rng.standard_normal(n) > 0)
    return Clips(range(n), features, labels, ["ann"] * (n // 3) + ["bob"] * (n - n // 3))


def test_the_fit_is_scikit_learns_where_people_weigh_alike():
    linear_model = pytest.importorskip("sklearn.linear_model")
    data = clips()
    weight = np.where(np.array(data.speakers) == "ann", 1 / 40, 1 / 80)  # half of all for each
    # The bias is drawn to its start, too: it is the coefficient of a feature of one.
    with_one = np.hstack([data.features, np.ones((60, 1))])
    peer = linear_model.LogisticRegression(C=1 / (2 * 0.05), fit_intercept=False, tol=1e-10, max_iter=10_000)
    expected = peer.fit(with_one, data.labels, sample_weight=weight).coef_.T
    head = fitted(data, ZERO, strength=0.05)
    np.testing.assert_allclose(np.vstack([head.kernel, head.bias]), expected, atol=1e-4)


def test_a_strong_pull_keeps_the_head_and_more_clips_of_one_person_weigh_no_more():
    data = clips()
    start = Head(np.arange(12.0).reshape(4, 3) / 10, np.array([0.3, 0.0, -0.2]))
    np.testing.assert_allclose(fitted(data, start, strength=1e6).kernel, start.kernel, atol=1e-4)
    bobs = np.array(data.speakers) == "bob"
    twice = Clips(
        range(100),
        np.vstack([data.features, data.features[bobs]]),
        np.concatenate([data.labels, data.labels[bobs]]),
        [*data.speakers, *["bob"] * bobs.sum()],
    )
    np.testing.assert_allclose(
        fitted(twice, start, strength=1.0).kernel, fitted(data, start, strength=1.0).kernel, atol=1e-4
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pathlib.Path:
    """A model of faces with random weights, as trained on pictures."""
    shares = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    about = {**predict_kit.ABOUT, "modalities": "video", "training": {"label_shares": shares, "of_pictures": True}}
    about["numbers"] = {
        **about["numbers"],
        "trained_on_clips": 9,
        "war": 0.5,
        "uar_interval": None,
        "recalls": {},
        "by": {},
    }
    about["numbers"] |= {"ece_after_temperature": None, "commit": "c0ffee"}
    about["numbers"]["protocol"] = {**predict_kit.PROTOCOL, "seeds": [0]}
    about["failures"] = []
    frame = {"segment__seconds": 0.2, "segment__hop_s": 0.2}
    kind = {"model__modalities": "video", "model__strip_network": "face"}
    return predict_kit.model(tmp_path_factory.mktemp("faces"), about=about, **kind, **frame) / "model"


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> pathlib.Path:
    """Prepared films of three people; stripes tell the emotions apart, and the first frame shows no face."""
    x = np.arange(tiny.FACE_SIZE) / tiny.FACE_SIZE
    rng = np.random.default_rng(0)
    records = []
    for record in tiny.records_of(speakers=3, n_frames=4):
        stripes = 110 + 90 * np.sin(2 * np.pi * (1 + 1.5 * LABEL_NAMES.index(record.emotion)) * x)
        faces = stripes[None, None, :, None] + rng.integers(0, 20, record.faces.shape)
        found = np.array([False, True, True, True])
        records.append(dataclasses.replace(record, faces=faces.astype(np.uint8), face_found=found))
    return tiny.write_corpus(tmp_path_factory.mktemp("films"), records)


def test_a_head_is_measured_on_people_it_was_not_fitted_to_and_judges_films(model, films, tmp_path, monkeypatch):
    monkeypatch.setattr("fusion_emotion.experiments.films.STRENGTH", 1e-4)  # random weights have faint features
    config = config_for(settings(data__corpus="ravdess"), model)
    table = release_head(config, films, model, tmp_path / "new")
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["ravdess/01", "ravdess/02", "ravdess/03", "all"]
    before, loaded = load_model(model), load_model(tmp_path / "new")
    for name in ("params", "batch_stats"):  # what judges pictures stays
        jax.tree.map(np.testing.assert_array_equal, loaded.variables[name], before.variables[name])
    about = loaded.about["films"]
    assert about["numbers"]["uar"] > about["before"]["uar"] + 0.3
    assert about["numbers"]["nll"] < about["before"]["nll"]
    assert (about["numbers"]["clips"], about["numbers"]["speakers"], about["numbers"]["chance_uar"]) == (24, 3, 0.125)
    assert f"UAR {100 * about['numbers']['uar']:.1f} %" in (tmp_path / "new" / "README.md").read_text(encoding="utf-8")

    # The mean over a clip's found faces of what the judge of films says, against the layer by hand.
    judge = OnFilms(loaded, temperature=2.0, batch_size=3)
    assert judge.about["licence"] == "CC BY-NC-SA 4.0; CC0"
    assert judge.about["numbers"] == about["numbers"]
    source = Data.open(config, films).source("train")
    known = Clips.of(loaded, source)
    faces = source.record(7).faces[1:]
    given = [example(judge, (face[None], np.ones(1, bool)), np.zeros(0, np.int16), 1) for face in faces]
    mean = judge(given).astype(float).mean(axis=0)
    expected = log_prob(known.features[7:8], loaded.films)[0]
    np.testing.assert_allclose(mean - mean[0], expected - expected[0], atol=1e-3)

    # A film's notice is of its layer, a picture's of the other.
    recognizer = Recognizer.load(tmp_path / "new")
    recognizer._detector = OneFace()
    grey = np.tile(np.arange(160, dtype=np.uint8)[None, :, None], (120, 1, 3))
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    of_film = recognizer(film(tmp_path / "a.mp4", seconds=1, picture=lambda time: grey))
    assert f"On 24 clips of 3 people it had not met of that corpus the model had {about['numbers']['uar']:.1%}" in (
        of_film.notice
    )
    assert of_film.model["licence"] == "CC BY-NC-SA 4.0; CC0"
    of_picture = recognizer(tmp_path / "a.png")
    assert "On 32 clips of 2 people" in of_picture.notice
    assert of_picture.model["licence"] == "CC0"

    release_head(config, films, model, tmp_path / "again")
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (
        tmp_path / "new" / "weights.safetensors"
    ).read_bytes()
    # From a model that has a head already it is the same: the pull is towards the layer of pictures.
    release_head(config, films, tmp_path / "new", tmp_path / "third")
    np.testing.assert_array_equal(load_model(tmp_path / "third").films.kernel, loaded.films.kernel)


def test_the_own_head_is_over_the_shares_and_softer(model):
    loaded = load_model(model)
    own, head = loaded.variables["params"]["Dense_0"], own_head(loaded, temperature=4.0)
    np.testing.assert_allclose(head.kernel * 4, own["kernel"], rtol=1e-6)
    np.testing.assert_allclose(head.bias * 4, own["bias"] - np.log([0.3, *[0.1] * 7]), rtol=1e-5)


def test_what_cannot_have_a_head_for_films(model, films, tmp_path):
    for kind in ({"model__modalities": "audio"}, {"model__modalities": "video", "model__strip_network": "face"}):
        with pytest.raises(UserError, match=r"of single pictures, .*--model"):  # the other is of one second
            config_for(settings(), predict_kit.model(tmp_path / "other", **kind) / "model")
    about = json.loads((model / "model.json").read_text(encoding="utf-8"))
    del about["failures"]
    (tmp_path / "model.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match="has no card yet: first --mode=release"):
        config_for(settings(), tmp_path)
    config = config_for(settings(data__labels="basic7"), model)
    with pytest.raises(UserError, match=r"write the model's out in data\.labels"):
        release_head(config, films, model, tmp_path / "new")
    alone = tiny.write(tmp_path / "alone", speakers=1)
    with pytest.raises(UserError, match="name two or more"):
        release_head(config_for(settings(), model), alone, model, tmp_path / "new")
    unseen = [dataclasses.replace(one, face_found=one.face_found & False) for one in tiny.records_of(speakers=2)]
    hidden = tiny.write_corpus(tmp_path / "hidden", unseen)
    with pytest.raises(UserError, match="no clip shows a face"):
        release_head(config_for(settings(), model), hidden, model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_head_of_another_size_is_refused(model, tmp_path):
    (tmp_path / "model.json").write_bytes((model / "model.json").read_bytes())
    tensors = safetensors.numpy.load_file(model / "weights.safetensors")
    tensors |= {"films/kernel": np.zeros((200, 3), np.float32), "films/bias": np.zeros(3, np.float32)}
    (tmp_path / "weights.safetensors").write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(UserError, match=r"the head for films: bias is float32\[3\], expected float32\[8\]"):
        load_model(tmp_path)


def test_the_command_says_what_it_needs():
    refused(launch("--mode=films", "--config=configs/films.py"), "--mode=films needs", "--model=face-base and --output")
