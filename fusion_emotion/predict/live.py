"""A camera or a stream as it comes: what cannot be judged in time is dropped, never queued."""

import collections
import contextlib
import dataclasses
import math
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import av
import av.device
import numpy as np
import soxr
from jaxtyping import Float, UInt8

from fusion_emotion.predict.people import Look, People
from fusion_emotion.predict.prediction import STEP_S, UNCERTAIN, softmax
from fusion_emotion.predict.reader import Step
from fusion_emotion.predict.windows import Examples, Judge, Window
from fusion_emotion.prepare.media_errors import MediaError, reason
from fusion_emotion.prepare.opening import DECODING
from fusion_emotion.prepare.sound import channels_of
from fusion_emotion.prepare.video import picture_stream, turn_of, upright
from fusion_emotion.units import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

SCHEMES = ("camera:", "rtsp://", "rtsps://", "rtp://", "udp://", "srt://", "tcp://", "lavfi:")
_STALLED_S = 10.0  # without a frame or a sample
_LATE_STEPS = 2  # a step that waits behind so many newer ones loses its picture
_APART_S = 0.4  # a track that is so far behind the other is not waited for
_NEAR_S = 0.4  # from the middle of a step to a picture that stands for it, if none lies in its second half
_JUMP_S = 10.0  # of time stamps, from where the tracks are; as if nothing had come for so long
_ANALYSED_US = "500000"  # of a file object: libav reads 5 s before it says what there is, if it may
_MEMORY = 0.98  # factor by which a person's weight decays at each step
_DEVICES = {"Linux": ("v4l2", "alsa"), "Darwin": ("avfoundation", "avfoundation"), "Windows": ("dshow", "dshow")}


