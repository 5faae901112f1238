"""Each augmentation does what its name and number say, by example and not by device."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import re
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from configs import ravdess
from fusion_emotion import commands
from fusion_emotion.errors import UserError
from fusion_emotion.input import augment as module
from fusion_emotion.input.augment import Augmentation, augment, check_share
from fusion_emotion.models.frontend import cepstrum, log_mel, mel_shape, mfcc
from fusion_emotion.models.fusion import create_model
from fusion_emotion.pages import augmentation as gallery
from test_report import NoPictures, Page

B, SIDE = 8, 16
MEL = (63, 80)
ALL: dict[str, Any] = {
    "time_shift_s": 0.1,
    "gain_db": 6.0,
    "noise_snr_db": (5.0, 20.0),
    "time_mask_s": 0.2,
    "mel_mask": 15,
    "flip": 0.5,
    "colour": 0.3,
    "crop_jitter": 0.1,
    "erase": 0.5,
    "mixup": 0.4,
    "modality_dropout": 0.4,
}
NOT_PAIRED = {name: value for name, value in ALL.items() if name != "mixup"}


def windows(count: int = B, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise, of a loudness that no gain of 6 dB clips."""
    rng = np.random.default_rng(seed)
    return {
        "strip": rng.integers(0, 256, (count, SIDE, 5 * SIDE, 3), np.uint8),
        "waveform": rng.normal(0, 2000, (count, 16_000)).astype(np.int16),
        "label": (np.arange(count) % 5).astype(np.int32),
        "has_audio": np.ones(count, bool),
        "has_video": np.ones(count, bool),
        "mask": np.ones(count, bool),
    }


def keys(count: int = B, *, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), count)


@functools.cache
def compiled(settings: Augmentation) -> Any:
    return jax.jit(functools.partial(augment, settings=settings, n_classes=5, mel_shape=MEL))


def run(batch: dict[str, np.ndarray] | None = None, seed: int = 0, **on: Any) -> dict[str, np.ndarray]:
    batch = windows() if batch is None else batch
    out = compiled(Augmentation(**on))(batch, keys(len(batch["label"]), seed=seed))
    return {name: np.asarray(value) for name, value in out.items()}


def faces(strip: np.ndarray) -> np.ndarray:
    """[..., S, 5 S, 3] to [..., face, S, S, 3]."""
    return np.moveaxis(strip.reshape(*strip.shape[:-2], 5, -1, 3), -3, -4)


# The whole


def test_off_changes_nothing_but_adds_the_target() -> None:
    batch = windows()
    out = run(batch)
    assert set(out) == {*batch, "target"}
    for name, value in batch.items():
        np.testing.assert_array_equal(out[name], value)
        assert out[name].dtype == value.dtype
    np.testing.assert_array_equal(out["target"], np.eye(5, dtype=np.float32)[batch["label"]])
    assert Augmentation().on == ()


