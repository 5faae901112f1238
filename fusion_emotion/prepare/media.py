"""Media files to frames at 5 Hz and sound at 16 kHz, both counted from one origin."""

import contextlib
import pathlib
from collections.abc import Iterator

import av
import av.logging
import cv2
import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8

from fusion_emotion.prepare.media_errors import MediaError
from fusion_emotion.prepare.sound import read_sound
from fusion_emotion.prepare.video import Video, picture_start_s
from fusion_emotion.units import FRAME_RATE_HZ, SAMPLE_RATE_HZ

# Programs that write a wav to a pipe put 0, or this and more, for a size that they do not know.
_UNKNOWN_BYTES = 0x7FFF_0000


def sample_times(duration_s: float) -> Float[np.ndarray, "T"]:
    """Return the times (k + 0.5) / 5 s within a clip; at least one."""
    # Rounded, because the duration is a sum of floats.
    count = int(np.ceil(round(duration_s * FRAME_RATE_HZ - 0.5, 9)))
    return (np.arange(max(1, count)) + 0.5) / FRAME_RATE_HZ


class Film:
    """The picture and the sound of a file, counted from the earlier start of the two.

    A track that is missing or cannot be decoded is no error: `lacks` names it. `decoder` is "cpu" or "gpu" (NVDEC);
    with `picture` False only the sound is read. An `excerpt` is its start and its end in seconds; end 0 is that of the
    file. Its times are then counted from its start.
    """

    def __init__(
        self,
        path: pathlib.Path,
        *,
        decoder: str = "cpu",
        picture: bool = True,
        excerpt: tuple[float, float] = (0.0, 0.0),
    ):
        self.lacks: list[str] = []
        self.note = ""  # what is unusual about the sound
        self.waveform: Int16[np.ndarray, "N"] = np.zeros(0, np.int16)
        self.shown: Bool[np.ndarray, "T"] = np.zeros(0, bool)  # True at the sample times that have a picture
        self._video, sound = None, None
        try:
            self._video = Video(path, decoder=decoder) if picture else None
        except MediaError as error:
            self.lacks.append(str(error))
        try:
            sound = read_sound(path)
        except MediaError as error:
            self.lacks.append(str(error))
        starts_s = [track.start_s for track in (self._video, sound) if track]
        if any(excerpt) and not picture and (start_s := picture_start_s(path)) is not None:
            starts_s.append(start_s)  # the times of an excerpt are those of the film
        if sound:
            self.note = sound.note
            late = round((sound.start_s - min(starts_s)) * SAMPLE_RATE_HZ)
            self.waveform = np.concatenate([np.zeros(late, np.int16), sound.waveform]) if late else sound.waveform
        from_s, to_s = excerpt
        if any(excerpt) and sound:
            self.waveform = self.waveform[round(from_s * SAMPLE_RATE_HZ) : round(to_s * SAMPLE_RATE_HZ) or None]
            if not len(self.waveform):
                self.lacks.append(f"the sound ends before {from_s:g} s")
        if self._video:
            self._place(self._video, min(starts_s) + from_s, (to_s - from_s) if to_s else np.inf)

    def _place(self, video: Video, origin_s: float, most_s: float) -> None:
        """Choose the sample times of the film, and those that its picture covers."""
        start_s, end_s, sound_s = video.start_s - origin_s, video.end_s - origin_s, len(self.waveform) / SAMPLE_RATE_HZ
        end_s, step_s = min(end_s, most_s), 1 / FRAME_RATE_HZ
        if end_s <= 0:
            self.lacks.append(f"the picture ends {-end_s:.1f} s before the excerpt")
            return
        # Sound that outlasts the picture by less than a step adds no sample time.
        times_s = sample_times(sound_s if sound_s > end_s + step_s else end_s)
        # A sample time stands for the step around it; rounded, because the ends are sums of floats.
        self.shown = (np.round(times_s + step_s / 2 - start_s, 6) > 0) & (np.round(times_s - step_s / 2 - end_s, 6) < 0)
        if not self.shown.any():
            self.lacks.append("no picture within the excerpt")
            self.shown = self.shown[:0]
        video.times_s = times_s[self.shown] + origin_s

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the picture, from the first decoded frame on."""
        return self._video.shape if self._video else (0, 0)

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the RGB frame of each sample time that is `shown`, in order. Raises MediaError."""
        return self._video.frames() if self._video else iter(())


class Still:
    """A picture as a film of one frame, without sound."""

    def __init__(self, path: pathlib.Path):
        self.lacks: list[str] = []
        self.note = ""
        self.waveform: Int16[np.ndarray, "N"] = np.zeros(0, np.int16)
        self.shown: Bool[np.ndarray, "T"] = np.ones(1, bool)
        frame = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)  # upright as its EXIF tag says
        if frame is None:
            raise MediaError("the picture cannot be decoded: fetch it again, or save it as png or jpg")
        self._frame: UInt8[np.ndarray, "H W 3"] = np.asarray(frame, np.uint8)
        self.shape: tuple[int, int] = self._frame.shape[:2]

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yield the RGB frame."""
        yield self._frame


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep libav's messages off the terminal; the last one becomes the reason of an error."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():
            yield
    finally:
        av.logging.set_level(None)


def check_whole(path: pathlib.Path) -> None:
    """Raise MediaError for an empty file, and for an mp4 or a wav that is shorter than its boxes or chunks say.

    Decoders accept both without an error. Boxes are those of ISO/IEC 14496-12, 4.2: a 32-bit size, a type and, for size
    1, a 64-bit size. Chunks are RIFF's: a type and the size of the content, which is padded to an even number of bytes.
    """
    size = path.stat().st_size
    if not size:
        raise MediaError("the file is empty: fetch it again")
    with path.open("rb") as file:
        magic = file.read(12)
        if is_riff := magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            start = 12
        elif path.suffix.lower() in (".mp4", ".mov", ".m4v", ".m4a"):
            start = 0
        else:
            return
        needed = 8  # a box or a chunk is no smaller
        while start + 8 <= size:
            file.seek(start)
            header = file.read(16)
            if is_riff:
                length = int.from_bytes(header[4:8], "little")
                if header[:4] == b"data" and not 0 < length < _UNKNOWN_BYTES:
                    return
                start += 8 + length
                needed, start = start, start + length % 2
                continue
            size_field = header[8:] if header[:4] == b"\0\0\0\1" else header[:4]
            length = int.from_bytes(size_field, "big")
            if length == 0 or not header[4:8].isalnum():  # the box reaches to the end of the file, or this is no mp4
                return
            start += max(length, 8)
            needed = start
    if needed > size:
        raise MediaError(
            f"the file is cut short, {size} of at least {needed} bytes: it cannot be decoded whole, fetch it again"
        )
