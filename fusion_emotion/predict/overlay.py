"""A film with the boxes, the labels and the bars of its prediction drawn in, and its sound."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import av
import cv2
import numpy as np

from fusion_emotion.errors import UserError
from fusion_emotion.predict.prediction import STEP_S, Person, Prediction
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.opening import opened
from fusion_emotion.prepare.video import picture_stream, turn_of, upright

_LONGEST_SIDE = 1280  # px; a larger film is shrunk
_COLOURS = ((80, 200, 120), (240, 170, 60), (120, 150, 250), (230, 110, 200))  # of the people, RGB
_WHITE = (255, 255, 255)
_COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")  # codecs of sound that an mp4 holds
_OPTIONS = {"preset": "veryfast", "crf": "23"}


def write(prediction: Prediction, path: pathlib.Path) -> None:
    """Write the film of a prediction to `path`, H.264 in an mp4. Raises UserError if the source has no picture."""
    try:
        with (
            opened(prediction.source) as source,
            av.open(str(path), "w", format="mp4") as out,
        ):
            _copy(prediction, source, out)
    except (MediaError, av.FFmpegError) as error:
        raise UserError(f"{prediction.source}: no film can be written of it ({error})") from error


def _copy(prediction: Prediction, source: Any, out: Any) -> None:
    picture = picture_stream(source)
    picture.thread_type = "AUTO"
    sounds = source.streams.audio
    audio = sounds[prediction.about.get("audio_track", 0)] if sounds else None
    tracks = [picture, *([audio] if audio else [])]
    starts_s = prediction.about["starts_s"]
    origin_s = min(starts_s.values()) if starts_s else 0.0
    video: Any = None
    sound = _SoundTrack(out, audio) if audio else None
    waiting: list[Any] = []  # packets of sound that come before the first frame
    last = -math.inf  # time stamp of the picture, which must ascend in an mp4
    for packet in source.demux(tracks):
        if audio and packet.stream is audio:
            waiting += sound.packets(packet) if sound else []
        else:
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if frame.pts is None or frame.pts <= last:
                    continue
                last = frame.pts
                whole = upright(frame, float(picture.sample_aspect_ratio or 1), turn_of(frame))
                small = _shrunk(whole)
                scale = small.shape[1] / whole.shape[1]
                drawn = draw(prediction, small, (frame.time or 0) - origin_s, scale=scale)
                if video is None:
                    video = out.add_stream("libx264", rate=picture.average_rate or 25, options=_OPTIONS)
                    video.height, video.width, video.pix_fmt = *drawn.shape[:2], "yuv420p"
                    video.codec_context.time_base = picture.time_base
                drawn = _within(drawn, video.height, video.width)
                done = av.VideoFrame.from_ndarray(drawn, format="rgb24")
                done.pts, done.time_base = frame.pts, picture.time_base
                out.mux(video.encode(done))
        if video is not None:
            for held in waiting:
                out.mux(held)
            waiting = []
    if video is None:
        raise MediaError("no picture")
    out.mux(video.encode())


class _SoundTrack:
    """The sound of the film: copied, or encoded as AAC if an mp4 cannot hold its codec."""

    def __init__(self, out: Any, audio: Any):
        self._is_copied = audio.codec_context.name in _COPIED
        if self._is_copied:
            self._stream = out.add_stream_from_template(audio)
        else:
            layout = "mono" if audio.layout.nb_channels == 1 else "stereo"
            self._stream = out.add_stream("aac", rate=audio.rate, layout=layout)
            self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=audio.rate)
        self._last = -math.inf  # time stamps must ascend in an mp4

    def packets(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that one of the source becomes; the last one, which is empty, becomes what is held."""
        if self._is_copied:
            if packet.dts is not None and packet.dts > self._last:
                self._last = packet.dts
                packet.stream = self._stream
                yield packet
            return
        with contextlib.suppress(av.error.InvalidDataError):
            for frame in (*packet.decode(), *([] if packet.size else [None])):
                for part in self._resampler.resample(frame):
                    yield from self._stream.encode(part)
        if not packet.size:
            yield from self._stream.encode(None)


def _shrunk(frame: np.ndarray) -> np.ndarray:
    """Return a frame of even sides, at most 1280 px."""
    height, width = frame.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    size = (2 * round(scale * width / 2), 2 * round(scale * height / 2))
    return frame if size == (width, height) else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def _within(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a frame that fits a size, between black bars: the size of a film may change."""
    if frame.shape[:2] == (height, width):
        return frame
    scale = min(height / frame.shape[0], width / frame.shape[1])
    small = cv2.resize(frame, (max(1, int(scale * frame.shape[1])), max(1, int(scale * frame.shape[0]))))
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    whole = np.zeros((height, width, 3), np.uint8)
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return whole


def draw(prediction: Prediction, frame: np.ndarray, time_s: float, *, scale: float) -> np.ndarray:
    """Draw what is said at `time_s` into a frame, and return it; boxes are scaled by `scale`."""
    thick = max(1, round(frame.shape[0] / 360))
    for number, person in enumerate(prediction.people):
        place = nearest_window(person, time_s)
        if place is None:
            continue
        colour = _COLOURS[number % len(_COLOURS)]
        x, y, w, h = person.box[place] * scale
        label = prediction.label_at(person, place)
        if not np.isnan(x):
            cv2.rectangle(frame, (round(x), round(y)), (round(x + w), round(y + h)), colour, thick)
            _text(frame, label, (round(x), max(12 * thick, round(y) - 4 * thick)), colour, thick)
        if person.main:
            _bars(frame, prediction.label_names, person.smooth[place], thick)
    return frame


def nearest_window(person: Person, time_s: float) -> int | None:
    """Return the window of a person whose middle is nearest to a time, None if none is within 0.6 s."""
    if not len(person.step):
        return None
    middle_s = (person.step + person.n_frames / 2) * STEP_S
    place = int(np.abs(middle_s - time_s).argmin())
    inside = (
        person.step[place] * STEP_S <= time_s + 1e-6 <= (person.step[place] + person.n_frames[place]) * STEP_S + STEP_S
    )
    return place if inside or abs(middle_s[place] - time_s) <= 0.6 else None


def _bars(frame: np.ndarray, names: tuple[str, ...], probability: np.ndarray, thick: int) -> None:
    step, left, wide = 13 * thick, 70 * thick, 60 * thick
    panel = frame[: (len(names) + 1) * step, : left + wide + 6 * thick]
    panel //= 3
    for place, (name, share) in enumerate(zip(names, probability, strict=True)):
        y = (place + 1) * step
        _write(frame, name, (4 * thick, y), _WHITE, thick)
        if not np.isnan(share):
            cv2.rectangle(frame, (left, y - 8 * thick), (left + max(1, round(wide * float(share))), y), _WHITE, -1)


def _text(frame: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int], thick: int) -> None:
    """Write on a dark ground."""
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, thick)
    x, y = place
    ground = frame[max(0, y - high - 2) : y + below, max(0, x - 2) : x + wide + 2]
    ground //= 3
    _write(frame, text, place, colour, thick)


def _write(frame: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int], thick: int) -> None:
    cv2.putText(frame, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * thick, colour, thick, cv2.LINE_AA)
