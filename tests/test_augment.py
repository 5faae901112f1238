"""Each augmentation does what its name and number say, by example and not by device.

All tests share one batch size and one value of each field, so that every augmentation is compiled once.
"""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from fusion_emotion import config
from fusion_emotion.errors import UserError
from fusion_emotion.input.augment import Augmentation, augment, check_pairs
from fusion_emotion.units import SAMPLES_PER_FRAME

B, T, SIDE = 64, 5, 16
ALL: dict[str, Any] = {
    "time_shift_s": 0.1,
    "gain_db": 6.0,
    "noise_snr_db": (5.0, 20.0),
    "flip": 0.5,
    "colour": 0.3,
    "crop_jitter": 0.1,
    "erase": 0.5,
    "mixup": 1.0,
    "modality_dropout": 0.5,
}
SOUND = ("time_shift_s", "gain_db", "noise_snr_db")
Batch = dict[str, np.ndarray]


def segments() -> Batch:
    """Noise, of a loudness that no gain of 6 dB clips."""
    rng = np.random.default_rng(0)
    return {
        "faces": rng.integers(0, 256, (B, T, SIDE, SIDE, 3), np.uint8),
        "face_found": np.ones((B, T), bool),
        "n_frames": np.full(B, T, np.int32),
        "waveform": rng.normal(0, 2000, (B, T * SAMPLES_PER_FRAME)).astype(np.int16),
        "n_samples": np.full(B, T * SAMPLES_PER_FRAME, np.int32),
        "label": (np.arange(B) % 5).astype(np.int32),
        "has_audio": np.ones(B, bool),
        "has_video": np.ones(B, bool),
        "mask": np.ones(B, bool),
    }


def shortened(batch: Batch, n_frames: list[int]) -> Batch:
    """The batch as segments of fewer frames, in turn, padded to T."""
    lengths = np.resize(n_frames, B).astype(np.int32)
    inside = np.arange(batch["waveform"].shape[1]) < lengths[:, None] * SAMPLES_PER_FRAME
    sound = {"waveform": np.where(inside, batch["waveform"], 0).astype(np.int16), "n_samples": inside.sum(1, np.int32)}
    return {**batch, **sound, "n_frames": lengths, "face_found": np.arange(T) < lengths[:, None]}


def keys(*, seed: int = 0) -> jax.Array:
    return jax.random.split(jax.random.key(seed), B)


@functools.cache
def compiled(*names: str) -> Any:
    settings = Augmentation(**{name: ALL[name] for name in names})
    return jax.jit(functools.partial(augment, settings=settings, n_classes=5))


def run(*names: str, batch: Batch | None = None, seed: int = 0) -> Batch:
    out = compiled(*names)(segments() if batch is None else batch, keys(seed=seed))
    return {name: np.asarray(value) for name, value in out.items()}


# The whole


def test_off_changes_nothing_but_adds_the_target() -> None:
    batch, out = segments(), run()
    assert set(out) == {*batch, "target"}
    for name, value in batch.items():
        np.testing.assert_array_equal(out[name], value)
        assert out[name].dtype == value.dtype
    np.testing.assert_array_equal(out["target"], np.eye(5, dtype=np.float32)[batch["label"]])
    assert Augmentation.from_config(config.defaults().to_dict()) == Augmentation()
    assert Augmentation().on == ()
    assert Augmentation(**ALL).on == tuple(ALL)


