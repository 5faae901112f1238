"""Degradations, explanations and features against hand computations, and the analysis of a trained model."""

import dataclasses
import functools
import itertools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import page_kit
import tiny
from fusion_emotion.analyse import analysis, degrade, embeddings, saliency
from fusion_emotion.analyse.degrade import Degraded
from fusion_emotion.evaluate import metrics
from fusion_emotion.evaluate.answers import Answers
from fusion_emotion.evaluate.evaluator import Evaluator
from fusion_emotion.evaluate.results import best
from fusion_emotion.input.batches import Source, evaluation_batches
from fusion_emotion.input.segments import Cutting, segments_of
from fusion_emotion.models.audio_lstm import AudioLSTM
from fusion_emotion.models.cpu_kernels import LSTM, convolution_kernel
from fusion_emotion.models.fusion import FusionNet
from fusion_emotion.models.strip import StripCNN, strip_of
from fusion_emotion.pages.analysis import write_analysis
from fusion_emotion.prepare.records import Record
from fusion_emotion.train import devices
from run_tiny import Tiny

HOP = 256  # of the spectrogram, in samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny", speakers=9, n_frames=15)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network on the test part of a split."""

    job: Tiny
    variables: Any

    @property
    def source(self) -> Degraded:
        source = self.job.data.source("test")
        return Degraded(source.segments, source.records)

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        apply = jax.jit(lambda variables, batch: self.job.model.apply(variables, batch, train=False))
        return np.asarray(apply(self.variables, batch))

    def answers(self, source: Source | None = None) -> Answers:
        evaluator = Evaluator(self.job.model, self.job.data.source("test"), self.job.config)
        return evaluator(devices.replicate(self.variables), source)

    def uar(self, source: Source | None = None) -> float:
        return metrics.uar(self.answers(source).confusion)

    def batch(self, indices: list[int]) -> dict[str, np.ndarray]:
        examples = [self.source.segment(i) for i in indices]
        return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


# Of 9 speakers 2 folds leave 5 to the test part: enough for intervals.
SPLIT = {"split__n_folds": 2, "augment__modality_dropout": 0.3}


@pytest.fixture(scope="module")
def untrained(folder: pathlib.Path) -> Model:
    job = Tiny.of(folder, **SPLIT)
    return Model(job, job.new_state().variables)


@pytest.fixture(scope="module")
def trained(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, pathlib.Path]:
    job, workdir = Tiny.of(folder, train__epochs=24, **SPLIT), tmp_path_factory.mktemp("trained")
    job.train(workdir)
    return Model(job, best(workdir, job.model, job.config).variables), workdir


