"""The augmentations as one HTML file: a person sees and hears what the training step gets."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from fusion_emotion.corpora import catalogue
from fusion_emotion.evaluate.answers import hashed
from fusion_emotion.input.augment import Augmentation, augment
from fusion_emotion.input.batches import Source
from fusion_emotion.input.segments import Cutting, segments_of, usable_rows
from fusion_emotion.models.batch import Batch
from fusion_emotion.models.frontend import mel_edges_hz, spec_augment, spectrogram, warped
from fusion_emotion.pages import page, pictures
from fusion_emotion.prepare.records import Row
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

_RANGE_DB = 70  # of the spectrograms that are shown
TRIES = 16  # draws of which the strongest is shown


class Effect(NamedTuple):
    """How the page shows an augmentation."""

    title: str
    kind: Literal["picture", "sound", "both"]
    typical: Any  # the value to show where the config has it off
    strength: Callable[[Augmentation], str]  # in words
    is_probability: bool = False  # then an example where it happens is shown


# By the name of the field in `Augmentation`, in the order of the page.
EFFECTS: Mapping[str, Effect] = {
    "mixup": Effect("Mixup", "both", 0.4, lambda s: f"with the next segment, shares by Beta({s.mixup:g})"),
    "modality_dropout": Effect(
        "Modality dropout", "both", 0.2, lambda s: f"{100 * s.modality_dropout:g} % of the segments lose one", True
    ),
    "time_shift_s": Effect("Shifted in time", "sound", 0.1, lambda s: f"up to {s.time_shift_s:g} s earlier or later"),
    "gain_db": Effect("Gain", "sound", 6.0, lambda s: f"up to {s.gain_db:g} dB louder or quieter"),
    "noise_snr_db": Effect(
        "Noise", "sound", (5.0, 15.0), lambda s: "{:g} to {:g} dB below the sound".format(*s.noise_snr_db)
    ),
    "time_mask_s": Effect("Time mask", "sound", 0.2, lambda s: f"up to {s.time_mask_s:g} s"),
    "mel_mask": Effect("Mel mask", "sound", 16, lambda s: f"up to {s.mel_mask} bands"),
    "tempo": Effect("Tempo", "sound", 0.1, lambda s: f"time stretched by {1 - s.tempo:.2g} to {1 + s.tempo:.2g}"),
    "pitch": Effect("Pitch", "sound", 0.08, lambda s: f"mel bands stretched by {1 - s.pitch:.2g} to {1 + s.pitch:.2g}"),
    "flip": Effect("Mirrored", "picture", 0.5, lambda s: f"in {100 * s.flip:g} % of the segments", True),
    "colour": Effect(
        "Colour",
        "picture",
        0.3,
        lambda s: f"brightness, contrast, saturation times {1 - s.colour:.2g} to {1 + s.colour:.2g}",
    ),
    "crop_jitter": Effect(
        "Crop", "picture", 0.1, lambda s: f"zoom and shift up to {100 * s.crop_jitter:g} % of the face"
    ),
    "erase": Effect(
        "Erased",
        "picture",
        0.5,
        lambda s: "in {:g} % of the segments; sides {:g} to {:g} % of the face's".format(
            *(100 * share for share in (s.erase, *s.erase_size))
        ),
        True,
    ),
}


class Draw(NamedTuple):
    """A segment after one random draw of an augmentation."""

    example: Batch
    db: Float[np.ndarray, "time n_mels"]
    is_drawn_over: bool  # the spectrogram is not that of the sound


def write_augmentation(folder: pathlib.Path, path: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Write the augmentations' effects on segments of the corpus prepared in `folder` to `path`, all or nothing.

    Each is shown alone, at the strength of the config or at a typical one if it is off; then all that are on together.
    Raises UserError if no clip is usable or `path` cannot be written.
    """
    corpus = catalogue.corpus_of(config)
    rows, labels, _ = usable_rows(folder, config)
    source = Source.open(folder, segments_of(choose(rows), Cutting.from_config(config["segment"])))
    rows = list(source.segments.rows)
    examples = [source.segment(source.segments.middle(clip)) for clip in range(len(rows))]
    painter = _Painter(config, labels.names)
    page.write(
        path,
        "augmentation.html",
        # Mixup pairs a segment with the next one.
        shown=[
            painter.shown(row, example, examples[(i + 1) % len(examples)])
            for i, (row, example) in enumerate(zip(rows, examples, strict=True))
        ],
        table=[
            (effect.title, f"augment.{name}", name in painter.settings.on, effect.strength(painter.strengths))
            for name, effect in EFFECTS.items()
        ],
        tries=TRIES,
        credit=corpus.credit,
    )


def choose(rows: Sequence[Row]) -> list[Row]:
    """Choose up to four clips of different emotions by the hash of their names, those with faces and sound first."""
    by_label: dict[int, Row] = {}
    for row in sorted(rows, key=lambda row: (not (row.n_frames and row.n_samples), hashed(row.clip_id))):
        by_label.setdefault(row.label, row)
    return list(by_label.values())[:4]