@pytest.mark.parametrize("name", ALL)
def test_each_alone_changes_its_own_fields_and_an_example_goes_with_its_key(name: str) -> None:
    own = {"mixup": {"faces", "waveform", "target"}, "modality_dropout": {"has_audio", "has_video"}}.get(
        name, {"waveform"} if name in SOUND else {"faces"}
    )
    batch, plain, out, other = segments(), run(), run(name), run(name, seed=1)
    assert {field for field in out if not np.array_equal(out[field], plain[field])} == own
    assert all(out[field].dtype == plain[field].dtype for field in out)
    assert any(not np.array_equal(out[field], other[field]) for field in own)
    order = np.random.default_rng(3).permutation(B // 2)[:, None] * 2 + [0, 1]  # mixup's pairs stay together
    permuted = compiled(name)({field: value[order.ravel()] for field, value in batch.items()}, keys()[order.ravel()])
    for field, value in out.items():
        np.testing.assert_array_equal(value[order.ravel()], permuted[field], err_msg=field)


@pytest.mark.parametrize("name", ["noise_snr_db", "colour"])
def test_nothing_depends_on_the_number_of_devices(name: str) -> None:
    """Sums over an example may round otherwise in another program; test_devices.py has the other augmentations."""
    batch, together = segments(), run(name)
    for share in (slice(i, i + 2) for i in range(0, 8, 2)):
        alone = compiled(name)({field: value[share] for field, value in batch.items()}, keys()[share])
        for field in ("faces", "waveform"):
            assert np.abs(np.asarray(alone[field], float) - together[field][share]).max() <= 1, field


# Sound


@pytest.mark.parametrize("name", [*SOUND, "mixup"])
def test_padding_stays_silent(name: str) -> None:
    batch = shortened(segments(), [1, 4, 2, 5, 3, 3, 4, 2])
    out = run(name, batch=batch)
    beyond = np.arange(out["waveform"].shape[1]) >= out["n_frames"][:, None] * SAMPLES_PER_FRAME
    assert not out["waveform"][beyond].any()
    assert (out["waveform"] != batch["waveform"]).any(1).all()


def test_time_shift_moves_and_fills_with_zeros() -> None:
    batch = segments()
    batch["waveform"] = np.abs(batch["waveform"]) + np.int16(1)
    shifts = []
    for before, after in zip(batch["waveform"], run("time_shift_s", batch=batch)["waveform"], strict=True):
        first, *_, last = np.flatnonzero(after)
        later = first if first else last - 15_999
        np.testing.assert_array_equal(after[first : last + 1], before[max(0, -later) :][: 16_000 - abs(later)])
        shifts.append(later)
    assert -1600 <= min(shifts) < -1000
    assert 1000 < max(shifts) <= 1600


def test_gain_is_one_factor_within_its_range() -> None:
    before, out = segments()["waveform"].astype(float), run("gain_db")["waveform"].astype(float)
    factor = (out * before).sum(1) / (before**2).sum(1)
    assert np.abs(out - factor[:, None] * before).max() <= 1
    gains_db = 20 * np.log10(factor)
    assert -6 <= gains_db.min() < -4
    assert 4 < gains_db.max() <= 6


def test_gain_clips_rather_than_wraps() -> None:
    square = np.where(np.arange(16_000) % 2, 32_767, -32_768).astype(np.int16)
    out = run("gain_db", batch={**segments(), "waveform": np.tile(square, (B, 1))})["waveform"]
    assert (np.sign(out) == np.sign(square)).all()
    assert (out.max(1) == 32_767).any()


def test_noise_has_the_ratio_asked_for_whatever_the_loudness_and_the_length() -> None:
    """The ratio is to the sound alone, not to the silence behind it, and of the key; silence stays silent."""

    def ratio_db(waveform: np.ndarray, n_samples: int = 16_000) -> np.ndarray:
        waveform = np.where(np.arange(16_000) < n_samples, waveform, 0).astype(np.int16)
        batch = {**segments(), "waveform": waveform, "n_samples": np.full(B, n_samples, np.int32)}
        before = waveform.astype(float)
        noise = run("noise_snr_db", batch=batch)["waveform"] - before
        return 10 * np.log10((before**2).sum(1) / n_samples / (noise**2).mean(1))

    sound = segments()["waveform"]
    full = ratio_db(sound)
    assert 5 <= full.min() < 7
    assert 18 < full.max() < 20.1
    np.testing.assert_allclose(ratio_db(sound, n_samples=6_000), full, atol=0.1)
    np.testing.assert_allclose(ratio_db(0.1 * sound), full, atol=0.1)
    silence = {**segments(), "waveform": np.zeros((B, 16_000), np.int16)}
    assert not run("noise_snr_db", batch=silence)["waveform"].any()


def test_noise_is_between_white_and_brown_and_of_its_key() -> None:
    noise = run("noise_snr_db")["waveform"] - segments()["waveform"].astype(float)
    power = np.abs(np.fft.rfft(noise)) ** 2
    log_hz = np.log(np.arange(100, 4000))
    slopes = np.array([-np.polyfit(log_hz, np.log(spectrum[100:4000]), 1)[0] for spectrum in power])
    assert -0.1 < slopes.min() < 0.5
    assert 1.5 < slopes.max() < 2.1
    assert np.abs(np.corrcoef(noise) - np.eye(B)).max() < 0.25
    # The sum of so many tones is normal: three per thousand lie beyond three deviations.
    white = noise[slopes.argmin()]
    assert np.mean(np.abs(white) > 3 * white.std()) == pytest.approx(0.0027, abs=0.002)


# Faces


def test_flip_mirrors_each_face_in_its_place() -> None:
    before, out = segments()["faces"], run("flip")["faces"]
    flipped = (out != before).any((1, 2, 3, 4))
    np.testing.assert_array_equal(out[flipped], before[flipped][..., ::-1, :])
    assert 20 <= flipped.sum() <= 44


def test_colour_is_one_affine_map_for_all_faces() -> None:
    batch = segments()
    batch["faces"] = batch["faces"] // 4 + 90  # in the middle, so that nothing is clipped
    for before, after in zip(batch["faces"], run("colour", batch=batch)["faces"], strict=True):
        x = np.column_stack([before.reshape(-1, 3), np.ones(before.size // 3)])
        matrix, *_ = np.linalg.lstsq(x, after.reshape(-1, 3).astype(float), rcond=None)
        assert np.abs(x @ matrix - after.reshape(-1, 3)).max() < 1
        # Grey stays grey.
        grey = matrix[:3].sum(0)
        np.testing.assert_allclose(grey, grey.mean(), atol=0.02)
        np.testing.assert_allclose(matrix[3], matrix[3].mean(), atol=2)
    # A uniform grey has neither contrast nor saturation.
    out = run("colour", batch={**batch, "faces": np.full_like(batch["faces"], 100)})["faces"]
    assert 70 <= out.min() <= 74
    assert 126 <= out.max() <= 130


def test_crop_jitter_zooms_and_shifts_all_faces_alike() -> None:
    """On a ramp to the right in red and downwards in green, the place that each pixel came from can be read."""
    batch, place = segments(), np.arange(SIDE, dtype=np.uint8)
    batch["faces"] = np.zeros_like(batch["faces"])
    batch["faces"][..., 0] = 16 * place
    batch["faces"][..., 1] = 16 * place[:, None]
    out = run("crop_jitter", batch=batch)["faces"]
    np.testing.assert_array_equal(out, out[:, :1].repeat(T, 1))
    across, down = out[:, 0, 5, :, 0] / 16, out[:, 0, :, 5, 1] / 16
    np.testing.assert_array_equal(out[:, 0, :, :, 0] / 16, across[:, None].repeat(SIDE, 1))
    middle = slice(4, 12)  # away from the edges, which are repeated
    shifts = []
    for source in np.concatenate([across, down]):
        slope, offset = np.polyfit(place[middle] - 7.5, source[middle], 1)
        assert 1 / 1.1 - 0.01 <= slope <= 1 / 0.9 + 0.01
        assert np.abs(np.clip(offset + slope * (place - 7.5), 0, 15) - source).max() < 0.1
        shifts.append((7.5 - offset) / SIDE)
    assert -0.105 < min(shifts) < -0.08
    assert 0.08 < max(shifts) < 0.105


def test_erase_blanks_one_rectangle_in_all_faces_or_none() -> None:
    batch, out = segments(), run("erase")["faces"]
    mean = np.round(batch["faces"].mean((1, 2, 3)))
    changed = (out != batch["faces"]).any((1, -1))
    erased = np.flatnonzero(changed.any((1, 2)))
    sides = []
    for i in erased:
        rows, columns = np.flatnonzero(changed[i].any(1)), np.flatnonzero(changed[i].any(0))
        box = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (np.abs(out[i][box].astype(float) - mean[i]) <= 1).all()
        assert (len(rows), len(columns)) == (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        sides += [len(rows), len(columns)]
    assert set(sides) == set(range(2, 7))
    assert 20 <= len(erased) <= 44


# Mixup and the loss of a modality


def test_mixup_is_of_neighbours_in_the_shares_of_their_targets() -> None:
    batch = segments()
    batch["label"][6:8] = 1
    out = run("mixup", batch=batch)
    np.testing.assert_allclose(out["target"].sum(1), 1, atol=1e-6)
    for i in range(6):
        partner = i ^ 1
        share = out["target"][i, batch["label"][i]]
        assert 0.5 <= share < 1
        assert out["target"][i, batch["label"][partner]] == pytest.approx(1 - share, abs=1e-6)
        for name in ("faces", "waveform"):
            own, other = batch[name][i].astype(float), batch[name][partner].astype(float)
            assert np.abs(share * own + (1 - share) * other - out[name][i]).max() <= 0.51
    assert len({float(out["target"][i].max()) for i in range(6)}) == 3
    np.testing.assert_allclose(out["target"][6:8, 1], 1)


def test_a_mixture_is_as_long_as_its_longer_part() -> None:
    batch = shortened(segments(), [5, 3, 2, 4, 1, 1, 5, 2])
    batch["has_audio"][7::8] = False
    out = run("mixup", batch=batch)
    expected = np.resize([5, 5, 4, 4, 1, 1, 5, 2], B)  # the last two do not mix
    np.testing.assert_array_equal(out["n_frames"], expected)
    np.testing.assert_array_equal(out["n_samples"], expected * SAMPLES_PER_FRAME)
    np.testing.assert_array_equal(out["face_found"].sum(1), expected)


@pytest.mark.parametrize("flag", ["has_audio", "has_video", "mask"])
def test_two_of_other_modalities_stay_as_they_are(flag: str) -> None:
    batch = segments()
    batch[flag][2] = False
    batch["has_audio"][4:6] = False  # alike: they mix
    out = run("mixup", batch=batch)
    for name in ("faces", "waveform"):
        assert np.flatnonzero((out[name] == batch[name])[:8].reshape(8, -1).all(1)).tolist() == [2, 3]
    np.testing.assert_array_equal(out["target"][2:4], np.eye(5)[batch["label"][2:4]])


def test_a_loss_takes_one_modality_of_two_and_never_the_last() -> None:
    batch = segments()
    batch["has_audio"][:8] = batch["has_video"][8:16] = False
    out = run("modality_dropout", batch=batch)
    lost = {flag: ~out[flag] & batch[flag] for flag in ("has_audio", "has_video")}
    assert not any(flags[:16].any() for flags in lost.values())
    assert not (lost["has_audio"] & lost["has_video"]).any()
    assert all(5 <= flags.sum() <= 20 for flags in lost.values())


def test_mixup_needs_pairs_on_every_device() -> None:
    check_pairs(Augmentation(mixup=0.2), 6)
    check_pairs(Augmentation(), 7)
    with pytest.raises(UserError, match=r"augment\.mixup"):
        check_pairs(Augmentation(mixup=0.2), 7)
