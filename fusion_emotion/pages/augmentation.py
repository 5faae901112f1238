"""The augmentations to one HTML file, so that a person sees and hears what training is given."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from fusion_emotion import corpora
from fusion_emotion.errors import UserError
from fusion_emotion.input.augment import Augmentation, augment
from fusion_emotion.input.batches import Batch, cut
from fusion_emotion.input.segments import n_times, usable_rows
from fusion_emotion.models.frontend import log_mel, mel_edges_hz, mel_shape
from fusion_emotion.pages import page, pictures
from fusion_emotion.prepare.records import Row, decode, shard_paths
from fusion_emotion.units import FRAME_RATE_HZ

CLIPS = 4  # of as many emotions
TRIES = 16  # draws of which the strongest is shown
DRAWS = 3  # of all that a config has on

# What is shown where the config has it off.
_TYPICAL = Augmentation(
    time_shift_s=0.1,
    gain_db=6.0,
    noise_snr_db=(5.0, 15.0),
    time_mask_s=0.2,
    mel_mask=16,
    flip=0.5,
    colour=0.3,
    crop_jitter=0.1,
    erase=0.5,
    mixup=0.4,
    modality_dropout=0.2,
)
_PICTURE = ("flip", "colour", "crop_jitter", "erase")
_SOUND = ("time_shift_s", "gain_db", "noise_snr_db", "time_mask_s", "mel_mask")
_BOTH = ("mixup", "modality_dropout")
_PROBABILITIES = ("flip", "erase", "modality_dropout")  # shown as what they do where they do it
_TITLES = {
    "mixup": ("Mixup", "with the next window, shares by Beta({s.mixup:g})"),
    "modality_dropout": ("Modality dropout", "in {modality_dropout} % of the windows one is lost"),
    "time_shift_s": ("Shifted in time", "up to {s.time_shift_s:g} s earlier or later"),
    "gain_db": ("Gain", "up to {s.gain_db:g} dB louder or quieter"),
    "noise_snr_db": ("Noise", "{snr} dB below the sound"),
    "time_mask_s": ("Time mask", "up to {s.time_mask_s:g} s"),
    "mel_mask": ("Mel mask", "up to {s.mel_mask} bands"),
    "flip": ("Mirrored", "in {flip} % of the windows"),
    "colour": ("Colour", "brightness, contrast, saturation times {low:.2g} to {high:.2g}"),
    "crop_jitter": ("Crop", "zoom and shift up to {crop_jitter} % of the face"),
    "erase": ("Erased", "in {erase} % of the windows; sides {size} % of the face's"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """A window as one draw leaves it."""

    title: str
    strength: str
    said: str = ""  # of this draw
    picture: str = ""  # data URIs, or ""
    spectrogram: str = ""
    sound: str = ""
    alt: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip's window and what becomes of it."""

    clip_id: str
    emotion: str
    where: str
    alone: Sequence[Card]
    together: Sequence[Card]


def write_gallery(
    folder: pathlib.Path,
    path: pathlib.Path,
    settings: Augmentation,
    *,
    modalities: str,
    mfcc: Mapping[str, Any],
    corpus: str,
) -> None:
    """Write what the augmentations do to windows of the corpus prepared in `folder` to `path`, whole or not at all.

    Each is shown alone, as `settings` has it or at a typical strength where it is off there, then all that is on.
    `modalities` and `mfcc` are of a config's model section, `corpus` of its data section. Raises UserError where no
    clip is usable or `path` cannot be written.
    """
    rows, _ = usable_rows(folder, modalities)
    rows = choose(rows)
    starts = [max(0, n_times(row) - FRAME_RATE_HZ) // 2 for row in rows]
    records = grain.sources.ArrayRecordDataSource(shard_paths(folder))
    windows = [
        {**cut(decode(records[row.record]), start), "label": np.int32(row.label), "mask": np.bool_(True)}
        for row, start in zip(rows, starts, strict=True)
    ]
    label_names = corpora.label_names(corpus)
    painter = _Painter(settings, modalities=modalities, mfcc=dict(mfcc), label_names=label_names)
    shown = [
        Shown(
            clip_id=row.clip_id,
            emotion=label_names[row.label],
            where=f"from {start / FRAME_RATE_HZ:.1f} s to {start / FRAME_RATE_HZ + 1:.1f} s",
            # The next one is what mixup pairs it with.
            **painter.cards(windows[i], windows[(i + 1) % len(windows)], row.clip_id),
        )
        for i, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]
    table = [
        {"title": title, "field": f"augment.{name}", "strength": painter.strength(name), "on": name in settings.on}
        for name, (title, _) in _TITLES.items()
    ]
    values = {"shown": shown, "table": table, "tries": TRIES, "credit": page.CREDITS.get(corpus, "")}
    try:
        page.write(path, "augmentation.html", **values)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): make room, or the folder writable") from error


def choose(rows: Sequence[Row]) -> list[Row]:
    """Clips of different emotions, first those with faces and sound, by the hash of their names."""
    by_label: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (not (row.n_frames and row.n_samples), page.hashed(row.clip_id))):
        by_label.setdefault(row.label, row)
    return list(by_label.values())[:CLIPS]