@pytest.fixture(scope="module")
def analysed(trained: tuple[Model, pathlib.Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    model, workdir = trained
    return analysis.analyse(model.job.model, model.job.data, model.job.config, workdir)


# Degradations


def power(sound: np.ndarray) -> float:
    return float(np.mean(np.square(sound.astype(float))))


def test_babble_has_its_ratio(untrained: Model) -> None:
    source = untrained.source
    for clip, snr_db in itertools.product((0, 7, 20), degrade.SNR_DB):
        clean = source.record(clip)
        # So quiet that nothing is clipped.
        clean = dataclasses.replace(clean, waveform=clean.waveform // 8)
        noise = degrade.babble(clean, source=source, snr_db=snr_db).waveform.astype(int) - clean.waveform
        assert 10 * np.log10(power(clean.waveform) / power(noise)) == pytest.approx(snr_db, abs=0.02)


def test_babble_is_of_other_speakers_and_the_same_each_time(untrained: Model) -> None:
    heard: list[int] = []

    class Listening(Source):
        def record(self, clip: int) -> Record:
            heard.append(clip)
            return super().record(clip)

    plain = untrained.source
    rows = plain.segments.rows
    record = plain.record(9)
    once = degrade.babble(record, source=Listening(plain.segments, plain.records), snr_db=0)
    assert len({*heard}) == degrade.VOICES
    assert all(rows[other].speaker != record.speaker for other in heard)
    np.testing.assert_array_equal(once.waveform, degrade.babble(record, source=plain, snr_db=0).waveform)
    silent = dataclasses.replace(record, waveform=np.zeros_like(record.waveform))
    assert not degrade.babble(silent, source=plain, snr_db=0).waveform.any()


def record_of(faces: np.ndarray) -> Record:
    [record] = page_kit.records_of(1)
    n = len(faces)
    box = np.arange(4 * n, dtype=np.float32).reshape(n, 4)
    return dataclasses.replace(record, faces=faces, face_found=np.arange(n) % 4 != 1, box=box)


def test_fewer_frames_are_repeated() -> None:
    record = record_of(np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3)).astype(np.uint8))
    fewer, shown = degrade.fewer_frames(record, keep_every=3), [0, 0, 0, 3, 3, 3, 6, 6]
    np.testing.assert_array_equal(fewer.faces, record.faces[shown])
    np.testing.assert_array_equal(fewer.face_found, record.face_found[shown])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_band_covers_its_rows_and_no_others(centre: float, height: float) -> None:
    faces = np.random.default_rng(0).integers(0, 100, (2, 20, 20, 3)).astype(np.uint8)
    covered = degrade.cover(record_of(faces), centre=centre, height=height).faces
    changed = (covered != faces).any(axis=(0, 2, 3))
    rows = (np.arange(20) + 0.5) / 20
    # A row whose middle lies on the edge itself may be on either side.
    sure = abs(abs(rows - centre) - height / 2) > 1e-9
    np.testing.assert_array_equal(changed[sure], (abs(rows - centre) < height / 2)[sure])
    assert (covered[:, changed] == covered[:, changed][:1, :1, :1, :1]).all()


def test_blur_spreads_a_point_as_a_gaussian_within_its_own_face() -> None:
    faces = np.zeros((2, 33, 33, 3), np.uint8)
    faces[0, 16, 16] = 255
    blurred = degrade.blur(record_of(faces), sigma_px=2).faces.astype(float)
    assert not blurred[1].any()
    expected = 255 * np.exp(-np.square(np.hypot(*np.mgrid[-16:17, -16:17])) / 8) / (2 * np.pi * 4)
    np.testing.assert_allclose(blurred[0, :, :, 1], expected, atol=0.6)


def test_a_larger_fraction_of_lost_seconds_takes_the_same_and_more(untrained: Model) -> None:
    rows = untrained.source.segments.rows
    lost = {f: np.array(degrade.lost_seconds(rows, fraction=f)) for f in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert not lost[0.0].any()
    assert lost[1.0].all()
    for less, more in zip(lost.values(), [*lost.values()][1:], strict=False):
        assert not (less & ~more).any()
    for fraction, clips in lost.items():
        assert clips.shape == (len(rows), 15)
        assert (clips.reshape(-1, 3, 5) == clips[:, ::5, None]).all()  # whole seconds
        assert clips.mean() == pytest.approx(fraction, abs=0.1)
        assert (abs(clips.mean(axis=1) - fraction) < 1 / 3 + 1e-9).all()


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_segment_loses_a_modality_if_it_keeps_no_second(untrained: Model, seconds: int) -> None:
    plain = untrained.source
    segments = segments_of(plain.segments.rows, Cutting(longest=5 * seconds, hop=5 * seconds, buckets=(5 * seconds,)))
    lost = degrade.lost_seconds(segments.rows, fraction=0.5)
    source = Degraded(segments, plain.records, lost={"audio": lost, "video": lost})
    batch = next(evaluation_batches(source, batch_size=len(segments)))
    clean = next(evaluation_batches(Source(segments, plain.records), batch_size=len(segments)))
    gone = np.array(
        [lost[clip][start : start + 5 * seconds] for clip, start in zip(segments.clip, segments.start, strict=True)]
    )
    for name in ("has_audio", "has_video"):
        np.testing.assert_array_equal(batch[name], ~gone.all(axis=1))
    np.testing.assert_array_equal(batch["face_found"], ~gone)
    np.testing.assert_array_equal(batch["waveform"].reshape(*gone.shape, -1)[gone], 0)
    for name, per_frame in (("waveform", batch["waveform"].reshape(*gone.shape, -1)), ("faces", batch["faces"])):
        np.testing.assert_array_equal(per_frame[~gone], clean[name].reshape(per_frame.shape)[~gone])


# Explanations


def maps_by_hand(variables: Any, faces: np.ndarray) -> jax.Array:
    params, pictures = variables["params"]["video"], ("NHWC", "HWIO", "NHWC")
    stem = params["PatchDense_0"]["patches"]
    x = jax.lax.conv_general_dilated(
        strip_of(jnp.asarray(faces)) / 127.5 - 1,
        convolution_kernel(stem["kernel"], patch=4, stride=2),
        (2, 2),
        [(0, 2), (0, 2)],
        dimension_numbers=pictures,
    )
    x = nn.max_pool(jnp.maximum(x + stem["bias"], 0), (4, 4), (4, 4))
    for i in range(2):
        x = nn.max_pool(x, (2, 2), (2, 2)) if i else x
        layer = params[f"Conv_{i}"]
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=pictures)
        x = jnp.maximum(x + layer["bias"], 0)
    return x


def heard_by_hand(variables: Any, db: jax.Array) -> jax.Array:
    params, stats = variables["params"]["audio"], variables["batch_stats"]["audio"]["BatchNorm_0"]
    k, n = jnp.arange(40)[:, None], jnp.arange(80)[None]
    dct = jnp.sqrt(2 / 80) * jnp.cos(jnp.pi * k * (2 * n + 1) / 160) * jnp.where(k == 0, jnp.sqrt(0.5), 1)
    norm = params["BatchNorm_0"]
    x = (db @ dct.T - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    return LSTM(200).apply({"params": params["LSTM_0"]}, x)[:, -1]


def logits_by_hand(variables: Any, db: jax.Array, maps: jax.Array) -> jax.Array:
    params = variables["params"]
    dense = params["video"]["Dense_0"]
    pooled = nn.max_pool(maps, (2, 2), (2, 2)).reshape(len(maps), -1)
    seen = jnp.maximum(pooled @ dense["kernel"] + dense["bias"], 0)
    head = params["Dense_0"]
    return jnp.concatenate([heard_by_hand(variables, db), seen], axis=1) @ head["kernel"] + head["bias"]


@pytest.fixture(scope="module")
def calm(untrained: Model) -> Model:
    """The untrained network with the sound normalised, so that its LSTM is not saturated."""
    stats = {"mean": jnp.full(40, -50.0), "var": jnp.full(40, 1e4)}
    return Model(untrained.job, {**untrained.variables, "batch_stats": {"audio": {"BatchNorm_0": stats}}})


def test_explanations_are_those_of_the_formulas(calm: Model) -> None:
    variables, batch = jax.tree.map(jnp.asarray, calm.variables), calm.batch([0, 3, 6])
    labels = np.array([0, 3, 3], np.int32)
    found = saliency.explain(calm.job.model, variables, batch, labels, hop_length=HOP)
    maps, db = maps_by_hand(variables, batch["faces"]), jnp.asarray(found.log_mel_db)
    expected = calm.logits(batch)
    np.testing.assert_allclose(found.probability, jax.nn.softmax(expected)[np.arange(3), labels], atol=1e-4)
    assert found.heat.shape == (3, 2, 10)  # 32x160 px, halved four times

    def score(db: jax.Array, maps: jax.Array, label: int) -> tuple[jax.Array, jax.Array]:
        logits = logits_by_hand(variables, db[None], maps[None])[0]
        return logits[label], logits

    gradients = jax.jit(jax.grad(score, argnums=(0, 1), has_aux=True))
    for i, label in enumerate(labels):
        (of_db, of_maps), logits = gradients(db[i], maps[i], label)
        np.testing.assert_allclose(logits, expected[i], atol=1e-3)
        heat = sum(np.mean(of_maps[:, :, k]) * np.asarray(maps[i, :, :, k]) for k in range(maps.shape[-1]))
        np.testing.assert_allclose(found.heat[i], np.maximum(heat, 0), atol=1e-4 * abs(heat).max())
        relevance = np.asarray(of_db) * np.asarray(db[i] - db[i].mean())
        np.testing.assert_allclose(found.relevance[i], relevance, atol=1e-3 * abs(relevance).max())
    assert (found.heat >= 0).all()
    assert found.heat.any()
    assert found.relevance.any()


def test_a_segment_is_explained_alike_in_any_company_and_a_missing_modality_not_at_all(calm: Model) -> None:
    batch, labels = calm.batch([0, 3, 6]), np.arange(3, dtype=np.int32)
    together = saliency.explain(calm.job.model, calm.variables, batch, labels, hop_length=HOP)
    batch["has_video"][1:] = False
    batch["has_audio"][1:] = False
    found = saliency.explain(calm.job.model, calm.variables, batch, labels, hop_length=HOP)
    np.testing.assert_allclose(found.heat[0], together.heat[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.relevance[0], together.relevance[0], rtol=1e-4, atol=1e-6)
    assert not found.heat[1:].any()
    assert not found.relevance[1:].any()


@pytest.mark.parametrize(
    ("changes", "heat"), [({"model__strip_network": "original"}, (1, 8, 40)), ({"model__modalities": "audio"}, None)]
)
def test_other_networks_are_explained(folder: pathlib.Path, changes: dict[str, str], heat: Any) -> None:
    job = Tiny.of(folder, **changes)
    model = Model(job, job.new_state().variables)
    found = saliency.explain(job.model, model.variables, model.batch([0]), np.array([1], np.int32), hop_length=HOP)
    assert (found.heat if heat is None else found.heat.shape) == heat
    assert found.relevance.shape == (1, 63, 80)


# Features


def test_features_are_what_the_head_gets(calm: Model) -> None:
    source = calm.source
    parts = embeddings.clip_features(calm.job.model, calm.variables, source, batch_size=7)
    assert {name: part.shape for name, part in parts.items()} == {"audio": (40, 200), "video": (40, 200)}
    features = np.concatenate([parts["audio"], parts["video"]], axis=1)
    head = calm.variables["params"]["Dense_0"]
    for clip in (0, 17):
        logits = calm.logits(calm.batch(np.flatnonzero(source.segments.clip == clip).tolist()))
        np.testing.assert_allclose(features[clip] @ head["kernel"] + head["bias"], logits.mean(axis=0), atol=1e-3)


def test_features_are_split_by_the_sizes_of_the_encoders(untrained: Model) -> None:
    net = FusionNet(n_classes=8, audio=AudioLSTM(features=3), video=StripCNN(features=5), dropout_rate=0.0)
    batch = {name: jnp.asarray(value) for name, value in untrained.batch([0]).items()}
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), batch)
    deaf = embeddings.clip_features(net, variables, untrained.source.without("audio"), batch_size=40)
    assert [part.shape[1] for part in deaf.values()] == [3, 5]
    assert not deaf["audio"].any()
    assert deaf["video"].any()


def test_principal_components_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(40, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    places, shares = embeddings.plane(x)
    variances, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(shares, variances[::-1][:2] / variances.sum())
    expected = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(abs(places), abs(expected))
    np.testing.assert_allclose(embeddings.plane(x + 9)[0], places)


def test_agreement_of_neighbours_by_hand_and_as_scikit_learns() -> None:
    groups = ["a", "a", "b", "b", "a", "a"]
    # 0 and 1 are each other's nearest, 2.1 is nearest to 1; likewise above.
    features = np.array([[0.0], [1.0], [2.1], [10.0], [11.0], [12.1]])
    assert embeddings.agreement(features, groups, k=1) == pytest.approx(3 / 6)
    assert embeddings.chance_agreement(groups) == pytest.approx((4 * 3 / 5 + 2 * 1 / 5) / 6)
    assert embeddings.most_agreement(groups, k=2) == pytest.approx((4 * 1 + 2 * 0.5) / 6)
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(60, 9)), rng.integers(0, 4, 60)
    found = neighbors.NearestNeighbors(n_neighbors=5).fit(features).kneighbors(return_distance=False)
    expected = np.mean(groups[found] == groups[:, None])
    assert embeddings.agreement(features, groups.tolist(), k=5) == pytest.approx(expected)


# The analysis of a trained model


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "lost", "medium"), [("audio", "video", "faces"), ("video", "audio", "waveform")])
def test_a_modality_alone_is_the_model_with_the_flag_of_the_other_off(trained, analysed, kept, lost, medium):
    """Every segment through the network by hand, with other faces or sound too, which the flag must hide."""
    model, _ = trained
    batch = model.batch(list(range(len(model.source.segments))))
    batch = {**batch, f"has_{lost}": np.zeros_like(batch[f"has_{lost}"]), medium: np.full_like(batch[medium], 77)}
    log_prob = np.zeros((40, 8))
    np.add.at(log_prob, batch["clip"], np.asarray(jax.nn.log_softmax(model.logits(batch))))
    answers = model.answers(model.source.without(lost))
    np.testing.assert_array_equal(answers.predicted, log_prob.argmax(axis=1))
    given = analysed[0]["worth"]["given"]
    assert given[f"{kept} alone"]["uar"] == metrics.uar(answers.confusion)
    assert given["audio and video"]["uar"] == model.uar() > 0.5


