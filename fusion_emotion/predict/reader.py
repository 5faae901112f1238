"""A film or a sound as steps of 0.2 s, each track read once, in memory that does not grow with the length."""

import collections
import contextlib
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import av
import numpy as np
from jaxtyping import Int16, UInt8

from fusion_emotion.cores import cores
from fusion_emotion.corpora.clip import PICTURE_SUFFIXES
from fusion_emotion.prepare.media import Still
from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.opening import DECODING, MOST_PIXELS, opened, told
from fusion_emotion.prepare.sound import LONGEST_GAP_S, Decoder, first_heard, resampled
from fusion_emotion.prepare.video import is_earlier_nearest, picture_stream, turn_of, upright
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME

_STEP_S = 1 / FRAME_RATE_HZ
_FRAME_S = 0.04  # duration of a frame, if the file does not say
_RESTARTED_S = 1.0  # by which a frame lies before the one that came first, if the clock of the file restarts
_BEFORE_S = 1.0  # read before the first step that is asked for: the frame before it may be the nearer one
# Formats whose time stamps are the same after a seek; others are decoded from the start.
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_NO_SOUND = np.zeros(0, np.int16)
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Step:
    """0.2 s of a film: the upright RGB frame of its middle, None if there is no picture, and its sound at 16 kHz."""

    frame: UInt8[np.ndarray, "H W 3"] | None
    sound: Int16[np.ndarray, "n"]  # 3200 samples, fewer at the end of the sound; empty: none


class Reader:
    """Yields the steps of a file or an address, from step `start` on; both tracks are counted from one origin.

    Frames, sound and number of steps are those of `prepare.media.Film`. `lacks` names a track that is missing.
    `n_lost` packets of the picture were lost before `start`. Raises MediaError if there is no track at all, or the file
    cannot be opened.
    """

    def __init__(self, source: str, *, picture: bool = True, sound: bool = True, start: int = 0, n_lost: int = 0):
        self.lacks: list[str] = []
        self.picture: _Picture | None = None
        self.sound: _Sound | None = None
        self._start = start
        try:
            with opened(source) as file:
                self.duration_s = file.duration / av.time_base if file.duration else None  # as the container says
                self.format = file.format.name
                n_tracks = len(file.streams.audio)
                with self._noted():
                    self.picture = (_Still if is_still(source) else _Picture)(source, file, n_lost) if picture else None
            with self._noted():
                self.sound = _Sound(source, n_tracks) if sound else None
        except (av.FFmpegError, OSError, ValueError) as error:
            said = told(error) if isinstance(error, av.FFmpegError) else str(error)
            raise MediaError(f"it cannot be opened: {said}") from error
        starts_s = [track.start_s for track in (self.picture, self.sound) if track]
        if not starts_s:
            raise MediaError("; ".join(self.lacks) or "no picture and no sound that this model reads")
        self._origin_s = min(starts_s)

    @property
    def is_of_one_picture(self) -> bool:
        """True for a photograph or a drawing, from this machine or an address."""
        return isinstance(self.picture, _Still) or self.format.endswith("_pipe") or self.format == "image2"

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except MediaError as error:
            self.lacks.append(str(error))
        except av.FFmpegError as error:
            self.lacks.append(f"a track cannot be decoded: {told(error)}")

    @property
    def warnings(self) -> list[str]:
        """What went wrong while the tracks were read."""
        return [warning for track in (self.picture, self.sound) if track for warning in track.warnings]

    def n_lost(self, step: int) -> int:
        """The packets of the picture before a step that cannot be decoded, as far as it has been read."""
        return self.picture.n_lost(step * _STEP_S + self._origin_s) if self.picture else 0

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of itself."""
        starts_s = {
            name: round(track.start_s, 4)
            for name, track in (("picture", self.picture), ("sound", self.sound))
            if track is not None
        }
        about = {"format": self.format, "duration_s": self.duration_s, "starts_s": starts_s}
        return about | (self.picture.about if self.picture else {}) | (self.sound.about if self.sound else {})

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps, in order."""
        pictures = made_ahead(self.picture.steps(self._origin_s, self._start)) if self.picture else iter(())
        sounds = made_ahead(self.sound.steps(self._origin_s, self._start)) if self.sound else iter(())
        ahead: list[np.ndarray] = []  # sound that is read before its step
        has_picture = self.picture is not None
        for step in itertools.count(self._start):
            frame = None
            if has_picture:
                frame, is_over = next(pictures)
                if is_over and self.picture:
                    has_picture = False
                    ahead += itertools.islice(sounds, 3 - len(ahead))
                    sound_s = _STEP_S * step + sum(map(len, ahead)) / SAMPLE_RATE_HZ
                    # Sound that outlasts the picture by less than a step adds no step.
                    if sound_s <= self.picture.end_s - self._origin_s + _STEP_S:
                        return
            chunk = ahead.pop(0) if ahead else next(sounds, _NO_SOUND)
            if not has_picture and not self._counts(step, len(chunk)):
                return
            yield Step(frame, chunk)

    def _counts(self, step: int, n_samples: int) -> bool:
        """True if sound alone makes a step: where it reaches the middle, and a first one in any case."""
        if not step:
            return n_samples > 0
        if self.picture:  # as in `sample_times`
            return n_samples > SAMPLES_PER_FRAME // 2
        return round(step + n_samples / SAMPLES_PER_FRAME) > step  # as in `segments.n_times`


