"""The page of the augmentations."""

import base64
import io
import itertools
import pathlib
import wave
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import page_kit
import run_tiny
import tiny
from fusion_emotion import commands
from fusion_emotion.pages.augmentation import EFFECTS, choose, write_augmentation
from fusion_emotion.prepare.records import MANIFEST, read_rows, write_rows
from page_kit import Page

TITLES = [effect.title for effect in EFFECTS.values()]
CLIPS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    folder = tiny.write(tmp_path_factory.mktemp("augmentation") / "ravdess-0", speakers=1, n_frames=6)
    write_rows(folder / MANIFEST, list(read_rows(folder / MANIFEST))[:CLIPS])
    # Compiling takes most of the time of a page.
    jax.config.update("jax_disable_most_optimizations", True)
    yield folder
    jax.config.update("jax_disable_most_optimizations", False)


def page_of(folder: pathlib.Path, **changes: Any) -> Page:
    write_augmentation(folder, folder / "augmentation.html", run_tiny.settings(**changes))
    return page_kit.read(folder / "augmentation.html")


def cards(page: Page) -> list[str]:
    """The titles of the cards, by their pictures."""
    return [title for title, _ in itertools.groupby(alt.partition(":")[0] for alt in page.alts)]


def sounds(page: Page) -> list[np.ndarray]:
    found = []
    for load in page.loads:
        if load.startswith("data:audio/wav"):
            with wave.open(io.BytesIO(base64.b64decode(load.partition(",")[2]))) as file:
                found.append(np.frombuffer(file.readframes(-1), "<i2").astype(float))
    return found


@pytest.mark.slow
def test_all_off_shows_each_at_a_typical_strength(folder: pathlib.Path) -> None:
    page = page_of(folder)
    assert len({heading for heading in page.headings if heading.startswith("h2")}) == CLIPS
    assert not [heading for heading in page.headings if heading.startswith("h3")]
    assert cards(page) == CLIPS * ["As it is", *TITLES]
    assert {row[2] for row in page.rows if len(row) == 4 and row[1].startswith("augment.")} == {"off"}
    # A player in each card but those of the picture, and where the sound is lost.
    of_sound = 1 + sum(effect.kind != "picture" for effect in EFFECTS.values())
    assert page.tags["audio"] == CLIPS * of_sound - page.text.count("no sound")
    assert page.text.count("in the spectrogram only, not in the sound") == CLIPS * 4  # both masks, tempo and pitch


@pytest.mark.slow
def test_sound_alone_and_what_the_config_has_on(folder: pathlib.Path) -> None:
    page = page_of(folder, model__modalities="audio", segment__seconds=1.2, augment__gain_db=3.0, augment__mel_mask=40)
    of_sound = [effect.title for name, effect in EFFECTS.items() if effect.kind == "sound" or name == "mixup"]
    assert cards(page) == CLIPS * ["As it is", *of_sound, "Draw 1", "Draw 2", "Draw 3"]
    rows = {row[1]: row[2:] for row in page.rows if len(row) == 4}
    assert rows["augment.gain_db"] == ["on", "up to 3 dB louder or quieter"]
    assert rows["augment.noise_snr_db"][0] == "off"
    # The gain is one factor: that of the strongest of 16 draws, so beyond 2 dB.
    plain, _, _, louder, *_ = sounds(page)
    assert len(plain) == 19_200
    factor = (louder * plain).sum() / (plain**2).sum()
    assert np.abs(louder - factor * plain).max() <= 1
    assert 2 < abs(20 * np.log10(factor)) <= 3


def test_clips_are_of_different_emotions_and_do_not_depend_on_the_order() -> None:
    rows = [tiny.row_of(record, index=i) for i, record in enumerate(page_kit.records_of(8))]
    rows[3].n_samples = 0
    chosen = choose(rows)
    assert chosen == choose(rows[::-1])
    assert len({row.label for row in chosen}) == 4
    assert rows[3] not in chosen


@pytest.mark.slow
def test_inspect_writes_both_pages(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = tiny.write(tmp_path / "records", speakers=1)
    (records / "settings.json").write_text("{}")
    monkeypatch.setattr(commands, "prepared", lambda config: records)
    commands.inspect(run_tiny.settings(run__show_augment=True), tmp_path)
    assert (records / commands.PREPARED).stat().st_size > 10_000
    assert (records / commands.AUGMENTATION).stat().st_size > 10_000