def test_the_config_has_every_field_and_all_is_off() -> None:
    config = ravdess.get_config().to_dict()
    assert Augmentation.from_config(config) == Augmentation()
    assert set(config["augment"]) == {field.name for field in dataclasses.fields(Augmentation)}
    assert Augmentation(**ALL).on == tuple(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_alone_changes_only_what_is_its_own(name: str) -> None:
    own = {
        "mixup": {"strip", "waveform", "target"},
        "modality_dropout": {"has_audio", "has_video"},
        **{mask: {"mel_keep"} for mask in ("time_mask_s", "mel_mask")},
        **{of_faces: {"strip"} for of_faces in ("flip", "colour", "crop_jitter", "erase")},
    }.get(name, {"waveform"})
    plain, out = run(), run(**{name: ALL[name]})
    assert {key for key in out if key not in plain or not np.array_equal(out[key], plain[key])} == own
    assert out["strip"].dtype == np.uint8
    assert out["waveform"].dtype == np.int16
    other = run(seed=1, **{name: ALL[name]})
    assert any(not np.array_equal(out[key], other[key]) for key in own)


def test_an_example_goes_with_its_key() -> None:
    batch, order = windows(), np.random.default_rng(3).permutation(B)
    function = compiled(Augmentation(**NOT_PAIRED))
    out = function(batch, keys())
    permuted = function({name: value[order] for name, value in batch.items()}, keys()[order])
    for name, value in out.items():
        np.testing.assert_array_equal(np.asarray(value)[order], permuted[name], err_msg=name)


@pytest.mark.parametrize("devices", [2, 4])
def test_nothing_depends_on_the_number_of_devices(devices: int) -> None:
    batch = windows()
    settings = Augmentation(**ALL)
    whole = run(batch, **ALL)
    shares = [slice(i, i + B // devices) for i in range(0, B, B // devices)]
    parts = [
        compiled(settings)({name: value[share] for name, value in batch.items()}, keys()[share]) for share in shares
    ]
    for name, value in whole.items():
        together = np.concatenate([np.asarray(part[name]) for part in parts])
        # Matrix products of another number of rows may round otherwise.
        most = 1 if name in ("strip", "waveform") else 1e-6
        assert np.abs(together.astype(float) - value.astype(float)).max() <= most, name


# Sound


def test_time_shift_moves_and_fills_with_zeros() -> None:
    batch = windows()
    batch["waveform"] = np.abs(batch["waveform"]) + np.int16(1)
    out = run(batch, time_shift_s=0.1)["waveform"]
    shifts = []
    for before, after in zip(batch["waveform"], out, strict=True):
        there = np.flatnonzero(after)
        first, count = there[0], len(there)
        later = first if first else count - 16_000
        assert abs(later) <= 1600
        np.testing.assert_array_equal(after[first : first + count], before[max(0, -later) :][:count])
        assert count == 16_000 - abs(later)
        shifts.append(later)
    assert min(shifts) < 0 < max(shifts)


def test_a_shift_by_a_known_number_of_samples() -> None:
    with mock.patch.object(jax.random, "randint", return_value=jnp.asarray(3)):
        later = module.time_shift(jax.random.key(0), jnp.arange(1, 9), most_s=5 / 16_000)
    np.testing.assert_array_equal(later, [0, 0, 0, 1, 2, 3, 4, 5])


def test_gain_is_one_factor_within_its_range() -> None:
    batch = windows(64)
    out = run(batch, gain_db=6.0)["waveform"].astype(float)
    before = batch["waveform"].astype(float)
    factor = (out * before).sum(1) / (before**2).sum(1)
    assert np.abs(out - factor[:, None] * before).max() <= 1
    gains_db = 20 * np.log10(factor)
    assert -6 <= gains_db.min() < -4
    assert 4 < gains_db.max() <= 6


def test_gain_clips_rather_than_wraps() -> None:
    batch = windows()
    batch["waveform"] = np.where(np.arange(16_000) % 2, 32_767, -32_768).astype(np.int16)[None].repeat(B, 0)
    out = run(batch, gain_db=6.0)["waveform"]
    assert (np.sign(out) == np.sign(batch["waveform"])).all()
    assert (out.max(1) == 32_767).any()


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_noise_has_the_ratio_asked_for_whatever_the_loudness(scale: float) -> None:
    batch = windows()
    batch["waveform"] = (batch["waveform"] * scale).astype(np.int16)
    before = batch["waveform"].astype(float)
    for snr_db in (0.0, 10.0):
        noise = run(batch, noise_snr_db=(snr_db, snr_db))["waveform"] - before
        reached = 10 * np.log10((before**2).mean(1) / (noise**2).mean(1))
        np.testing.assert_allclose(reached, snr_db, atol=0.1)


def test_noise_is_between_white_and_brown_and_of_its_key() -> None:
    batch = windows(32)
    noise = run(batch, noise_snr_db=(0.0, 0.0))["waveform"] - batch["waveform"].astype(float)
    power = np.abs(np.fft.rfft(noise)) ** 2
    slopes = np.array([-np.polyfit(np.log(np.arange(100, 4000)), np.log(each[100:4000]), 1)[0] for each in power])
    assert -0.1 < slopes.min() < 0.5
    assert 1.5 < slopes.max() < 2.1
    assert np.abs(np.corrcoef(noise) - np.eye(32)).max() < 0.2
    # The sum of so many tones is normal: three per thousand lie beyond three deviations.
    white = noise[slopes.argmin()]
    assert np.mean(np.abs(white) > 3 * white.std()) == pytest.approx(0.0027, abs=0.002)


def test_silence_stays_silent() -> None:
    batch = {**windows(), "waveform": np.zeros((B, 16_000), np.int16)}
    assert not run(batch, noise_snr_db=(0.0, 0.0), gain_db=6.0)["waveform"].any()


@pytest.mark.parametrize(("name", "value", "axis", "most"), [("time_mask_s", 0.2, 1, 12), ("mel_mask", 15, 2, 15)])
def test_a_mask_is_one_run_of_whole_rows_or_columns(name: str, value: float, axis: int, most: int) -> None:
    keep = run(windows(256), **{name: value})["mel_keep"]
    assert keep.shape == (256, *MEL)
    hidden = ~keep.all(3 - axis)
    np.testing.assert_array_equal(hidden, ~keep.any(3 - axis))
    widths = hidden.sum(1)
    assert set(widths) == set(range(most + 1))
    assert (np.abs(np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int))).sum(1) == 2 * (widths > 0)).all()
    assert hidden[:, 0].any()
    assert hidden[:, -1].any()


def test_masks_of_both_kinds_are_counted() -> None:
    keep = run(time_mask_s=0.2, mel_mask=15)["mel_keep"]
    frames, bands = (~keep.any(2)).sum(1), (~keep.any(1)).sum(1)
    assert (frames + bands).all()
    np.testing.assert_array_equal((~keep).sum((1, 2)), frames * 80 + bands * 63 - frames * bands)


# Picture


def test_flip_mirrors_each_face_in_its_place() -> None:
    batch = windows()
    once = run(batch, flip=1.0)["strip"]
    np.testing.assert_array_equal(faces(once), faces(batch["strip"])[..., ::-1, :])
    np.testing.assert_array_equal(run({**batch, "strip": once}, flip=1.0)["strip"], batch["strip"])


def test_flip_happens_to_some() -> None:
    batch = windows(200)
    flipped = (run(batch, flip=0.25)["strip"] != batch["strip"]).any((1, 2, 3))
    assert 30 <= flipped.sum() <= 70


def test_colour_is_one_affine_map_for_all_five_faces() -> None:
    batch = windows()
    batch["strip"] = batch["strip"] // 4 + 90  # in the middle, so that nothing is clipped
    out = run(batch, colour=0.2)["strip"]
    for before, after in zip(batch["strip"], out, strict=True):
        x = np.column_stack([before.reshape(-1, 3), np.ones(before.size // 3)])
        found, *_ = np.linalg.lstsq(x, after.reshape(-1, 3).astype(float), rcond=None)
        assert np.abs(x @ found - after.reshape(-1, 3)).max() < 1
        # Grey stays grey.
        grey = found[:3].sum(0)
        np.testing.assert_allclose(grey, grey.mean(), atol=0.02)
        np.testing.assert_allclose(found[3], found[3].mean(), atol=2)


def test_colour_keeps_to_its_strength() -> None:
    batch = {**windows(200), "strip": np.full((200, SIDE, 5 * SIDE, 3), 100, np.uint8)}
    out = run(batch, colour=0.2)["strip"]
    # A uniform grey has neither contrast nor saturation.
    assert 80 <= out.min() <= 82
    assert 118 <= out.max() <= 120


def test_crop_jitter_does_the_same_to_all_faces_and_never_mixes_them() -> None:
    batch = windows()
    same = faces(batch["strip"])[:, :1].repeat(5, 1)
    brightness = np.arange(5)[:, None, None, None]
    batch["strip"] = np.moveaxis(same // 2 + 10 * brightness.astype(np.uint8), 1, 2).reshape(batch["strip"].shape)
    out = faces(run(batch, crop_jitter=0.1)["strip"]).astype(int)
    assert np.abs(out - out[:, :1] - 10 * brightness).max() <= 1
    assert (out != faces(batch["strip"])).any((1, 2, 3, 4)).all()


@pytest.mark.parametrize(
    ("zoom", "down", "right", "expected"),
    [
        (0.0, 0.0, 0.0, lambda face: face),
        (0.0, 0.25, 0.0, lambda face: np.concatenate([face[:1].repeat(4, 0), face[:-4]])),
        (0.0, 0.0, -0.25, lambda face: np.concatenate([face[:, 4:], face[:, -1:].repeat(4, 1)], 1)),
        (1.0, 0.0, 0.0, None),
    ],
)
def test_a_known_crop(zoom: float, down: float, right: float, expected: Any) -> None:
    strip = windows(1)["strip"][0]
    with mock.patch.object(jax.random, "uniform", return_value=jnp.array([zoom, down, right])):
        out = faces(np.asarray(module.crop_jitter(jax.random.key(0), jnp.asarray(strip), most=1.0)))
    if expected:
        wanted = [expected(face) for face in faces(strip)]
    else:
        # Twice as large: a bilinear weight of 3/4 and 1/4 in each direction, about the middle.
        def doubled(face: np.ndarray) -> np.ndarray:
            nearer = np.arange(SIDE) // 2 + SIDE // 4
            other = nearer + np.where(np.arange(SIDE) % 2, 1, -1)
            return 0.75 * face[nearer] + 0.25 * face[other]

        wanted = [doubled(doubled(face).swapaxes(0, 1)).swapaxes(0, 1) for face in faces(strip.astype(float))]
    np.testing.assert_allclose(out, wanted, atol=0.01)


def test_erase_blanks_one_rectangle_in_all_five_faces() -> None:
    batch = windows(64)
    out = run(batch, erase=1.0, erase_size=(0.25, 0.5))["strip"]
    mean = np.round(batch["strip"].mean((1, 2)))[:, None, None, None]
    changed = (faces(out) != faces(batch["strip"])).any((1, -1))
    sides = []
    for before, after, there, colour in zip(faces(batch["strip"]), faces(out), changed, mean, strict=True):
        rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
        box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (np.abs(after[box].astype(float) - colour) <= 1).all()
        after = after.copy()
        after[box] = before[box]
        np.testing.assert_array_equal(after, before)
        sides += [rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1]
    assert set(sides) == set(range(4, 9))


# Mixup and the loss of a modality


def test_mixup_is_of_neighbours_in_the_shares_of_their_targets() -> None:
    batch = {**windows(), "label": np.array([0, 1, 2, 3, 4, 0, 1, 1], np.int32)}
    out = run(batch, mixup=1.0)
    np.testing.assert_allclose(out["target"].sum(1), 1, atol=1e-6)
    for i in range(6):
        partner = i ^ 1
        share = out["target"][i, batch["label"][i]]
        assert 0.5 <= share < 1
        assert out["target"][i, batch["label"][partner]] == pytest.approx(1 - share, abs=1e-6)
        for name in ("strip", "waveform"):
            own, other = batch[name][i].astype(float), batch[name][partner].astype(float)
            assert np.abs(share * own + (1 - share) * other - out[name][i]).max() <= 0.51
    assert len({float(out["target"][i].max()) for i in range(6)}) == 3
    np.testing.assert_allclose(out["target"][6:, 1], 1)


@pytest.mark.parametrize(("flag", "mixes"), [("has_audio", False), ("has_video", False), ("mask", False)])
def test_two_of_other_modalities_stay_as_they_are(flag: str, mixes: bool) -> None:
    batch = windows()
    batch[flag][2] = False
    out = run(batch, mixup=1.0)
    for name in ("strip", "waveform"):
        same = (out[name] == batch[name]).reshape(B, -1).all(1)
        assert list(same) == [False, False, True, True, False, False, False, False]
    np.testing.assert_array_equal(out["target"][2:4], np.eye(5)[batch["label"][2:4]])


def test_two_that_lack_the_same_modality_mix() -> None:
    batch = windows()
    batch["has_audio"][2:4] = False
    assert (run(batch, mixup=1.0)["strip"][2:4] != batch["strip"][2:4]).any()


def test_a_loss_takes_one_modality_of_two_and_never_the_last() -> None:
    batch = windows(400)
    batch["has_audio"][:50] = batch["has_video"][50:100] = False
    out = run(batch, modality_dropout=0.5)
    for flag in ("has_audio", "has_video"):
        np.testing.assert_array_equal(out[flag][:100], batch[flag][:100])
    deaf, blind = (~out[flag][100:] for flag in ("has_audio", "has_video"))
    assert not (deaf & blind).any()
    assert 55 <= deaf.sum() <= 95
    assert 55 <= blind.sum() <= 95


# The model's side


def test_masked_cells_are_the_mean_and_nothing_else_changes() -> None:
    config = ravdess.get_config()
    config.model.update({"modalities": "audio", "features": 16})
    net = create_model(config.model.to_dict(), n_classes=5)
    batch = windows(4)
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), batch)
    apply = jax.jit(functools.partial(net.apply, train=False))
    plain = apply(variables, batch)
    np.testing.assert_allclose(apply(variables, {**batch, "mel_keep": np.ones((4, *MEL), bool)}), plain, atol=1e-6)
    keep = np.ones((4, *MEL), bool)
    keep[1, 20:40] = keep[2, :, 30:50] = False
    changed = np.abs(apply(variables, {**batch, "mel_keep": keep}) - plain).max(1) > 1e-4
    assert list(changed) == [False, True, True, False]
    # All hidden: whatever is said, the spectrogram is flat at the mean.
    capture = jax.jit(functools.partial(net.apply, train=False, capture_intermediates=True, mutable=["intermediates"]))
    _, seen = capture(variables, {**batch, "mel_keep": np.zeros((4, *MEL), bool)})
    captured = seen["intermediates"]["audio"]["BatchNorm_0"]["__call__"][0]
    mean = log_mel(jnp.asarray(batch["waveform"]) / 32768).mean((1, 2))
    np.testing.assert_allclose(captured[:, :, 0], np.repeat(mean[:, None] * np.sqrt(80), 63, 1), rtol=1e-3)
    assert np.abs(captured[:, :, 1:]).max() < 1e-2


@pytest.mark.parametrize(
    "settings", [{}, {"hop_length": 300}, {"n_fft": 1023, "hop_length": 250}, {"n_mels": 26, "fmax": 4000.0}]
)
def test_the_shape_and_the_two_halves_of_the_mfcc(settings: dict[str, Any]) -> None:
    sound = jnp.asarray(windows(2)["waveform"]) / 32768
    db = log_mel(sound, **settings)
    assert db.shape[1:] == mel_shape(16_000, n_mfcc=13, **settings)
    np.testing.assert_array_equal(cepstrum(db, n_mfcc=13), mfcc(sound, n_mfcc=13, **settings))


# What a person may get wrong


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("time_shift_s", 1.5, "0 to 1 s"),
        ("gain_db", -6.0, "0 to 40 dB"),
        ("noise_snr_db", (10.0,), "lowest and the highest"),
        ("noise_snr_db", (20.0, 5.0), "lowest and the highest"),
        ("time_mask_s", -0.1, "0 to 1 s"),
        ("mel_mask", -1, "0 or more"),
        ("mel_mask", 81, "n_mels=80"),
        ("flip", 1.1, "probability"),
        ("colour", 2.0, "0 to 1"),
        ("crop_jitter", 0.6, "share"),
        ("erase", -0.1, "probability"),
        ("erase_size", (0.0, 0.5), "share"),
        ("erase_size", (), "share"),
        ("mixup", -1.0, "0 to"),
        ("mixup", float("nan"), "0 to"),
        ("modality_dropout", 1.5, "probability"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: Any, expected: str) -> None:
    config = ravdess.get_config().to_dict()
    config["augment"][field] = value
    with pytest.raises(UserError, match=rf"^augment\.{field}=[^\n]*{expected}[^\n]*$"):
        Augmentation.from_config(config)


def test_a_lone_modality_cannot_be_lost() -> None:
    config = ravdess.get_config()
    config.augment.modality_dropout = 0.2
    config.model.modalities = "audio"
    with pytest.raises(UserError, match=r"^augment\.modality_dropout=0\.2 needs model\.modalities=audio\+video"):
        Augmentation.from_config(config.to_dict())


def test_mixup_needs_pairs_on_every_device() -> None:
    check_share(Augmentation(mixup=0.2), 6)
    check_share(Augmentation(), 7)
    with pytest.raises(UserError, match=r"^augment\.mixup=0\.2 pairs neighbours[^\n]*7 windows[^\n]*even[^\n]*$"):
        check_share(Augmentation(mixup=0.2), 7)


# The gallery

TITLES = {title for title, _ in gallery._TITLES.values()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tiny.write(tmp_path_factory.mktemp("gallery") / "ravdess-0123456789ab", speakers=2)
    (folder / "settings.json").write_text(json.dumps({"face_size": tiny.FACE_SIZE}))
    return folder


def hung(
    corpus: pathlib.Path,
    notes: NoPictures | None = None,
    *,
    drawn: bool = False,
    modalities: str = "audio+video",
    **on: Any,
) -> str:
    """The source of the page, without pictures unless they are to be drawn."""
    path = corpus / "augmentation.html"
    mfcc_settings = ravdess.get_config().model.mfcc.to_dict()
    with contextlib.nullcontext() if drawn else (notes or NoPictures()).within(gallery):
        gallery.write_gallery(
            corpus, path, Augmentation(**on), modalities=modalities, mfcc=mfcc_settings, corpus="ravdess"
        )
    return path.read_text(encoding="utf-8")


def cards(source: str) -> list[str]:
    """The titles of the cards, in order."""
    return re.findall(r"<figcaption><b>([^<]*)</b>", source)


@pytest.mark.slow
def test_the_gallery_shows_every_augmentation_of_four_clips_and_loads_nothing(corpus: pathlib.Path) -> None:
    source = hung(corpus, drawn=True)
    shown = Page(source)
    assert cards(source) == 4 * ["As it is", *(title for title, _ in gallery._TITLES.values())]
    assert len(set(re.findall(r"<h2>(\w+) <span", source))) == 4
    assert all(re.match(r"data:(image/jpeg|audio/wav);base64,[\w+/]{500}", address) for address in shown.loads)
    assert "media-src data:" in source
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe|javascript:", source)
    assert str(corpus.parent) not in source
    # A strip of five, a spectrogram and a player in each card but where the augmentation is of the other modality.
    assert shown.tags["audio"] == 4 * (12 - 4) - source.count("the model is given no sound")
    assert {row[2] for row in shown.rows if len(row) == 4 and row[1].startswith("augment.")} == {"off"}
    assert len(source) < 6_000_000


def test_the_gallery_shows_what_the_config_has_and_draws_of_all_of_it(corpus: pathlib.Path) -> None:
    notes = NoPictures()
    source = hung(corpus, notes, flip=0.25, gain_db=3.0)
    assert cards(source)[12:16] == ["Draw 1", "Draw 2", "Draw 3", "As it is"]
    rows = {row[1]: row[2:] for row in Page(source).rows if len(row) == 4}
    assert rows["augment.flip"] == ["on", "in 25 % of the windows"]
    assert rows["augment.gain_db"] == ["on", "up to 3 dB louder or quieter"]
    assert rows["augment.colour"][0] == "off"
    played = [args[0] for name, args, _ in notes.calls if name == "wav_uri"]
    seen = [args[0] for name, args, _ in notes.calls if name == "strip_uri"]
    assert any(np.array_equal(faces(strip), faces(seen[0])[..., ::-1, :]) for strip in seen)
    # One of the sounds is the plain one times a factor, that of the strongest draw and so beyond 2 dB.
    plain = played[0].astype(float)
    factors = [(sound * plain).sum() / (plain**2).sum() for sound in played[:6]]
    [gain] = {
        round(factor, 4)
        for factor, sound in zip(factors, played, strict=False)
        if factor != 1 and np.abs(sound - factor * plain).max() <= 1
    }
    assert 2 < abs(20 * np.log10(gain)) <= 3


def test_a_model_of_sound_is_shown_sound(corpus: pathlib.Path) -> None:
    notes = NoPictures()
    source = hung(corpus, notes, modalities="audio")
    assert not {"Mirrored", "Colour", "Crop", "Erased", "Modality dropout"} & set(cards(source))
    assert not [name for name, *_ in notes.calls if name == "strip_uri"]


def test_inspect_writes_the_gallery_where_it_is_asked_for(
    corpus: pathlib.Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "prepared", lambda config: corpus)
    monkeypatch.setattr("fusion_emotion.evaluate.inspect.figures", NoPictures())
    monkeypatch.setattr("fusion_emotion.pages.prepared.pictures", NoPictures())
    written = mock.Mock()
    monkeypatch.setattr(gallery, "write_gallery", written)
    config = ravdess.get_config()
    commands.MODES["inspect"](config.to_dict(), corpus.parent / "run")
    assert not written.called
    config.inspect.augment = True
    commands.MODES["inspect"](config.to_dict(), corpus.parent / "run")
    assert written.call_args.args == (corpus, corpus / "augmentation.html", Augmentation())
    assert str(corpus / "augmentation.html") in capsys.readouterr().out
    config.augment.gain_db = -1.0
    with pytest.raises(UserError, match=r"augment\.gain_db"):
        commands.MODES["inspect"](config.to_dict(), corpus.parent / "run")


def test_a_gallery_that_cannot_be_written_is_a_user_error(corpus: pathlib.Path) -> None:
    with (
        mock.patch.object(gallery.page, "write", side_effect=OSError(28, "No space left on device")),
        pytest.raises(UserError, match=r"augmentation\.html cannot be written \(No space"),
    ):
        hung(corpus)