@runtime_checkable
class Readable(Protocol):
    """A file, or what is read as one while it is written."""

    def read(self, count: int, /) -> bytes:
        """Return up to `count` bytes; none at the end."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """What was said of the newest window; times in seconds from the start of the stream."""

    start: float
    end: float
    person: str  # "face_0", or "voice"
    modalities: str
    label: str
    confidence: float
    probabilities: Mapping[str, float]  # averaged over the past
    box: tuple[float, float, float, float] | None  # x, y, width, height in px
    speech: float
    lag_s: float  # from the end of the window until now


def is_live(source: str) -> bool:
    """True for a camera or the address of a stream."""
    return source.startswith(SCHEMES)


def moments(
    source: str | Readable,
    model: Judge,
    people: People,
    *,
    smoothing_s: float,
    uncertain_below: float,
    options: Mapping[str, str] | None = None,
) -> Iterator[Moment]:
    """Yield a moment every 0.2 s of a stream, as long as it lasts. Raises MediaError.

    `people` smooths over the past only. `options` are libav's of the protocol. The clock of the stream is laid to that
    of this machine by the frame that came soonest, so a constant delay of the device itself is not in the lag.
    """
    n, held = model.n_frames, collections.deque[Look](maxlen=model.n_heard)
    examples, judge = Examples(model, everyone=False, after=0), _Judge(model, smoothing_s, uncertain_below)
    with contextlib.closing(Feed(source, picture=model.sees, sound=model.hears, options=options)) as feed:
        for number, (look, _) in enumerate(people.looks(feed)):
            examples.hear(number, look)
            held.append(look)
            if len(held) >= n:
                block = examples.add(number - n + 1, held, number - len(held) + 1, n) or examples.finish()
                yield judge(block[0], list(held)[-n:], feed.lag_s(number + 1))


class _Judge:
    """Averages over the past, and chooses whom the voice is given to."""

    def __init__(self, model: Judge, smoothing_s: float, uncertain_below: float):
        self._model, self._uncertain_below = model, uncertain_below
        self._keep = math.exp(-STEP_S / smoothing_s) if smoothing_s else 0.0
        self._weights: dict[int, float] = {}
        self._mean: Float[np.ndarray, "classes"] | None = None
        self._temperature = float(model.about["temperature"])

    def __call__(self, window: Window, looks: list[Look], lag_s: float) -> Moment:
        self._weights = {one: _MEMORY * weight for one, weight in self._weights.items() if weight > 1e-3}
        for one, sight in looks[-1].people.items():
            self._weights[one] = self._weights.get(one, 0.0) + sight.weight
        there = [one for one in window.found if one in self._weights]
        person = max(there, key=lambda one: self._weights[one]) if there else None
        said = window.voice if person is None else window.both.get(person, window.face.get(person))
        if said is not None:
            self._mean = said if self._mean is None else self._keep * self._mean + (1 - self._keep) * said
        modalities = "none" if said is None else "audio"
        if said is not None and person is not None:
            modalities = "audio+video" if person in window.both else "video"
        names = self._model.label_names
        mean = np.full(len(names), np.nan) if said is None or self._mean is None else self._mean
        share = softmax(mean / self._temperature)
        sure = float(share.max())
        label = "" if said is None else names[int(share.argmax())] if sure >= self._uncertain_below else UNCERTAIN
        boxes = [look.people[person].box for look in looks if person in look.people] if person is not None else []
        left, top, right, bottom = map(float, boxes[-1]) if boxes else (0.0, 0.0, 0.0, 0.0)
        return Moment(
            start=round(window.step * STEP_S, 3),
            end=round((window.step + window.n_frames) * STEP_S, 3),
            person="voice" if person is None else f"face_{person}",
            modalities=modalities,
            label=label,
            confidence=sure,
            probabilities=dict(zip(names, map(float, share), strict=True)),
            box=(left, top, right - left, bottom - top) if boxes else None,
            speech=window.heard.speech,
            lag_s=lag_s,
        )


class Feed:
    """Steps of a stream, read by threads; iterating waits for the next one.

    A step is complete when each track has passed its end, or is behind the other by 0.4 s. A step that waits behind
    newer ones loses its picture. Raises MediaError if the stream cannot be opened, holds nothing to read, or, behind
    the steps that came before, stalls or breaks off; one of camera and microphone that breaks off ends both.
    """

    def __init__(self, source: str | Readable, *, picture: bool, sound: bool, options: Mapping[str, str] | None = None):
        self._changed = threading.Condition()
        self._steps: collections.deque[Step] = collections.deque()
        self._ended = self._stopped = False
        self._error = ""
        self._tracks: dict[str, _Track] = {}
        self._origin_s: float | None = None
        self._clock_s = math.inf  # the least wall time minus stream time
        self._n_made = 0
        self._last_s = time.monotonic()
        files = _opened(source, picture=picture, sound=sound, options=options or {})
        for _, wants_picture, wants_sound in files:
            if wants_picture:
                self._tracks["picture"] = _Track()
            if wants_sound:
                self._tracks["sound"] = _Track()
        self._running, self._is_split = len(files), len(files) > 1
        self._threads = [threading.Thread(target=self._read, args=file, daemon=True) for file in files]
        for thread in self._threads:
            thread.start()

    def lag_s(self, n_steps: int) -> float:
        """Return the seconds from the end of so many steps until now."""
        with self._changed:
            return time.monotonic() - self._clock_s - (self._origin_s or 0.0) - n_steps * STEP_S

    def close(self) -> None:
        """Stop the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=2)

    def __iter__(self) -> Iterator[Step]:
        while True:
            with self._changed:
                while not self._steps and not self._ended:
                    self._changed.wait(timeout=0.5)
                    if time.monotonic() - self._last_s > _STALLED_S:
                        raise MediaError(f"the stream stalls: nothing came for {_STALLED_S:.0f} s")
                if not self._steps:
                    if self._error:
                        after = f"after {self._n_made * STEP_S:.1f} s it broke off: " if self._n_made else ""
                        raise MediaError(after + self._error)
                    return
                step = self._steps.popleft()
            yield step

    def _read(self, file: Any, picture: bool, sound: bool) -> None:
        """In a thread: decode a container until it ends."""
        try:
            with file:
                streams = [picture_stream(file)] if picture else []
                aspect = float(streams[0].sample_aspect_ratio or 1) if picture else 1.0
                streams += file.streams.audio[:1] if sound else []
                shift_s: float | None = None
                for packet in file.demux(streams):
                    with contextlib.suppress(av.error.InvalidDataError):
                        for frame in packet.decode():
                            # The first frames of an RTSP stream have no time until the server has sent its report.
                            if frame.time is None:
                                continue
                            if shift_s is None:
                                # A camera and a microphone have clocks of their own.
                                shift_s = time.monotonic() - frame.time if self._is_split else 0.0
                            self._take(frame, frame.time + shift_s, aspect)
                    if self._stopped:
                        break
        except (av.FFmpegError, MediaError, OSError) as error:
            self._error = reason(error) if isinstance(error, av.FFmpegError) else str(error)
        except Exception as error:  # of a library: a thread that ends without a word would end the stream so
            self._error = f"{type(error).__name__}: {error}"
        finally:
            with self._changed:
                self._running -= 1
                self._stopped |= bool(self._error)
                self._ended = self._stopped or not self._running
                self._changed.notify_all()

    def _take(self, frame: Any, time_s: float, aspect: float) -> None:
        """Put a frame of either track where it belongs, and make the steps that are complete."""
        is_picture = isinstance(frame, av.VideoFrame)
        with self._changed:
            self._last_s = time.monotonic()
            self._clock_s = min(self._clock_s, self._last_s - time_s)
            if self._origin_s is None:
                self._origin_s = time_s
            place_s = time_s - self._origin_s
            reached_s = max(track.until_s for track in self._tracks.values())
            if abs(place_s - reached_s) > _JUMP_S and math.isfinite(reached_s):
                raise MediaError(f"its time stamps jump by {place_s - reached_s:.0f} s")
        if is_picture:
            wanted = math.floor(place_s / STEP_S + 1e-6)
            track = self._tracks["picture"]
            # The frame nearest to the middle is not known before the next one: the first behind it is taken.
            is_behind = place_s >= (wanted + 0.5) * STEP_S - 0.02
            picture = None
            if wanted not in track.pictures and is_behind and wanted >= self._n_made:
                picture = upright(frame, aspect, turn_of(frame))
            with self._changed:
                if picture is not None:
                    track.pictures[wanted] = picture
                else:
                    track.others.append((place_s, lambda: upright(frame, aspect, turn_of(frame))))
                track.until_s = place_s
                self._make()
        else:
            with self._changed:
                self._tracks["sound"].hear(frame, place_s)
                self._make()

    def _make(self) -> None:
        """Make the steps that are complete; the lock is held."""
        until = [track.until_s for track in self._tracks.values()]
        reached_s = max(min(until), max(until) - _APART_S)
        while (self._n_made + 1) * STEP_S <= reached_s:
            picture = self._tracks["picture"].picture_of(self._n_made) if "picture" in self._tracks else None
            sound = self._tracks["sound"].sound_of(self._n_made) if "sound" in self._tracks else np.zeros(0, np.int16)
            self._steps.append(Step(picture, sound))
            self._n_made += 1
            if len(self._steps) > _LATE_STEPS:
                self._steps[-1 - _LATE_STEPS] = dataclasses.replace(self._steps[-1 - _LATE_STEPS], frame=None)
        self._changed.notify_all()


