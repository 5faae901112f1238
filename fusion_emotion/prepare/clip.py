"""One clip to its row of the manifest and its record."""

import dataclasses

import numpy as np

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.prepare import media
from fusion_emotion.prepare.detectors import Detector, InsightFace
from fusion_emotion.prepare.faces import crop, detect, jitter, nearest_found, smooth, squares, track
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.records import Record, Row
from fusion_emotion.prepare.settings import Settings
from fusion_emotion.prepare.store import facts

_REASON_LENGTH = 300
_FULL_SCALE = np.iinfo(np.int16).max


def prepare_clip(clip: Clip, settings: Settings, detector: Detector | None) -> tuple[Row, Record | None]:
    """Prepare a clip; return its row, and its record unless it is quarantined. Never raises for a bad file."""
    try:
        with media.quiet():
            media.check_whole(clip.path)
            return _prepare(clip, settings, detector)
    except Exception as error:  # also of a library: one clip never ends the run
        return failed(clip, settings, error), None


def _prepare(clip: Clip, settings: Settings, detector: Detector | None) -> tuple[Row, Record | None]:
    if clip.is_still:
        film: media.Film | media.Still = media.Still(clip.path)
    else:
        excerpt = clip.start_s, clip.end_s
        film = media.Film(clip.path, decoder=settings.decoder, picture=clip.modality != "a", excerpt=excerpt)
    waveform, lacks = film.waveform, [*film.lacks]
    picture, found_share = _no_picture(settings), 0.0
    if len(film.shown):
        try:
            picture = _picture(film, settings, detector)
        except MediaError as error:
            lacks.append(str(error))
        else:
            found_share = float(picture.found.mean()) if len(picture.found) else 0.0
            if not found_share or found_share < settings.min_found_share:
                lacks.append(f"a face in {found_share:.0%} of the frames")
                picture, found_share = _no_picture(settings), 0.0
    empty = not len(picture.faces) and not len(waveform)
    if lacks and (empty or settings.missing == "quarantine"):
        return quarantined(clip, settings, "; ".join(lacks)), None
    # In blocks, because floats of an hour of sound take 0.5 GB.
    blocks = np.array_split(waveform, 1 + len(waveform) // 10**6)
    energy = sum(float(np.square(block / _FULL_SCALE).sum()) for block in blocks)
    row = dataclasses.replace(
        quarantined(clip, settings, "; ".join(filter(None, [*lacks, film.note]))),
        status="ok",
        n_frames=len(picture.faces),
        n_samples=len(waveform),
        found_share=round(found_share, 4),
        jitter=round(picture.jitter, 5),
        peak=round(max(int(waveform.max(initial=0)), -int(waveform.min(initial=0))) / _FULL_SCALE, 4),
        rms_dbfs=round(10 * float(np.log10(energy / max(1, len(waveform)) + 1e-12)), 2),
    )
    return row, Record(
        clip_id=clip.clip_id,
        take_id=clip.take_id,
        speaker=clip.speaker,
        corpus=clip.corpus,
        emotion=clip.emotion,
        faces=picture.faces,
        face_found=picture.found,
        box=picture.square,
        waveform=waveform,
    )


def failed(clip: Clip, settings: Settings, error: Exception) -> Row:
    """The row of a clip that raised `error`; memory and the disk are reasons of the machine."""
    reason = str(error) if isinstance(error, MediaError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        reason = f"the file cannot be read: {error.strerror or error}"
    return quarantined(clip, settings, reason, retry=isinstance(error, OSError | MemoryError))


def quarantined(clip: Clip, settings: Settings, reason: str, *, retry: bool = False) -> Row:
    """The row of a clip that cannot be used; the reason is cut to one line that any encoding holds."""
    line = " ".join(reason.split())[:_REASON_LENGTH]
    return Row(
        **facts(clip),
        status="quarantined",
        reason=line.encode("utf-8", "backslashreplace").decode(),
        detector=settings.detector if clip.modality != "a" else "",
        retry=retry,
    )


@dataclasses.dataclass(frozen=True)
class _Picture:
    faces: np.ndarray
    found: np.ndarray
    square: np.ndarray
    jitter: float = 0.0


def _no_picture(settings: Settings) -> _Picture:
    size = settings.face_size
    return _Picture(np.zeros((0, size, size, 3), np.uint8), np.zeros(0, bool), np.zeros((0, 4), np.float32))


def _picture(film: media.Film | media.Still, settings: Settings, detector: Detector | None) -> _Picture:
    if detector is None:
        return _whole_frames(film, settings)
    recogniser = detector.recogniser if isinstance(detector, InsightFace) else None
    faces = detect(film.frames(), detector, every=settings.detect_every, recogniser=recogniser)
    height, width = film.shape
    raw = track(faces, width=width, height=height, recogniser=recogniser)
    if not raw.found.any():
        return _no_picture(settings)
    steady = smooth(raw)
    boxes = squares(steady.box, margin=settings.margin)
    roll = steady.roll if settings.align else np.zeros_like(steady.roll)
    found = np.zeros(len(film.shown), bool)
    found[film.shown] = raw.found
    crops = np.zeros((len(found), settings.face_size, settings.face_size, 3), np.uint8)
    shown = np.flatnonzero(film.shown)
    for time, frame in enumerate(film.frames()):
        if raw.found[time]:
            crops[shown[time]] = crop(frame, boxes[time], size=settings.face_size, roll=float(roll[time]))
    # Where there is no face, repeat the nearest crop: its pixels, not the empty place.
    crops[~found] = crops[nearest_found(found)[~found]]
    boxes = boxes[np.searchsorted(shown, nearest_found(film.shown))]
    return _Picture(crops, found, boxes, jitter(steady))


def _whole_frames(film: media.Film | media.Still, settings: Settings) -> _Picture:
    """The middle square of every frame: of films and pictures that are crops of faces already."""
    found, size = np.zeros(len(film.shown), bool), settings.face_size
    crops = np.zeros((len(found), size, size, 3), np.uint8)
    boxes = np.zeros((len(found), 4), np.float32)
    for time, frame in zip(np.flatnonzero(film.shown), film.frames(), strict=True):
        height, width = frame.shape[:2]
        side, left, top = min(height, width), max(0, width - height) // 2, max(0, height - width) // 2
        boxes[time] = left, top, left + side, top + side
        crops[time], found[time] = crop(frame, boxes[time], size=size), True
    nearest = nearest_found(found)
    return _Picture(crops[nearest], found, boxes[nearest])