def made_ahead(items: Iterator[_T], n: int = 8) -> Iterator[_T]:
    """Yield items that a thread makes, up to `n` ahead: the next frames are decoded while faces are found in one."""
    thread = ThreadPoolExecutor(1)
    waiting: collections.deque[Future[_T]] = collections.deque()
    try:
        while True:
            waiting += [thread.submit(next, items) for _ in range(n - len(waiting))]
            try:
                item = waiting.popleft().result()
            except StopIteration:
                return
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def is_still(source: str) -> bool:
    """True for a picture on this machine, which is read as preparation reads it."""
    path = pathlib.Path(source)
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()


class _Picture:
    """The picture track of a source; `end_s` is known once it has been read."""

    def __init__(self, source: str, file: "av.container.InputContainer", n_lost: int):
        self._source, self._n_lost = source, n_lost
        self._lost_s: list[float] = []
        self._from_s = -math.inf
        self.warnings: list[str] = []
        self.end_s = 0.0
        stream = picture_stream(file)
        if stream.width * stream.height > MOST_PIXELS or not stream.width:
            size = f"is of {stream.width}x{stream.height} px" if stream.width else "has no size that can be read"
            raise MediaError(f"the picture {size}: it must have one, of at most {MOST_PIXELS // 10**6} megapixels")
        rate, codec = stream.average_rate, stream.codec_context.name
        self._look(file, stream)
        self.about = {
            "codec": codec,
            "fps_mean": float(rate) if rate else None,
            "width": self.shape[1],
            "height": self.shape[0],
            "pixel_aspect": self._aspect,
        }

    def _look(self, file: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        """Decode the first frame: its time, and the shape that frames have upright."""
        self._aspect = float(stream.sample_aspect_ratio or 1)
        first = next(self._frames(file, n_threads=1), None)
        if first is None:
            raise MediaError("the picture cannot be decoded: no frame is whole")
        self.start_s, frame = first
        self._turn = turn_of(frame)
        self.shape = upright(frame, self._aspect, self._turn).shape[:2]  # height and width

    def n_lost(self, before_s: float = math.inf) -> int:
        """The packets up to a time on the clock of the file that cannot be decoded."""
        return self._n_lost + sum(self._from_s <= time_s < before_s for time_s in self._lost_s)

    def steps(self, origin_s: float, start: int) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, bool]]:
        """Yield the frame of each step, None before the first frame; at last that of a step which only sound makes."""
        step = start
        before: tuple[float, av.VideoFrame] | None = None

        def chosen(frame: av.VideoFrame) -> np.ndarray | None:
            is_shown = round((step + 1) * _STEP_S + origin_s - self.start_s, 6) > 0
            return upright(frame, self._aspect, self._turn) if is_shown else None

        self._lost_s = []
        self._from_s = start * _STEP_S + origin_s if start else -math.inf
        for time_s, frame in self._decoded(self._from_s if start else None):
            while (middle_s := (step + 0.5) * _STEP_S + origin_s) <= time_s:
                is_nearer = before and is_earlier_nearest(before[0], middle_s, time_s)
                yield chosen(before[1] if before and is_nearer else frame), False
                step += 1
            before = time_s, frame
        count = max(1, math.ceil(round((self.end_s - origin_s) * FRAME_RATE_HZ - 0.5, 9)))
        while before and step < count:
            yield chosen(before[1]), False
            step += 1
        is_reached = before and round(step * _STEP_S + origin_s - self.end_s, 6) < 0
        yield chosen(before[1]) if before and is_reached else None, True

    def _decoded(self, from_s: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield each frame with its time on the clock of the file; `from_s` is sought where that is exact."""
        with opened(self._source) as file:
            if from_s is not None and file.format.name in _SEEKABLE:
                stream = picture_stream(file)
                with contextlib.suppress(av.FFmpegError):
                    file.seek(int((from_s - _BEFORE_S) / float(stream.time_base or 1)), stream=stream, backward=True)
            yield from self._frames(file, n_threads=cores())

    def _frames(self, file: "av.container.InputContainer", *, n_threads: int) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield the frames of an open file with their times, and set `end_s`."""
        end_s, last_s, gap_s, n_before = -math.inf, -math.inf, _FRAME_S, 0
        stream = picture_stream(file)
        # libav must not log to Python (`media.quiet`): its threads would wait for the lock that ends them.
        stream.thread_type, stream.codec_context.thread_count = "AUTO", n_threads
        stream.codec_context.options = dict(DECODING)
        unit_s = float(stream.time_base or 0)
        try:
            for packet in file.demux(stream):
                if packet.pts is not None and packet.size and not packet.is_discard:
                    end_s = max(end_s, (packet.pts + (packet.duration or 0)) * unit_s)
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    self._lost_s.append(max(0.0, last_s) if packet.pts is None else packet.pts * unit_s)
                    continue
                for frame in frames:
                    # A frame without a stamp follows the one before.
                    time_s = max(0.0, last_s + gap_s) if frame.pts is None else frame.pts * unit_s
                    if time_s <= last_s:
                        n_before += time_s < last_s - _RESTARTED_S
                        continue
                    if time_s - last_s > LONGEST_GAP_S and math.isfinite(last_s):
                        raise MediaError("its time stamps jump by more than an hour")
                    gap_s = time_s - last_s if math.isfinite(last_s) else gap_s
                    last_s = time_s
                    yield time_s, frame
        except (av.FFmpegError, MediaError) as error:
            said = told(error) if isinstance(error, av.FFmpegError) else str(error)
            self.warnings.append(f"the picture ends after {last_s:.1f} s: {said}")
            end_s = last_s + gap_s
        if n_before:
            self.warnings.append(
                f"{n_before} frames lie before others that came first, and were not judged: the clock of the file "
                "restarts; cut it there"
            )
        if n_lost := self.n_lost():
            self.warnings.append(f"{n_lost} packets of the picture cannot be decoded")
        self.end_s = end_s if end_s > last_s else last_s + gap_s


class _Still(_Picture):
    """A picture as a track of one step."""

    def _look(self, file: "av.container.InputContainer", stream: "av.VideoStream") -> None:
        [self._frame] = Still(pathlib.Path(self._source)).frames()
        self.start_s, self.end_s, self._aspect, self.shape = 0.0, _FRAME_S, 1.0, self._frame.shape[:2]

    def steps(self, origin_s: float, start: int) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"] | None, bool]]:
        """Yield the picture as the first step, and that it is over."""
        if not start:
            yield self._frame, False
        yield None, True


class _Sound:
    """The first audio track with a signal of a source, at 16 kHz."""

    def __init__(self, source: str, n_tracks: int):
        self._source = source
        self.warnings: list[str] = []
        self._track, self._channel, self.start_s, rate_hz = first_heard(source, n_tracks)
        if self._channel is not None:
            self.warnings.append(f"the channels cancel each other, so the sound is channel {self._channel + 1} alone")
        if self._track:
            self.warnings.append(f"the first {self._track} of {n_tracks} audio tracks are silent: the next was judged")
        self.about = {"audio_rate_hz": rate_hz, "audio_track": self._track}

    def steps(self, origin_s: float, start: int) -> Iterator[Int16[np.ndarray, "n"]]:
        """Yield the sound of each step, and at last the rest.

        Sound is decoded from its start, whatever `start` is: it is fast, and a decoder that begins elsewhere begins
        with other samples.
        """
        decoder = Decoder(self._source, self._track, self._channel)
        held = np.zeros(round((self.start_s - origin_s) * SAMPLE_RATE_HZ), np.int16)
        step = 0
        try:
            for block in resampled(decoder):
                held = np.concatenate([held, block])
                n_steps = len(held) // SAMPLES_PER_FRAME
                for place in range(n_steps):
                    if step + place >= start:
                        yield held[place * SAMPLES_PER_FRAME : (place + 1) * SAMPLES_PER_FRAME]
                step, held = step + n_steps, held[n_steps * SAMPLES_PER_FRAME :]
        except (av.FFmpegError, MediaError) as error:
            said = told(error) if isinstance(error, av.FFmpegError) else str(error)
            end_s = step * _STEP_S + len(held) / SAMPLE_RATE_HZ
            self.warnings.append(f"the sound ends after {end_s:.1f} s: {said}")
        if len(held) and step >= start:
            yield held
        if decoder.note:
            self.warnings.append(decoder.note)


def duration_s(source: str) -> float:
    """Return the length that a file gives itself in seconds, 0 if it gives none or cannot be opened."""
    try:
        with opened(source) as file:
            return file.duration / av.time_base if file.duration else 0.0
    except (av.FFmpegError, OSError, ValueError):
        return 0.0
