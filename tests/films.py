"""Small films and sounds, a stand-in for a detector, and preparation in another process."""

import dataclasses
import fractions
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import av
import grain
import imageio_ffmpeg
import numpy as np
import soundfile

from conftest import ROOT
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.prepare.detectors import Faces
from fusion_emotion.prepare.records import MANIFEST, Row, read_rows, shard_paths
from fusion_emotion.prepare.settings import Settings

PREPARE = """
import pathlib, sys
from fusion_emotion.corpora import catalogue
from fusion_emotion.prepare import run
from fusion_emotion.prepare.settings import Settings

if __name__ == "__main__":
    root, settings, count, group = sys.argv[1], eval(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    wanted = catalogue.Wanted(audio_alone=False, channel="speech")
    clips = catalogue.find_clips(catalogue.corpus("sample"), pathlib.Path(root), wanted).clips
    run.prepare(clips[:count], settings, group=group)
"""


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


def ffmpeg(
    source: pathlib.Path | str, target: pathlib.Path, *arguments: str, before: Sequence[str] = ()
) -> pathlib.Path:
    """`target`, made of `source` by the command line tool."""
    tool = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([tool, "-y", "-v", "error", *before, "-i", source, *arguments, target], check=True, timeout=120)
    return target


def clip_of(path: pathlib.Path, *, modality: str = "av") -> Clip:
    """A clip of a file, whatever its name."""
    return Clip(
        path=path,
        corpus="ravdess",
        clip_id=f"ravdess/{path.stem}",
        take_id=f"ravdess/{path.stem}",
        speaker="ravdess/01",
        sex="male",
        emotion="neutral",
        intensity="normal",
        statement="01",
        repetition="01",
        modality=modality,
        channel="speech",
    )


def sounds(folder: pathlib.Path, count: int, *, seconds: int = 1) -> list[Clip]:
    """Clips of noise; they are prepared without a detector or a resampler."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000 * seconds)
    paths = [folder / f"{number}.wav" for number in range(count)]
    for path in paths:
        soundfile.write(path, noise, 16_000)
    return [clip_of(path, modality="a") for path in paths]


def start_preparation(
    root: pathlib.Path, settings: Settings, *, count: int, group: int, environment: dict[str, str] | None = None
) -> subprocess.Popen:
    """Prepare the first `count` clips of a sample corpus in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(root), repr(settings), str(count), str(group)],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(folder: pathlib.Path) -> tuple[list[Row], list[bytes]]:
    """The rows and the records of a prepared folder."""
    source = grain.sources.ArrayRecordDataSource(shard_paths(folder))
    return list(read_rows(folder / MANIFEST)), [source[i] for i in range(len(source))]


def by_clip(folder: pathlib.Path) -> list[tuple[Row, bytes | None]]:
    """The row and the record of each clip, wherever the record lies."""
    rows, records = contents(folder)
    return [(dataclasses.replace(row, record=-1), records[row.record] if row.record >= 0 else None) for row in rows]


def box(x: float, y: float, size: float) -> np.ndarray:
    """A face of `size` px around a centre, a little higher than wide."""
    return np.array([x - 0.4 * size, y - 0.5 * size, x + 0.4 * size, y + 0.5 * size], np.float32)


def faces(*boxes: np.ndarray, roll: float = 0.0) -> Faces:
    """Faces whose eyes lie on a line that is turned clockwise by `roll` radians."""
    n = len(boxes)
    box = np.array(boxes, np.float32).reshape(n, 4)
    landmarks = np.zeros((n, 5, 2), np.float32)
    middle, between = (box[:, :2] + box[:, 2:]) / 2, 0.2 * (box[:, 3:] - box[:, 1:2])
    landmarks[:, 0] = middle - between * [np.cos(roll), np.sin(roll)]
    landmarks[:, 1] = middle + between * [np.cos(roll), np.sin(roll)]
    return Faces(box, np.full(n, 0.9, np.float32), landmarks)


class OneFace:
    """A detector that finds one face in the middle third of every frame that is not black."""

    def __call__(self, frame: np.ndarray) -> Faces:
        """Return the face, or none."""
        height, width = frame.shape[:2]
        count = int(frame.mean() > 8)
        box = np.array([[width / 3, height / 3, 2 * width / 3, 2 * height / 3]], np.float32)[:count]
        landmarks = np.array([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]]], np.float32)[:count]
        return Faces(box, np.ones(count, np.float32), landmarks * np.array([width, height], np.float32))