class _Track:
    """One track of a feed: pictures by step, or sound by sample."""

    def __init__(self) -> None:
        self.until_s = -math.inf
        self.pictures: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        # The newest frames that are no step's picture, and their places: a slow camera has none in many second halves.
        self.others: collections.deque[tuple[float, Callable[[], UInt8[np.ndarray, "H W 3"]]]] = collections.deque(
            maxlen=3
        )
        self._resampler: Any = None
        self._sound = np.zeros(0, np.int16)
        self._first = 0  # number of the first sample in `_sound`

    def picture_of(self, step: int) -> UInt8[np.ndarray, "H W 3"] | None:
        """Take the picture of a step, or that of the nearest other frame that is near enough."""
        if step in self.pictures:
            return self.pictures.pop(step)
        middle_s = (step + 0.5) * STEP_S
        near = [(abs(place_s - middle_s), n) for n, (place_s, _) in enumerate(self.others)]
        away_s, nearest = min(near, default=(math.inf, 0))
        return self.others[nearest][1]() if away_s <= _NEAR_S else None

    def hear(self, frame: av.AudioFrame, place_s: float) -> None:
        """Append a frame of sound, with silence where some is missing."""
        mono = channels_of(frame).mean(axis=0)
        if frame.sample_rate != SAMPLE_RATE_HZ:
            self._resampler = self._resampler or soxr.ResampleStream(frame.sample_rate, SAMPLE_RATE_HZ, 1)
            mono = self._resampler.resample_chunk(mono)
        ends_s = place_s + frame.samples / frame.sample_rate
        missing = round(place_s * SAMPLE_RATE_HZ) - self._first - len(self._sound)
        if self.until_s == -math.inf and missing < 0:  # of before the first picture
            mono = mono[-missing:]
            if not len(mono):
                return
        if self.until_s == -math.inf or missing > _APART_S * SAMPLE_RATE_HZ:
            self._sound = np.concatenate([self._sound, np.zeros(max(0, missing), np.int16)])
        samples = np.round(np.clip(mono, -1, 1) * np.iinfo(np.int16).max).astype(np.int16)
        self._sound = np.concatenate([self._sound, samples])
        self.until_s = min(ends_s, (self._first + len(self._sound)) / SAMPLE_RATE_HZ)

    def sound_of(self, step: int) -> np.ndarray:
        """Take the sound of a step; silence stands for what has not come."""
        begin = step * SAMPLES_PER_FRAME - self._first
        taken = self._sound[max(0, begin) : begin + SAMPLES_PER_FRAME]
        self._sound = self._sound[max(0, begin + SAMPLES_PER_FRAME) :]
        self._first = max(self._first, (step + 1) * SAMPLES_PER_FRAME)
        return np.pad(taken, (0, SAMPLES_PER_FRAME - len(taken)))


