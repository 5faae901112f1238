"""Degraded clips: noise, fewer frames, blur, covered faces, and modalities that are missing."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool

from fusion_emotion.evaluate.answers import hashed
from fusion_emotion.input.batches import Source
from fusion_emotion.input.segments import n_times
from fusion_emotion.models.batch import Batch
from fusion_emotion.prepare.records import Record, Row
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLES_PER_FRAME

Modality = Literal["audio", "video"]
Change = Callable[[Record], Record]
Lost = Sequence[Bool[np.ndarray, "times"]]  # for each clip, the sample times that lose a modality

OTHER: Mapping[Modality, Modality] = {"audio": "video", "video": "audio"}

VOICES = 5  # in the babble of a clip
SNR_DB = (20, 15, 10, 5, 0, -5)
KEEP_EVERY = (2, 3, 5)  # of the frames, which are 5 a second
BLUR_PX = (1, 2, 4, 8)  # standard deviations
# Heights of brows with eyes, and of the mouth, in the crops, as fractions from the top. Read from crops of RAVDESS by
# SCRFD and CenterFace, with eyes at 0.36 to 0.38 and mouths at 0.74 to 0.76, and of the sample corpus, at 0.31 and
# 0.70: a band of 0.2 covers brows and eyes, or lips, of all of them, one of 0.3 a wide open mouth.
EYES, MOUTH = 0.34, 0.74
BAND_HEIGHTS = (0.1, 0.2, 0.3, 0.4)  # fractions of the height
LOST_FRACTIONS = (0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Degraded(Source):
    """A source whose records are changed as they are read, and lose a modality at the times in `lost`.

    A segment that loses a modality throughout has its `has_*` flag off: this is neither silence nor a black picture.
    In a segment that keeps a part, lost sound is silent; lost faces are marked as not found and replaced by the nearest
    kept one.
    """

    change: Change | None = None
    lost: Mapping[Modality, Lost] = dataclasses.field(default_factory=dict)
    # The last record, since the segments of a clip come one after the other. No copy of the source shares it.
    _last: dict[int, Record] = dataclasses.field(default_factory=dict, init=False, compare=False)

    def record(self, clip: int) -> Record:
        """Read a clip's record and change it."""
        if clip not in self._last:
            record = self.change(super().record(clip)) if self.change else super().record(clip)
            if "audio" in self.lost:
                record = _without_sound(record, self.lost["audio"][clip])
            if "video" in self.lost:
                record = _without_faces(record, self.lost["video"][clip])
            self._last.clear()
            self._last[clip] = record
        return self._last[clip]

    def with_media(self, picked: Batch) -> Batch:
        """Add faces and sound to a batch of picks, and switch the flag of each lost modality off."""
        batch = super().with_media(picked)
        places = list(zip(picked["clip"], picked["start"], picked["n_frames"], strict=True))
        for modality, lost in self.lost.items():
            kept = [not lost[clip][start : start + length].all() for clip, start, length in places]
            batch[f"has_{modality}"] = batch[f"has_{modality}"] & np.array(kept)
        return batch

    def without(self, modality: Modality) -> "Degraded":
        """Return the same source with a modality missing throughout."""
        lost = [np.ones(n_times(row), bool) for row in self.segments.rows]
        return dataclasses.replace(self, lost={**self.lost, modality: lost})


class Degradation(NamedTuple):
    """A degradation of a modality at increasing strengths; the first step, by its name, is the undegraded source."""

    name: str
    modality: Modality
    title: str
    axis: str
    unit: str
    steps: Mapping[str, Degraded]


def degradations(source: Degraded) -> list[Degradation]:
    """Every degradation of an undegraded source."""

    def steps(clean: str, changes: Mapping[str, Change]) -> dict[str, Degraded]:
        return {clean: source} | {at: dataclasses.replace(source, change=change) for at, change in changes.items()}

    def missing(modality: Modality) -> dict[str, Degraded]:
        lost = {f"{100 * f:g}": {modality: lost_seconds(source.segments.rows, fraction=f)} for f in LOST_FRACTIONS}
        return {"0": source} | {at: dataclasses.replace(source, lost=times) for at, times in lost.items()}

    def covered(centre: float) -> dict[str, Degraded]:
        return steps("0", {f"{100 * each:g}": partial(cover, centre=centre, height=each) for each in BAND_HEIGHTS})

    noisy = {f"{snr}".replace("-", "−"): partial(babble, source=source, snr_db=snr) for snr in SNR_DB}
    slow = {f"{FRAME_RATE_HZ / every:.3g}": partial(fewer_frames, keep_every=every) for every in KEEP_EVERY}
    blurred = {f"{sigma}": partial(blur, sigma_px=sigma) for sigma in BLUR_PX}
    blurring, band = "standard deviation of the blur in the crop", "height of the band in the crop"
    silent, faceless = "seconds that lose the sound", "seconds that lose the face"
    return [
        Degradation("babble", "audio", "Babble behind the voice", "signal-to-noise ratio", "dB", steps("clean", noisy)),
        Degradation("missing_audio", "audio", "Seconds without sound", silent, "%", missing("audio")),
        Degradation("frame_rate", "video", "Fewer frames", "frame rate", "Hz", steps(f"{FRAME_RATE_HZ}", slow)),
        Degradation("blur", "video", "Blur", blurring, "px", steps("0", blurred)),
        Degradation("covered_eyes", "video", "Covered eyes", band, "%", covered(EYES)),
        Degradation("covered_mouth", "video", "Covered mouth", band, "%", covered(MOUTH)),
        Degradation("missing_video", "video", "Seconds without a face", faceless, "%", missing("video")),
    ]


