"""What a trained model's modalities are worth, where it looked, what its features hold; against hand computations."""

import dataclasses
import json
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import run_tiny
import tiny
from fusion_emotion import commands
from fusion_emotion.analyse import analysis, degrade, embeddings, saliency
from fusion_emotion.analyse.degrade import Degraded
from fusion_emotion.errors import UserError
from fusion_emotion.evaluate import metrics
from fusion_emotion.input.batches import Source
from fusion_emotion.models.layers import LSTM, convolution_kernel
from fusion_emotion.prepare.records import Record
from fusion_emotion.train import devices, loop
from fusion_emotion.train.checkpoint import Checkpoints
from fusion_emotion.train.step import TrainState

pytestmark = pytest.mark.slow

ALONE = {"audio": "audio alone", "video": "video alone"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write(tmp_path_factory.mktemp("prepared") / "tiny", speakers=9, n_frames=15)


@dataclasses.dataclass(frozen=True)
class Trained:
    setup: loop.Setup
    workdir: pathlib.Path
    state: TrainState

    @property
    def source(self) -> Degraded:
        source = self.setup.source("test")
        return Degraded(source.windows, source.records)

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        apply = jax.jit(lambda variables, batch: self.setup.model.apply(variables, batch, train=False))
        return np.asarray(apply(self.state.variables, batch))

    def outcome(self, source: Source | None = None) -> loop.Outcome:
        return loop.Evaluator(self.setup, "test")(devices.replicate(self.state), source)

    def uar(self, source: Source | None = None) -> float:
        return metrics.uar(self.outcome(source).clip_confusion)


def trained_on(folder: pathlib.Path, workdir: pathlib.Path, **changes: Any) -> Trained:
    # Of 9 speakers 2 folds leave 5 to the test part: enough for intervals.
    config = {"split__n_folds": 2, "train__epochs": 30, "augment__modality_dropout": 0.3, **changes}
    setup = loop.Setup.create(run_tiny.settings(**config), folder)
    loop.train(setup, workdir)
    checkpoints = Checkpoints(workdir)
    state = checkpoints.restore_best(setup.new_state(setup.optimizer()))
    checkpoints.close()
    return Trained(setup, workdir, state)


@pytest.fixture(scope="module")
def trained(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(folder, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def results(trained: Trained) -> dict[str, Any]:
    return analysis.analyse(trained.setup, trained.workdir)


def batch_of(trained: Trained, n: int = 6) -> dict[str, np.ndarray]:
    source = trained.setup.source("test")
    examples = [source.window(3 * i) for i in range(n)]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


# What each modality is worth


def test_a_model_that_is_given_both_is_the_model_as_it_is_evaluated(trained, results):
    assert results["worth"]["given"]["audio and video"]["uar"] == trained.uar() > 0.5


@pytest.mark.parametrize(("kept", "lost"), [("audio", "video"), ("video", "audio")])
def test_a_modality_alone_is_the_model_with_the_flag_of_the_other_off(trained, results, kept, lost):
    """Every window through the network by hand, with other pictures or sounds too, which the flag must hide."""
    setup, windows = trained.setup, trained.setup.windows["test"]
    source = setup.source("test")
    apply = jax.jit(lambda batch: setup.model.apply(trained.state.variables, batch, train=False))
    log_prob = np.zeros((len(windows.rows), 8))
    medium = {"audio": "waveform", "video": "strip"}[lost]
    for index in range(len(windows)):
        window = source.window(index)
        window = {**window, f"has_{lost}": np.bool_(False), medium: np.full_like(window[medium], 77)}
        logits = apply({name: value[None] for name, value in window.items()})
        log_prob[windows.clip[index]] += np.asarray(jax.nn.log_softmax(logits))[0]
    predicted = log_prob.argmax(axis=1)
    expected = metrics.uar(metrics.confusion_matrix(windows.labels, predicted, 8))
    assert results["worth"]["given"][ALONE[kept]]["uar"] == pytest.approx(expected)
    np.testing.assert_array_equal(trained.outcome(trained.source.without(lost)).predicted, predicted)


def test_gains_are_differences_of_what_is_given(results):
    worth = results["worth"]
    for alone, gain in worth["gain_over"].items():
        assert gain["uar"] == pytest.approx(worth["given"]["audio and video"]["uar"] - worth["given"][alone]["uar"])
        assert gain["interval"][0] <= gain["uar"] <= gain["interval"][1]


def test_curves_begin_with_what_is_given_and_end_where_a_modality_is_gone(results):
    given = results["worth"]["given"]
    curves = {curve["name"]: curve for curve in results["curves"]}
    assert {"babble", "frame_rate", "blur", "covered_eyes", "covered_mouth", "missing_audio", "missing_video"} == {
        *curves
    }
    for curve in curves.values():
        for name, scores in curve["lines"].items():
            assert scores[0] == given[name]
            assert len(scores) == len(curve["steps"])
    assert curves["missing_audio"]["lines"]["audio and video"][-1] == given["video alone"]
    assert curves["missing_video"]["lines"]["audio and video"][-1] == given["audio alone"]
    assert {*curves["blur"]["lines"]} == {"audio and video", "video alone"}
    assert {*curves["babble"]["lines"]} == {"audio and video", "audio alone"}


def test_a_covered_face_hurts_and_what_is_not_degraded_does_not_change(trained):
    """Brightness tells the classes apart, so a face that is grey all over tells nothing."""
    video = trained.source.without("audio")
    covered = dataclasses.replace(video, change=degrade.cover(centre=0.5, height=1))
    assert trained.uar(covered) == pytest.approx(1 / 8)
    assert trained.uar(video) > 0.5
    audio = trained.source.without("video")
    covered = dataclasses.replace(audio, change=degrade.cover(centre=0.5, height=1))
    np.testing.assert_array_equal(trained.outcome(covered).clip_log_prob, trained.outcome(audio).clip_log_prob)


# Degradations


def power(sound: np.ndarray) -> float:
    return float(np.mean(np.square(sound.astype(float))))


@pytest.mark.parametrize("snr_db", degrade.SNR_DB)
def test_babble_has_the_ratio_it_says(trained, snr_db):
    source = trained.source
    for clip in (0, 7, 20):
        clean = source.record(clip)
        # So quiet that nothing is clipped.
        clean = dataclasses.replace(clean, waveform=clean.waveform // 8)
        noise = degrade.babble(source, snr_db=snr_db)(clean).waveform.astype(int) - clean.waveform
        assert 10 * np.log10(power(clean.waveform) / power(noise)) == pytest.approx(snr_db, abs=0.02)


def test_babble_is_of_other_speakers_and_the_same_each_time(trained):
    heard = []

    class Listening(Source):
        def record(self, clip: int) -> Record:
            heard.append(clip)
            return super().record(clip)

    plain = trained.setup.source("test")
    source = Listening(plain.windows, plain.records)
    for clip in range(0, len(source.windows.rows), 9):
        record = plain.record(clip)
        heard.clear()
        once = degrade.babble(source, snr_db=0)(record)
        assert len({*heard}) == degrade.VOICES
        assert all(source.windows.rows[other].speaker != record.speaker for other in heard)
        again = degrade.babble(plain, snr_db=0)(record)
        np.testing.assert_array_equal(once.waveform, again.waveform)
    silent = dataclasses.replace(record, waveform=np.zeros_like(record.waveform))
    assert not degrade.babble(source, snr_db=0)(silent).waveform.any()


def test_babble_of_one_speaker_is_of_other_clips(folder, trained):
    plain = trained.setup.source("test")
    speaker = plain.windows.rows[0].speaker
    windows = plain.windows.part(np.array([plain.windows.rows[clip].speaker == speaker for clip in plain.windows.clip]))
    one = Source.open(folder, windows)
    first = one.record(0)
    noise = degrade.babble(one, snr_db=0)(first).waveform.astype(float) - first.waveform
    # Of the pitches, which tell the classes apart, its own is the one that is not in the noise.
    hz = [round(200 * 1.4**label) for label in range(8)]
    spectrum = np.abs(np.fft.rfft(noise)) / len(noise)
    at_hz = [spectrum[round(pitch * len(noise) / 16_000) + np.arange(-3, 4)].max() for pitch in hz]
    assert at_hz[first.label] < 0.05 * max(at_hz)
    assert sum(level > 0.1 * max(at_hz) for level in at_hz) == degrade.VOICES


def record_of(faces: np.ndarray) -> Record:
    n = len(faces)
    return Record(
        clip_id="a",
        take_id="a",
        speaker="01",
        corpus="ravdess",
        label=0,
        faces=faces,
        face_found=np.arange(n) % 4 != 1,
        box=np.arange(4 * n, dtype=np.float32).reshape(n, 4),
        waveform=np.zeros(16_000, np.int16),
    )


@pytest.mark.parametrize(
    ("keep_every", "shown"),
    [
        (2, [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]),
        (3, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]),
        (5, [0] * 5 + [5] * 5 + [10] * 2),
    ],
)
def test_fewer_frames_are_repeated(keep_every, shown):
    record = record_of(np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8))
    fewer = degrade.fewer_frames(keep_every=keep_every)(record)
    np.testing.assert_array_equal(fewer.faces, record.faces[shown])
    np.testing.assert_array_equal(fewer.face_found, record.face_found[shown])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_band_covers_its_rows_and_no_others(centre, height):
    faces = np.random.default_rng(0).integers(0, 100, (2, 20, 20, 3)).astype(np.uint8)
    covered = degrade.cover(centre=centre, height=height)(record_of(faces)).faces
    changed = (covered != faces).any(axis=(0, 2, 3))
    rows = (np.arange(20) + 0.5) / 20
    inside = abs(rows - centre) < height / 2
    # A row whose middle lies on the edge itself may be on either side.
    sure = abs(abs(rows - centre) - height / 2) > 1e-9
    np.testing.assert_array_equal(changed[sure], inside[sure])
    assert (covered[:, changed] == covered[:, changed][:1, :1, :1, :1]).all()


def test_bands_of_eyes_and_mouth_are_apart():
    tallest = max(degrade.BAND_HEIGHTS)
    assert degrade.EYES - tallest / 2 > 0
    assert degrade.EYES + tallest / 2 <= degrade.MOUTH - tallest / 2 + 1e-9
    assert degrade.MOUTH + tallest / 2 < 1


def test_blur_spreads_a_point_as_a_gaussian_within_its_own_face():
    faces = np.zeros((2, 33, 33, 3), np.uint8)
    faces[0, 16, 16] = 255
    blurred = degrade.blur(sigma_px=2)(record_of(faces)).faces.astype(float)
    assert not blurred[1].any()
    expected = 255 * np.exp(-np.square(np.hypot(*np.mgrid[-16:17, -16:17])) / 8) / (2 * np.pi * 4)
    np.testing.assert_allclose(blurred[0, :, :, 1], expected, atol=0.6)
    flat = record_of(np.full((1, 9, 9, 3), 90, np.uint8))
    assert (degrade.blur(sigma_px=8)(flat).faces == 90).all()


def test_a_larger_share_of_lost_windows_takes_the_same_and_more(trained):
    windows = trained.setup.windows["test"]
    lost = {share: degrade.lost_windows(windows, share=share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert not lost[0.0].any()
    assert lost[1.0].all()
    for less, more in zip(lost.values(), [*lost.values()][1:], strict=False):
        assert not (less & ~more).any()
    for share, each in lost.items():
        assert each.mean() == pytest.approx(share, abs=0.1)
        per_clip = np.bincount(windows.clip, weights=each) / np.bincount(windows.clip)
        assert (abs(per_clip - share) < 1 / 3 + 1e-9).all()


# Saliency


def maps_by_hand(variables: Any, strip: np.ndarray) -> jax.Array:
    """The strip network up to its last ReLU."""
    params, pictures = variables["params"]["video"], ("NHWC", "HWIO", "NHWC")
    stem = params["PatchDense_0"]["patches"]
    x = jax.lax.conv_general_dilated(
        strip / 127.5 - 1,
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
    """The sound network from its log-mel spectrogram on."""
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


def test_saliency_is_that_of_the_formulas(trained):
    variables, batch = jax.tree.map(jnp.asarray, trained.state.variables), batch_of(trained)
    labels = np.array([0, 3, 3, 7, 2, 5], np.int32)
    found = saliency.explain(trained.setup.model, variables, batch, labels)
    maps = maps_by_hand(variables, batch["strip"])
    db = jnp.asarray(found.log_mel_db)
    logits = logits_by_hand(variables, db, maps)
    expected = trained.logits(batch)
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    np.testing.assert_allclose(found.probability, jax.nn.softmax(expected)[np.arange(6), labels], atol=1e-4)
    for i, label in enumerate(labels):

        def score(db: jax.Array, maps: jax.Array, label: int = int(label)) -> jax.Array:
            return logits_by_hand(variables, db[None], maps[None])[0, label]

        of_db, of_maps = jax.grad(score, argnums=(0, 1))(db[i], maps[i])
        heat = np.zeros(maps.shape[1:3])
        for k in range(maps.shape[-1]):
            heat += np.mean(of_maps[:, :, k]) * np.asarray(maps[i, :, :, k])
        assert found.heat[i].shape == (2, 10)  # 32x160 px, halved four times
        np.testing.assert_allclose(found.heat[i], np.maximum(heat, 0), atol=1e-4 * abs(heat).max())
        relevance = np.asarray(of_db) * np.asarray(db[i] - db[i].mean())
        np.testing.assert_allclose(found.relevance[i], relevance, atol=1e-3 * abs(relevance).max())
    assert (found.heat >= 0).all()
    assert found.heat.any()


def test_a_window_is_explained_alike_in_any_company_and_a_missing_modality_not_at_all(trained):
    model, variables, batch = trained.setup.model, trained.state.variables, batch_of(trained)
    labels = np.arange(6, dtype=np.int32)
    together = saliency.explain(model, variables, batch, labels)
    batch["has_video"][1:] = False
    batch["has_audio"][1:] = False
    found = saliency.explain(model, variables, batch, labels)
    np.testing.assert_allclose(found.heat[0], together.heat[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.relevance[0], together.relevance[0], rtol=1e-4, atol=1e-6)
    assert not found.heat[1:].any()
    assert not found.relevance[1:].any()


def test_the_original_network_and_single_ones_are_explained(folder):
    for changes, has_heat, has_relevance in (
        ({"model__strip_network": "original"}, True, True),
        ({"model__modalities": "audio"}, False, True),
    ):
        setup = loop.Setup.create(run_tiny.settings(**changes), folder)
        source = setup.source("test")
        batch = {name: value[None] for name, value in source.window(0).items()}
        state = setup.new_state(setup.optimizer())
        found = saliency.explain(setup.model, state.variables, batch, np.array([1], np.int32))
        assert (found.heat is not None) == has_heat
        assert (found.relevance is not None) == has_relevance
        if has_heat:
            rows = 8 if changes.get("model__strip_network") else 2
            assert found.heat.shape == (1, rows, 5 * rows)


def test_clips_that_are_explained_are_of_many_emotions(trained):
    outcome = trained.outcome()
    labels, predicted = outcome.windows.labels, outcome.predicted
    chosen = analysis.choose(outcome)
    assert len({*chosen}) == len(chosen)
    for right in (True, False):
        among = {int(label) for label, guess in zip(labels, predicted, strict=True) if (label == guess) == right}
        of = [int(labels[clip]) for clip in chosen if (labels[clip] == predicted[clip]) == right]
        assert len({*of}) == min(len(among), analysis.EXPLAINED)
        assert len(of) <= analysis.EXPLAINED


# Features


def test_features_are_what_the_head_gets(trained):
    setup, variables = trained.setup, trained.state.variables
    source = setup.source("test")
    features = embeddings.clip_features(setup.model, variables, source, batch_size=7)
    assert features.shape == (source.windows.n_clips, 400)
    head = variables["params"]["Dense_0"]
    for clip in (0, 17):
        windows = [source.window(int(i)) for i in np.flatnonzero(source.windows.clip == clip)]
        batch = {name: np.stack([window[name] for window in windows]) for name in windows[0]}
        logits = trained.logits(batch)
        # The head is linear.
        np.testing.assert_allclose(features[clip] @ head["kernel"] + head["bias"], logits.mean(axis=0), atol=1e-3)


def test_principal_components_are_those_of_the_covariance():
    x = np.random.default_rng(0).normal(size=(40, 6)) @ np.random.default_rng(1).normal(size=(6, 6))
    places, shares = embeddings.plane(x)
    variances, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(shares, variances[::-1][:2] / variances.sum())
    expected = (x - x.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(abs(places), abs(expected))
    np.testing.assert_allclose(embeddings.plane(x + 9)[0], places)


def test_agreement_of_neighbours_by_hand():
    features = np.array([[0.0], [1.0], [2.1], [10.0], [11.0], [12.1]])
    assert embeddings.agreement(features, ["a"] * 3 + ["b"] * 3, k=2) == 1
    assert embeddings.agreement(features, ["a", "b", "a", "b", "a", "b"], k=1) == 0
    # 0 and 1 are each other's nearest, 2.1 is nearest to 1; likewise above.
    assert embeddings.agreement(features, ["a", "a", "b", "b", "a", "a"], k=1) == pytest.approx(3 / 6)
    assert embeddings.chance_agreement(["a", "a", "b", "b", "a", "a"]) == pytest.approx((4 * 3 / 5 + 2 * 1 / 5) / 6)
    assert embeddings.most_agreement(["a", "a", "b", "b", "a", "a"], k=2) == pytest.approx((4 * 1 + 2 * 0.5) / 6)


def test_agreement_is_scikit_learns():
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    features, groups = rng.normal(size=(60, 9)), rng.integers(0, 4, 60)
    found = neighbors.NearestNeighbors(n_neighbors=5).fit(features).kneighbors(return_distance=False)
    expected = np.mean(groups[found] == groups[:, None])
    assert embeddings.agreement(features, groups.tolist(), k=5) == pytest.approx(expected)


@given(st.integers(2, 40), st.integers(1, 5), st.integers(0, 99))
def test_features_of_noise_agree_as_by_chance(n, n_groups, seed):
    """Over all orders of the groups, that is; here over some."""
    rng = np.random.default_rng(seed)
    features, groups = rng.normal(size=(n, 3)), rng.integers(0, n_groups, n)
    k = min(5, n - 1)
    drawn = [embeddings.agreement(features, rng.permutation(groups).tolist(), k=k) for _ in range(60)]
    assert np.mean(drawn) == pytest.approx(embeddings.chance_agreement(groups.tolist()), abs=0.25)
    assert max(drawn) <= embeddings.most_agreement(groups.tolist(), k=k) + 1e-9


# The page


def test_the_page_has_its_sections_and_names_its_protocol(trained, results):
    html = (trained.workdir / analysis.PAGE).read_text(encoding="utf-8")
    titles = re.findall(r"<h2>(.*?)</h2>", html, re.S)
    assert [re.sub(r"\s+", " ", title).split(",")[0] for title in titles] == [
        "What each modality is worth",
        "Why it said that",
        "What the features hold",
        "Provenance",
    ]
    for title in (titles[0], titles[2]):
        assert re.search(r"protocol kfold\s*,\s*fold&nbsp;0", title)
    assert "speaker-independent" in html
    assert html.count("data:image/svg+xml") == len(results["curves"]) + 2
    assert html.count("data:image/jpeg") == len(results["explained"]) > 0
    assert "http" not in html.replace("http-equiv", "")
    assert str(trained.workdir) not in html


def test_the_numbers_lie_beside_the_page(trained, results):
    assert json.loads((trained.workdir / analysis.ANALYSIS).read_text(encoding="utf-8")) == results
    assert results["protocol"]["name"] == "kfold"
    assert len(results["test"]["speakers"]) >= 4
    for score in results["worth"]["given"].values():
        assert score["interval"][0] <= score["uar"] <= score["interval"][1]
    assert {each["clip_id"] for each in results["features"]["clips"]} == {
        row.clip_id for row in trained.setup.windows["test"].rows
    }
    assert not [path for path in trained.workdir.iterdir() if "partial" in path.name]


def test_the_table_names_its_protocol(results):
    text = analysis.text(results)
    assert "protocol kfold, fold 0" in text
    assert f"{100 * results['worth']['given']['video alone']['uar']:.1f} %" in text
    assert "−5 dB" in text
    assert max(map(len, text.splitlines())) <= 100


def test_one_modality_and_one_speaker(folder, tmp_path):
    """Half as many curves, no gain, no interval, no word on speakers."""
    trained = trained_on(
        folder, tmp_path, model__modalities="video", split__n_folds=9, train__epochs=2, augment__modality_dropout=0.0
    )
    results = analysis.analyse(trained.setup, tmp_path)
    assert {*results["worth"]["given"]} == {"video alone"}
    assert results["worth"]["gain_over"] == {}
    assert {curve["modality"] for curve in results["curves"]} == {"video"}
    assert results["worth"]["given"]["video alone"]["interval"] is None
    assert "speaker" not in results["features"]["chance"]
    assert "intervals" in analysis.text(results)
    assert "one speaker" in (tmp_path / analysis.PAGE).read_text(encoding="utf-8")


def test_a_workdir_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no checkpoints: train first") as error:
        commands.MODES["analyse"](run_tiny.settings(), tmp_path)
    assert "\n" not in str(error.value)


def test_checkpoints_that_were_never_validated_are_an_error(folder, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    setup = loop.Setup.create(run_tiny.settings(), folder)
    with pytest.raises(UserError):
        analysis.analyse(setup, tmp_path)
