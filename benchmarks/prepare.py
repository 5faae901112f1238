"""Preparation of a folder of clips: clips per minute, and what a clip's time is spent on.

python benchmarks/prepare.py FOLDER [--config.prepare.FIELD=VALUE ...]
"""

import pathlib
import sys
import tempfile
import time
from collections import defaultdict

import cv2
from absl import app, flags
from ml_collections import config_flags

from fusion_emotion import corpora
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import faces, media
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.run import prepare
from fusion_emotion.prepare.settings import Settings

_CONFIG = config_flags.DEFINE_config_file("config", "configs/ravdess.py")


def stages(clips: list[Clip], settings: Settings) -> dict[str, float]:
    """Seconds of each stage over all clips, in this process and on one thread."""
    cv2.setNumThreads(1)
    detector = create_detector(settings)
    spent: dict[str, float] = defaultdict(float)
    for clip in clips:
        marks = [("", time.perf_counter())]
        frames = media.read_frames(clip.path)
        marks.append(("decode video", time.perf_counter()))
        found = [detector(frame) for frame in frames]
        marks.append(("detect", time.perf_counter()))
        boxes, there = faces.track(found, width=frames.shape[2], height=frames.shape[1])
        if there.any():
            for frame, square in zip(frames, faces.squares(boxes, there, margin=settings.margin), strict=True):
                faces.crop(frame, square, size=settings.face_size)
        marks.append(("track and crop", time.perf_counter()))
        media.read_audio(clip.path)
        marks.append(("audio", time.perf_counter()))
        for (_, before), (stage, after) in zip(marks, marks[1:], strict=False):
            spent[stage] += after - before
    return spent


def main(argv: list[str]) -> None:
    """Print the table for the folder that `argv` names."""
    if len(argv) != 2:
        raise UserError("name one folder of clips: python benchmarks/prepare.py FOLDER")
    config = _CONFIG.value
    clips, _ = corpora.find_clips("ravdess", pathlib.Path(argv[1]), audio_alone=False, channel="both")
    with tempfile.TemporaryDirectory() as cache:
        settings = Settings.from_config({**config.prepare.to_dict(), "cache": cache})
        began = time.perf_counter()
        prepare(clips, settings)
        wall_s = time.perf_counter() - began
        spent = stages(clips, settings)
    total = sum(spent.values())
    print(f"{len(clips)} clips in {wall_s:.1f} s, workers' start included: {60 * len(clips) / wall_s:.0f} clips/min")
    print("one process, one thread:")
    for stage, seconds in spent.items():
        print(f"  {stage:<15} {1e3 * seconds / len(clips):6.0f} ms/clip  {seconds / total:5.0%}")
    print(f"  {'all':<15} {1e3 * total / len(clips):6.0f} ms/clip")


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=lambda argv: flags.FLAGS(argv))
    except UserError as error:
        sys.exit(f"error: {error}")