def babble(record: Record, *, source: Source, snr_db: float) -> Record:
    """Add voices of other clips of the source to a clip's own, those of other speakers if there are any.

    Up to `VOICES` clips, equally loud, each from a random place on and repeated, chosen by the clip's name. `snr_db` is
    the ratio of the powers of sound and babble over the whole clip; silence stays silent.
    """
    power = _power(record.waveform)
    audible = [(i, row) for i, row in enumerate(source.segments.rows) if row.rms_dbfs > -60]
    others = [i for i, row in audible if row.speaker != record.speaker]
    others = others or [i for i, row in audible if row.clip_id != record.clip_id]
    if not (power and others):
        return record
    rng = _rng(record.clip_id)
    noise = np.zeros(len(record.waveform))
    for i in rng.choice(others, min(VOICES, len(others)), replace=False):
        voice = source.record(int(i)).waveform.astype(float)
        noise += np.resize(np.roll(voice, rng.integers(len(voice))), len(noise)) / np.sqrt(_power(voice))
    noise *= np.sqrt(power / (_power(noise) * 10 ** (snr_db / 10)))
    mixed = np.clip(np.round(record.waveform + noise), -32768, 32767).astype(np.int16)
    return dataclasses.replace(record, waveform=mixed)


def fewer_frames(record: Record, *, keep_every: int) -> Record:
    """Keep every n-th of a clip's frames, each shown until the next one."""
    return _with_frames(record, np.arange(len(record.faces)) // keep_every * keep_every)


def blur(record: Record, *, sigma_px: float) -> Record:
    """Blur the faces by a Gaussian filter; edges are repeated."""
    sigmas = (0, sigma_px, sigma_px, 0)
    blurred = scipy.ndimage.gaussian_filter(record.faces.astype(np.float32), sigmas, mode="nearest")
    return dataclasses.replace(record, faces=np.round(blurred).astype(np.uint8))


def cover(record: Record, *, centre: float, height: float) -> Record:
    """Cover every face by a grey band, `height` high around `centre`, both as fractions of the crop's height."""
    side = record.faces.shape[1]
    faces = record.faces.copy()
    top, bottom = (round(side * np.clip(edge, 0, 1)) for edge in (centre - height / 2, centre + height / 2))
    faces[:, top:bottom] = 128  # grey, as the occluders of Zeiler & Fergus (2014); the networks scale it to zero
    return dataclasses.replace(record, faces=faces)


def lost_seconds(rows: Sequence[Row], *, fraction: float) -> Lost:
    """Return the times at which each clip loses a modality: `fraction` of its seconds, drawn by its name.

    A larger fraction takes the same seconds and more. At a fraction of a half a clip of three seconds loses one or two,
    so that over the clips it is a half. A last second that is not whole belongs to the one before.
    """
    lost = []
    for row in rows:
        times = n_times(row)
        n_seconds = max(1, times // FRAME_RATE_HZ)
        rng = _rng(row.clip_id)
        chosen = rng.permutation(n_seconds)[: int(fraction * n_seconds + rng.random())]
        second = np.minimum(np.arange(times) // FRAME_RATE_HZ, n_seconds - 1)
        lost.append(np.isin(second, chosen))
    return lost


def _without_sound(record: Record, lost: Bool[np.ndarray, "times"]) -> Record:
    """Silence the samples of the lost times."""
    time = np.minimum(np.arange(len(record.waveform)) // SAMPLES_PER_FRAME, len(lost) - 1)
    return dataclasses.replace(record, waveform=np.where(lost[time], np.int16(0), record.waveform))


def _without_faces(record: Record, lost: Bool[np.ndarray, "times"]) -> Record:
    """Show the nearest kept face at the lost times, marked as not found."""
    if not len(record.faces):
        return record
    kept = np.flatnonzero(~lost)
    nearest = kept[abs(np.arange(len(lost))[:, None] - kept).argmin(axis=1)] if len(kept) else np.arange(len(lost))
    record = _with_frames(record, nearest)
    return dataclasses.replace(record, face_found=record.face_found & ~lost)


def _with_frames(record: Record, frames: np.ndarray) -> Record:
    return dataclasses.replace(
        record, faces=record.faces[frames], face_found=record.face_found[frames], box=record.box[frames]
    )


def _rng(clip_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashed(clip_id)))


def _power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=float))) if len(waveform) else 0.0
