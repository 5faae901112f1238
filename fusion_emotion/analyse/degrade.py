"""Windows with less to see or to hear: noise, fewer frames, blur, covered faces, and modalities that are missing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import scipy.ndimage
from jaxtyping import Bool

from fusion_emotion.input.batches import Batch, Source
from fusion_emotion.input.segments import Windows
from fusion_emotion.pages.page import hashed
from fusion_emotion.prepare.records import Record
from fusion_emotion.units import FRAME_RATE_HZ

Modality = Literal["audio", "video"]
Change = Callable[[Record], Record]

OTHER: Mapping[Modality, Modality] = {"audio": "video", "video": "audio"}

VOICES = 5  # in the babble of a clip
SNR_DB = (20, 15, 10, 5, 0, -5)
KEEP_EVERY = (2, 3, 5)  # of the frames, which are 5 a second
BLUR_PX = (1, 2, 4, 8)  # standard deviations
# Where brows with eyes, and the mouth, are in the crops, in shares of the height from above. Read from crops of RAVDESS
# by SCRFD and CenterFace, where eyes are at 0.36 to 0.38 and mouths at 0.74 to 0.76, and of the sample corpus, at 0.31
# and 0.70: a band of 0.2 covers brows and eyes, or lips, of all of them, one of 0.3 a mouth that is wide open.
EYES, MOUTH = 0.34, 0.74
BAND_HEIGHTS = (0.1, 0.2, 0.3, 0.4)  # shares of the height
LOST_SHARES = (0.25, 0.5, 0.75, 1.0)
_SILENT_DBFS = -60
_GREY = 128  # as the occluders of Zeiler & Fergus (2014); the networks scale it to zero


@dataclasses.dataclass(frozen=True)
class Degraded(Source):
    """A source whose clips are changed as they are read; windows in `lost` are without that modality.

    A lost modality is a missing one, by its `has_*` flag: not silence, nor a black picture.
    """

    change: Change | None = None
    lost: Mapping[Modality, Bool[np.ndarray, "windows"]] = dataclasses.field(default_factory=dict)
    # The clip read last, for its windows come one after the other; no copy of the source shares it.
    _last: dict[int, Record] = dataclasses.field(default_factory=dict, init=False, compare=False)

    def record(self, clip: int) -> Record:
        """The changed record of a row of the windows."""
        if clip not in self._last:
            record = super().record(clip)
            self._last.clear()
            self._last[clip] = self.change(record) if self.change else record
        return self._last[clip]

    def pick(self, index: int) -> Batch:
        """Which clip, which start, which label and which place in the windows a window has."""
        return {**super().pick(index), "window": np.int32(index)}

    def with_media(self, picked: Batch) -> Batch:
        """Picked windows with their pictures and sounds, but for what is lost."""
        batch = super().with_media(picked)
        return batch | {
            f"has_{name}": batch[f"has_{name}"] & ~lost[batch["window"]] for name, lost in self.lost.items()
        }

    def without(self, modality: Modality) -> "Degraded":
        """The same, with a modality missing throughout."""
        return dataclasses.replace(self, lost={**self.lost, modality: np.ones(len(self.windows), bool)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
    """What makes a modality worse and worse; the first of `steps` leaves it as it is, and is named too."""

    name: str
    modality: Modality
    title: str
    axis: str
    unit: str
    steps: Mapping[str, Degraded]


def degradations(source: Degraded) -> list[Degradation]:
    """Every degradation of a source that is itself degraded nowhere."""

    def steps(clean: str, changes: Mapping[str, Change]) -> dict[str, Degraded]:
        return {clean: source} | {at: dataclasses.replace(source, change=change) for at, change in changes.items()}

    def missing(modality: Modality) -> dict[str, Degraded]:
        lost = {f"{100 * share:g}": {modality: lost_windows(source.windows, share=share)} for share in LOST_SHARES}
        return {"0": source} | {at: dataclasses.replace(source, lost=each) for at, each in lost.items()}

    return [
        Degradation(
            name="babble",
            modality="audio",
            title="Babble behind the voice",
            axis="signal-to-noise ratio",
            unit="dB",
            steps=steps("clean", {f"{snr}".replace("-", "−"): babble(source, snr_db=snr) for snr in SNR_DB}),
        ),
        Degradation(
            name="missing_audio",
            modality="audio",
            title="Seconds without sound",
            axis="windows that lose the sound",
            unit="%",
            steps=missing("audio"),
        ),
        Degradation(
            name="frame_rate",
            modality="video",
            title="Fewer frames",
            axis="frame rate",
            unit="Hz",
            steps=steps(
                f"{FRAME_RATE_HZ}",
                {f"{FRAME_RATE_HZ / every:.3g}": fewer_frames(keep_every=every) for every in KEEP_EVERY},
            ),
        ),
        Degradation(
            name="blur",
            modality="video",
            title="Blur",
            axis="standard deviation of the blur in the crop",
            unit="px",
            steps=steps("0", {f"{sigma}": blur(sigma_px=sigma) for sigma in BLUR_PX}),
        ),
        *(
            Degradation(
                name=f"covered_{what}",
                modality="video",
                title=f"Covered {what}",
                axis="height of the band in the crop",
                unit="%",
                steps=steps("0", {f"{100 * height:g}": cover(centre=centre, height=height) for height in BAND_HEIGHTS}),
            )
            for what, centre in (("eyes", EYES), ("mouth", MOUTH))
        ),
        Degradation(
            name="missing_video",
            modality="video",
            title="Seconds without a face",
            axis="windows that lose the face",
            unit="%",
            steps=missing("video"),
        ),
    ]


def babble(source: Source, *, snr_db: float) -> Change:
    """Voices of other clips of the source behind a clip's own, of other speakers where there are any.

    Up to `VOICES` clips, equally loud, each from a random place on and around again, chosen by the clip's name. The
    powers of sound and babble over the whole clip are in the ratio `snr_db`; silence stays silent.
    """
    audible = [(i, row) for i, row in enumerate(source.windows.rows) if row.rms_dbfs > _SILENT_DBFS]

    def change(record: Record) -> Record:
        power = _power(record.waveform)
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
        info = np.iinfo(np.int16)
        mixed = np.clip(np.round(record.waveform + noise), info.min, info.max).astype(np.int16)
        return dataclasses.replace(record, waveform=mixed)

    return change


def fewer_frames(*, keep_every: int) -> Change:
    """Only every n-th of a clip's frames, each shown until the next one."""

    def change(record: Record) -> Record:
        shown = np.arange(len(record.faces)) // keep_every * keep_every
        return dataclasses.replace(
            record, faces=record.faces[shown], face_found=record.face_found[shown], box=record.box[shown]
        )

    return change