def _opened(
    source: str | Readable, *, picture: bool, sound: bool, options: Mapping[str, str]
) -> list[tuple[Any, bool, bool]]:
    """Open a stream, or a camera and its microphone: each file with the tracks to read of it. Raises MediaError."""
    if isinstance(source, str) and source.startswith("camera:"):
        return _camera(source.removeprefix("camera:"), picture=picture, sound=sound)
    try:
        if not isinstance(source, str):
            file = av.open(source, options={"analyzeduration": _ANALYSED_US})
        elif source.startswith("lavfi:"):
            file = av.open(source.removeprefix("lavfi:"), format="lavfi")
        else:
            usual = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
            file = av.open(source, options={**DECODING, **usual, **options}, timeout=(_STALLED_S, _STALLED_S))
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"the stream cannot be opened: {error.strerror or error}") from error
    tracks = (picture and bool(file.streams.video), sound and bool(file.streams.audio))
    if not any(tracks):
        raise MediaError("the stream has no track that this model reads")
    return [(file, *tracks)]


def _camera(name: str, *, picture: bool, sound: bool) -> list[tuple[Any, bool, bool]]:
    """Open a camera by its number or name, and the microphone; without one, the camera alone."""
    video, audio = _DEVICES.get(platform.system(), ("v4l2", "alsa"))
    there = [device.name for device in _devices(video)]
    path = f"/dev/video{name}" if video == "v4l2" and name.isdecimal() else name
    files: list[tuple[Any, bool, bool]] = []
    if picture:
        try:
            files.append((av.open(path, format=video), True, False))
        except (av.FFmpegError, OSError) as error:
            listed = f"there are {', '.join(there)}" if there else "this machine has none"
            raise MediaError(f"camera {name!r} cannot be opened ({error.strerror or error}): {listed}") from error
    if sound:
        with contextlib.suppress(av.FFmpegError, OSError):
            files.append((av.open("default" if audio == "alsa" else f":{name}", format=audio), False, True))
    if not files:
        raise MediaError("no microphone can be opened")
    return files


def _devices(form: str) -> list[Any]:
    with contextlib.suppress(Exception):  # a system without the driver
        return list(av.device.enumerate_input_devices(form))
    return []