class _Painter:
    """Makes the cards; each augmentation is compiled once for all clips."""

    def __init__(
        self, settings: Augmentation, *, modalities: str, mfcc: dict[str, Any], label_names: Sequence[str]
    ) -> None:
        self._settings = settings
        on = {name: getattr(settings, name) for name in settings.on}
        self._strong = dataclasses.replace(_TYPICAL, erase_size=settings.erase_size, **on)
        self._modalities = modalities
        self._label_names = label_names
        self._mel = {name: value for name, value in mfcc.items() if name != "n_mfcc"}
        self._centres_hz = mel_edges_hz(mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])[1:-1]
        self._log_mel = jax.jit(functools.partial(log_mel, **self._mel))
        self._augment = jax.jit(augment, static_argnames=("settings", "n_classes", "mel_shape"))

    def strength(self, name: str) -> str:
        """How strong an augmentation is shown, in words."""
        s = self._strong
        shares = ("flip", "crop_jitter", "erase", "modality_dropout")
        values = {
            **{share: f"{100 * getattr(s, share):g}" for share in shares},
            "size": " to ".join(f"{100 * end:g}" for end in s.erase_size),
            "snr": " to ".join(f"{end:g}" for end in s.noise_snr_db),
            "low": 1 - s.colour,
            "high": 1 + s.colour,
        }
        return _TITLES[name][1].format(s=s, **values)

    def cards(self, window: Batch, partner: Batch, clip_id: str) -> dict[str, list[Card]]:
        """The cards of a window: it plain and with each augmentation alone, and with all that are on together."""
        # The window in the first place of each pair, with a key of its own in each.
        pairs = [window, partner] * TRIES
        batch = {name: np.stack([each[name] for each in pairs]) for name in window}
        seen = bool(window["has_video"]) and "video" in self._modalities
        heard = bool(window["has_audio"]) and "audio" in self._modalities
        names = [*(_BOTH if seen and heard else _BOTH[:1]), *(_SOUND if heard else ()), *(_PICTURE if seen else ())]
        plain = self._drawn(batch, Augmentation())[0]
        db = np.asarray(self._log_mel(jnp.asarray(plain["waveform"]) / 32768))
        draw = functools.partial(self._card, span_db=(float(db.max()) - 70, float(db.max()) + 6), clip_id=clip_id)
        alone = [draw(plain, "As it is", "", seen=seen, heard=heard)]
        for name in names:
            value: Any = 1.0 if name in _PROBABILITIES else getattr(self._strong, name)
            only = dataclasses.replace(Augmentation(erase_size=self._strong.erase_size), **{name: value})
            drawn = self._drawn(batch, only)
            strongest = drawn[int(np.argmax([_difference(each, plain) for each in drawn]))]
            strength = self.strength(name) + ("" if name in self._settings.on else " (off)")
            alone.append(
                draw(
                    strongest,
                    _TITLES[name][0],
                    strength,
                    seen=seen and name not in _SOUND,
                    heard=heard and name not in _PICTURE,
                )
            )
        together = []
        if self._settings.on:
            drawn = self._drawn(batch, self._settings)[:DRAWS]
            together = [draw(each, f"Draw {i}", "", seen=seen, heard=heard) for i, each in enumerate(drawn, start=1)]
        return {"alone": alone, "together": together}

    def _drawn(self, batch: Batch, settings: Augmentation) -> list[Batch]:
        """The first of each pair."""
        shape = mel_shape(batch["waveform"].shape[1], **self._mel)
        keys = jax.random.split(jax.random.key(0), len(batch["label"]))
        out = self._augment(batch, keys, settings=settings, n_classes=len(self._label_names), mel_shape=shape)
        out = {name: np.asarray(value) for name, value in out.items()}
        return [{name: value[i] for name, value in out.items()} for i in range(0, len(batch["label"]), 2)]

    def _card(
        self,
        window: Batch,
        title: str,
        strength: str,
        *,
        seen: bool,
        heard: bool,
        span_db: tuple[float, float],
        clip_id: str,
    ) -> Card:
        said = []
        if (window["target"] > 0).sum() > 1:
            shares = sorted(zip(window["target"], self._label_names, strict=True), reverse=True)
            said.append(", ".join(f"{100 * share:.0f} % {name}" for share, name in shares if share > 0))
        if seen and not window["has_video"]:
            said.append("the model is given no faces")
        if heard and not window["has_audio"]:
            said.append("the model is given no sound")
        seen, heard = seen and bool(window["has_video"]), heard and bool(window["has_audio"])
        spectrogram = ""
        if heard:
            db = np.asarray(self._log_mel(jnp.asarray(window["waveform"]) / 32768))
            if "mel_keep" in window:
                db = np.where(window["mel_keep"], db, db.mean())
                said.append("the mask is not to be heard: it is in the spectrogram alone")
            spectrogram = pictures.jpeg_uri(pictures.log_mel(db, centres_hz=self._centres_hz, span_db=span_db))
        return Card(
            title=title,
            strength=strength,
            said="; ".join(said),
            picture=pictures.strip_uri(window["strip"]) if seen else "",
            spectrogram=spectrogram,
            sound=pictures.wav_uri(window["waveform"]) if heard else "",
            alt=f"{title}: clip {clip_id}",
        )


def _difference(window: Batch, plain: Batch) -> float:
    """How much a draw changed of what there is to see and to hear."""
    sound = plain["waveform"].astype(float)
    return float(
        np.abs(window["strip"].astype(float) - plain["strip"]).mean() / 255
        + np.abs(window["waveform"] - sound).mean() / max(np.abs(sound).mean(), 1)
        + (1 - window.get("mel_keep", np.ones(1)).mean())
    )