def blur(*, sigma_px: float) -> Change:
    """Faces through a Gaussian filter; edges are repeated."""

    def change(record: Record) -> Record:
        blurred = scipy.ndimage.gaussian_filter(
            record.faces.astype(np.float32), (0, sigma_px, sigma_px, 0), mode="nearest"
        )
        return dataclasses.replace(record, faces=np.round(blurred).astype(np.uint8))

    return change


def cover(*, centre: float, height: float) -> Change:
    """A grey band across every face, `height` high around `centre`, both in shares of the crop's height."""

    def change(record: Record) -> Record:
        side = record.faces.shape[1]
        faces = record.faces.copy()
        top, bottom = (round(side * min(max(edge, 0), 1)) for edge in (centre - height / 2, centre + height / 2))
        faces[:, top:bottom] = _GREY
        return dataclasses.replace(record, faces=faces)

    return change


def lost_windows(windows: Windows, *, share: float) -> Bool[np.ndarray, "windows"]:
    """Which windows lose a modality: `share` of each clip's, by its name; a larger share takes these and more.

    A clip of three windows loses one or two at a share of a half, so that over the clips it is a half.
    """
    lost = np.zeros(len(windows), bool)
    for of_clip in np.split(np.arange(len(windows)), np.flatnonzero(np.diff(windows.clip)) + 1):
        rng = _rng(windows.rows[windows.clip[of_clip[0]]].clip_id)
        lost[rng.permutation(of_clip)[: int(share * len(of_clip) + rng.random())]] = True
    return lost


def _rng(clip_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashed(clip_id)))


def _power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=float))) if len(waveform) else 0.0