class _Painter:
    """Makes the cards; each augmentation is compiled once for all clips."""

    def __init__(self, config: Mapping[str, Any], label_names: Sequence[str]) -> None:
        self.settings = Augmentation.from_config(config)
        typical = {name: effect.typical for name, effect in EFFECTS.items() if name not in self.settings.on}
        self.strengths = dataclasses.replace(self.settings, **typical)
        self._modalities = config["model"]["modalities"]
        self._label_names = label_names
        mfcc = config["model"]["mfcc"]
        self._mel = {name: value for name, value in mfcc.items() if name != "n_mfcc"}
        self._centres_hz = mel_edges_hz(mfcc["n_mels"], mfcc["fmin"], mfcc["fmax"])[1:-1]
        self._draw = jax.jit(self._augmented, static_argnames="settings")

    def shown(self, row: Row, example: Batch, partner: Batch) -> dict[str, Any]:
        """The cards of a segment: plain, with each augmentation alone, and with all that are on together."""
        # The segment comes first in each pair, each time with a key of its own.
        pairs = [example, partner] * TRIES
        batch = {name: np.stack([each[name] for each in pairs]) for name in example}
        seen = bool(example["has_video"]) and "video" in self._modalities
        heard = bool(example["has_audio"]) and "audio" in self._modalities
        plain = self._drawn(batch, Augmentation())[0]
        card = functools.partial(self._card, loudest_db=float(plain.db.max()), clip_id=row.clip_id)
        alone = [card(plain, "As it is", "", seen, heard)]
        for name, effect in EFFECTS.items():
            if not {"picture": seen, "sound": heard, "both": name == "mixup" or (seen and heard)}[effect.kind]:
                continue
            value: Any = 1.0 if effect.is_probability else getattr(self.strengths, name)
            only = dataclasses.replace(Augmentation(erase_size=self.strengths.erase_size), **{name: value})
            strongest = max(self._drawn(batch, only), key=lambda draw: _difference(draw, plain))
            strength = effect.strength(self.strengths) + ("" if name in self.settings.on else " (off)")
            of_kind = seen and effect.kind != "sound", heard and effect.kind != "picture"
            alone.append(card(strongest, effect.title, strength, *of_kind))
        draws = self._drawn(batch, self.settings)[:3] if self.settings.on else []
        return {
            "clip_id": row.clip_id,
            "emotion": row.emotion,
            "where": f"from {example['start'] / FRAME_RATE_HZ:.1f} s",
            "alone": alone,
            "together": [card(draw, f"Draw {i}", "", seen, heard) for i, draw in enumerate(draws, start=1)],
        }

    def _augmented(self, batch: Batch, keys: jax.Array, settings: Augmentation) -> tuple[Batch, jax.Array, jax.Array]:
        """The augmented batch, its spectrograms as the network gets them, and which are not those of the sound."""
        out = augment(batch, keys, settings, n_classes=len(self._label_names))
        db, inside, hop = spectrogram(out, self._mel)
        seen, inside = warped(db, inside, keys, most_tempo=settings.tempo, most_pitch=settings.pitch)
        most_frames = round(settings.time_mask_s * SAMPLE_RATE_HZ / hop)
        seen = spec_augment(seen, keys, inside, most_frames=most_frames, most_bands=settings.mel_mask)
        return out, seen, (seen != db).any(axis=(1, 2))

    def _drawn(self, batch: Batch, settings: Augmentation) -> list[Draw]:
        """The draws of the first segment of each pair."""
        keys = jax.random.split(jax.random.key(0), len(batch["label"]))
        out, db, over = jax.device_get(self._draw(batch, keys, settings=settings))
        return [
            Draw(example={name: value[i] for name, value in out.items()}, db=db[i], is_drawn_over=bool(over[i]))
            for i in range(0, len(db), 2)
        ]

    def _card(
        self, draw: Draw, title: str, strength: str, seen: bool, heard: bool, *, loudest_db: float, clip_id: str
    ) -> dict[str, str]:
        """The card of a draw; `seen` and `heard` are the modalities it shows if the draw has not lost them."""
        example, n_frames = draw.example, int(draw.example["n_frames"])
        remarks = []
        if (example["target"] > 0).sum() > 1:
            parts = sorted(zip(example["target"], self._label_names, strict=True), reverse=True)
            remarks.append(", ".join(f"{100 * part:.0f} % {name}" for part, name in parts if part > 0))
        remarks += ["the model is given no faces"] * (seen and not example["has_video"])
        remarks += ["the model is given no sound"] * (heard and not example["has_audio"])
        seen, heard = seen and bool(example["has_video"]), heard and bool(example["has_audio"])
        if heard and draw.is_drawn_over:
            remarks.append("in the spectrogram only, not in the sound")
        card = {"title": title, "strength": strength, "remark": "; ".join(remarks), "alt": f"{title}: clip {clip_id}"}
        if seen:
            card["picture"] = pictures.strip_uri(example["faces"][:n_frames])
        if heard:
            n_samples = n_frames * SAMPLES_PER_FRAME
            db, length_s = draw.db[: 1 + n_samples // self._mel["hop_length"]], n_frames / FRAME_RATE_HZ
            span_db = (loudest_db - _RANGE_DB, loudest_db + 6)
            figure = pictures.log_mel(db, centres_hz=self._centres_hz, span_db=span_db, length_s=length_s)
            card["spectrogram"] = pictures.jpeg_uri(figure)
            card["sound"] = pictures.wav_uri(example["waveform"][:n_samples])
        return card


def _difference(draw: Draw, plain: Draw) -> float:
    """Return how much a draw changed faces, sound and spectrogram."""
    faces, sound = (plain.example[name].astype(float) for name in ("faces", "waveform"))
    return float(
        np.abs(draw.example["faces"] - faces).mean() / 255
        + np.abs(draw.example["waveform"] - sound).mean() / max(np.abs(sound).mean(), 1)
        + np.abs(draw.db - plain.db).mean() / _RANGE_DB
    )
