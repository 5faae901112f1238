"""One clip to its row of the manifest and its record."""

import dataclasses

import numpy as np

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.prepare import faces as faces_
from fusion_emotion.prepare import media
from fusion_emotion.prepare.detectors import Detector
from fusion_emotion.prepare.records import Record, Row
from fusion_emotion.prepare.settings import Settings

# Below this peak a track holds no signal: dither and codec noise of a digitally silent one stay under it.
_SILENT_PEAK = 1e-3
_FULL_SCALE = np.iinfo(np.int16).max


def prepare_clip(clip: Clip, settings: Settings, detector: Detector | None) -> tuple[Row, Record | None]:
    """The row of a clip, and its record unless it is quarantined. Never raises for what a file may hold."""
    try:
        if not clip.path.stat().st_size:
            return quarantined(clip, settings, "the file is empty: fetch it again"), None
        return _prepare(clip, settings, detector)
    except media.MediaError as error:
        return quarantined(clip, settings, str(error)), None
    except OSError as error:
        return quarantined(clip, settings, f"the file cannot be read: {error.strerror}"), None


def _prepare(clip: Clip, settings: Settings, detector: Detector | None) -> tuple[Row, Record | None]:
    lacks = []
    picture = _no_picture(settings)
    if detector is not None and clip.modality != "a":
        picture = _picture(clip, settings, detector)
        found_share = float(picture[1].mean())
        if found_share < max(settings.min_found_share, np.finfo(float).tiny):
            lacks.append(f"a face in {found_share:.0%} of the frames")
            picture = _no_picture(settings)
    crops, found, box = picture
    try:
        waveform = media.read_audio(clip.path)
        peak = float(np.abs(waveform.astype(np.int32)).max(initial=0)) / _FULL_SCALE
        if peak < _SILENT_PEAK:
            lacks.append("a silent audio track")
            waveform = waveform[:0]
    except media.MediaError as error:
        lacks.append(str(error))
        waveform = np.zeros(0, np.int16)
    nothing = not len(crops) and not len(waveform)
    if lacks and (nothing or settings.missing == "quarantine"):
        return quarantined(clip, settings, "; ".join(lacks)), None
    sound = waveform / _FULL_SCALE
    row = dataclasses.replace(
        quarantined(clip, settings, "; ".join(lacks)),
        status="ok",
        n_frames=len(crops),
        n_samples=len(waveform),
        found_share=round(float(found.mean()), 4) if len(found) else 0.0,
        peak=round(float(np.abs(sound).max(initial=0)), 4),
        rms_dbfs=round(10 * float(np.log10(np.mean(np.square(sound)) + 1e-12)), 2) if len(sound) else -120.0,
    )
    return row, Record(
        clip_id=clip.clip_id,
        take_id=clip.take_id,
        speaker=clip.speaker,
        corpus=clip.corpus,
        label=clip.label,
        faces=crops,
        face_found=found,
        box=box,
        waveform=waveform,
    )


def quarantined(clip: Clip, settings: Settings, reason: str) -> Row:
    """The row of a clip that cannot be used."""
    known = {f.name: getattr(clip, f.name) for f in dataclasses.fields(Clip) if f.name not in ("path", "corpus")}
    return Row(
        **known,
        status="quarantined",
        reason=reason,
        n_frames=0,
        n_samples=0,
        found_share=0.0,
        peak=0.0,
        rms_dbfs=-120.0,
        detector=settings.detector if clip.modality != "a" else "",
        record=-1,
    )


def _no_picture(settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = settings.face_size
    return np.zeros((0, size, size, 3), np.uint8), np.zeros(0, bool), np.zeros((0, 4), np.float32)


def _picture(clip: Clip, settings: Settings, detector: Detector) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops, where the face was found, and the squares the crops came from."""
    frames = media.read_frames(clip.path)
    height, width = frames.shape[1:3]
    boxes, found = faces_.track([detector(frame) for frame in frames], width=width, height=height)
    if not found.any():
        return np.zeros((len(frames), settings.face_size, settings.face_size, 3), np.uint8), found, boxes
    # Where there is no face, the crop is the nearest found one: the very pixels, not the empty place.
    source = faces_.nearest_found(found)
    squares = faces_.squares(boxes, found, margin=settings.margin)
    crops = {t: faces_.crop(frames[t], squares[t], size=settings.face_size) for t in np.flatnonzero(found)}
    return np.stack([crops[t] for t in source]), found, squares