@pytest.mark.slow
def test_gains_and_curves_fit_the_scores_without_a_modality(analysed):
    results, _ = analysed
    given = results["worth"]["given"]
    for alone, gain in results["worth"]["gain_over"].items():
        assert gain["uar"] == pytest.approx(given["audio and video"]["uar"] - given[alone]["uar"])
        assert gain["interval"][0] <= gain["uar"] <= gain["interval"][1]
    for score in given.values():
        assert score["interval"][0] <= score["uar"] <= score["interval"][1]
    curves = {curve["name"]: curve for curve in results["curves"]}
    for curve in curves.values():
        for name, scores in curve["lines"].items():
            assert scores[0] == given[name]
            assert len(scores) == len(curve["steps"])
    for name in ("missing_audio", "missing_video"):
        assert curves[name]["lines"]["audio and video"][-1] == given[curves[name]["without"]]


@pytest.mark.slow
def test_the_numbers_the_table_and_the_page(trained, analysed, tmp_path):
    (model, workdir), (results, material) = trained, analysed
    assert json.loads((workdir / analysis.ANALYSIS).read_text(encoding="utf-8")) == results
    path = tmp_path / "analysis.html"
    write_analysis(results, material, path, corpus=model.job.data.corpus, protocol=model.job.data.protocol)
    page = page_kit.read(path)
    assert page.tags["img"] == len(page.loads) == len(results["curves"]) + len(results["explained"]) + 2
    assert len(material["explained"]) == len(results["explained"]) > 0


@pytest.mark.slow
def test_one_modality_and_one_speaker(folder, tmp_path):
    job = Tiny.of(folder, model__modalities="video", split__n_folds=9, train__epochs=2)
    job.train(tmp_path)
    results, material = analysis.analyse(job.model, job.data, job.config, tmp_path)
    assert results["worth"]["given"]["video alone"]["interval"] is None
    write_analysis(results, material, tmp_path / "a.html", corpus=job.data.corpus, protocol=job.data.protocol)
    assert "one speaker" in page_kit.read(tmp_path / "a.html").text
