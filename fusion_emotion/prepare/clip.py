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
        media.check_whole(clip.path)
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
        found_share = float(picture.found.mean())
        if found_share < max(settings.min_found_share, np.finfo(float).tiny):
            lacks.append(f"a face in {found_share:.0%} of the frames")
            picture = _no_picture(settings)
    try:
        waveform = media.read_audio(clip.path)
        peak = float(np.abs(waveform.astype(np.int32)).max(initial=0)) / _FULL_SCALE
        if peak < _SILENT_PEAK:
            lacks.append("a silent audio track")
            waveform = waveform[:0]
    except media.MediaError as error:
        lacks.append(str(error))
        waveform = np.zeros(0, np.int16)
    nothing = not len(picture.faces) and not len(waveform)
    if lacks and (nothing or settings.missing == "quarantine"):
        return quarantined(clip, settings, "; ".join(lacks)), None
    sound = waveform / _FULL_SCALE
    row = dataclasses.replace(
        quarantined(clip, settings, "; ".join(lacks)),
        status="ok",
        n_frames=len(picture.faces),
        n_samples=len(waveform),
        found_share=round(float(picture.found.mean()), 4) if len(picture.found) else 0.0,
        jitter=round(picture.jitter, 5),
        peak=round(float(np.abs(sound).max(initial=0)), 4),
        rms_dbfs=round(10 * float(np.log10(np.mean(np.square(sound)) + 1e-12)), 2) if len(sound) else -120.0,
    )
    return row, Record(
        clip_id=clip.clip_id,
        take_id=clip.take_id,
        speaker=clip.speaker,
        corpus=clip.corpus,
        label=clip.label,
        faces=picture.faces,
        face_found=picture.found,
        box=picture.square,
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
        jitter=0.0,
        peak=0.0,
        rms_dbfs=-120.0,
        detector=settings.detector if clip.modality != "a" else "",
        record=-1,
    )


@dataclasses.dataclass(frozen=True)
class _Picture:
    faces: np.ndarray
    found: np.ndarray
    square: np.ndarray
    jitter: float = 0.0


def _no_picture(settings: Settings, n_frames: int = 0) -> _Picture:
    size = settings.face_size
    return _Picture(
        np.zeros((n_frames, size, size, 3), np.uint8), np.zeros(n_frames, bool), np.zeros((n_frames, 4), np.float32)
    )


def _picture(clip: Clip, settings: Settings, detector: Detector) -> _Picture:
    video = media.Video(clip.path, decoder=settings.decoder)
    found = faces_.detect(video.frames(), detector, every=settings.detect_every)
    height, width = video.shape
    track = faces_.track(found, width=width, height=height)
    if not track.found.any():
        return _no_picture(settings, len(video))
    steady = faces_.smooth(track)
    squares = faces_.squares(steady.box, margin=settings.margin)
    crops = {
        time: faces_.crop(
            frame, squares[time], size=settings.face_size, roll=float(steady.roll[time]) if settings.align else 0.0
        )
        for time, frame in enumerate(video.frames())
        if track.found[time]
    }
    # Where there is no face, the crop is the nearest found one: the very pixels, not the empty place.
    faces = np.stack([crops[time] for time in faces_.nearest_found(track.found)])
    return _Picture(faces, track.found, squares, faces_.jitter(steady))
