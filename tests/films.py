"""Small films of every shape, written with PyAV and the ffmpeg that imageio-ffmpeg carries."""

import fractions
import pathlib
import subprocess
from collections.abc import Callable, Sequence

import av
import imageio_ffmpeg
import numpy as np

from fusion_emotion.corpora.clip import Clip
from fusion_emotion.prepare.detectors import Faces


def film(
    path: pathlib.Path,
    *,
    seconds: float = 1.0,
    fps: float = 25,
    size: tuple[int, int] = (160, 120),
    picture: Callable[[float], np.ndarray] | None = None,
    times: Sequence[float] = (),
    sound_s: float | None = None,
    rate_hz: int = 48_000,
    layout: str = "stereo",
    level: float = 0.3,
) -> pathlib.Path:
    """An H.264 and AAC file; `times` gives frames of variable rate, `sound_s` = 0 leaves the audio track out."""
    width, height = size
    sound_s = seconds if sound_s is None else sound_s
    times = times or [i / fps for i in range(max(1, round(seconds * fps)))]
    with av.open(str(path), "w") as writer:
        video = writer.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1001))
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.time_base = fractions.Fraction(1, 1000)
        video.options = {"preset": "ultrafast"}
        audio = writer.add_stream("aac", rate=rate_hz, layout=layout) if sound_s else None
        for time in times:
            image = picture(time) if picture else np.full((height, width, 3), int(40 + 40 * time) % 256, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), fractions.Fraction(1, 1000)
            for packet in video.encode(frame):
                writer.mux(packet)
        for packet in video.encode():
            writer.mux(packet)
        if audio:
            n_channels = len(av.AudioLayout(layout).channels)
            wave = level * np.sin(2 * np.pi * 220 * np.arange(round(sound_s * rate_hz)) / rate_hz)
            for start in range(0, len(wave), 1024):
                block = np.tile(wave[start : start + 1024].astype(np.float32), (n_channels, 1))
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                frame.sample_rate, frame.pts = rate_hz, start
                for packet in audio.encode(frame):
                    writer.mux(packet)
            for packet in audio.encode():
                writer.mux(packet)
    return path


def ffmpeg(source: pathlib.Path, target: pathlib.Path, *arguments: str, before: Sequence[str] = ()) -> pathlib.Path:
    """`target`, made of `source` by the command line tool."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-y",
        "-v",
        "error",
        *before,
        "-i",
        str(source),
        *arguments,
        str(target),
    ]
    subprocess.run(command, check=True, timeout=120)
    return target


def clip_of(path: pathlib.Path, *, modality: str = "av") -> Clip:
    """A clip of a file, whatever its name."""
    return Clip(
        path=path,
        corpus="ravdess",
        clip_id=path.stem,
        take_id=path.stem,
        speaker="01",
        sex="male",
        label=0,
        emotion="neutral",
        intensity="normal",
        statement="01",
        repetition="01",
        modality=modality,
        channel="speech",
    )


class OneFace:
    """A detector that finds one face in the middle third of every frame that is not black."""

    def __call__(self, frame: np.ndarray) -> Faces:
        """The face."""
        height, width = frame.shape[:2]
        there = frame.mean() > 8
        box = np.array([[width / 3, height / 3, 2 * width / 3, 2 * height / 3]], np.float32)[: int(there)]
        eyes = np.array([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]]], np.float32)[: int(there)]
        return Faces(box, np.ones(int(there), np.float32), eyes * np.array([width, height], np.float32))
