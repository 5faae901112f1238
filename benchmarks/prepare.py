"""Preparation of a folder of clips, against decoding alone and against the recipe of the peers, in one run.

    PYTHONPATH=. python benchmarks/prepare.py FOLDER [--config.prepare.FIELD=VALUE ...] [--config.run.FIELD=VALUE ...]
        [--peer_clips=2] [--memory_clips=2000]

Decoding alone is reading the same frames and the same sound in as many workers. The two alternate, and each is
timed from its first finished clip to its last, so that the start of the workers is in neither. The peers' recipe
(`benchmarks/peer_recipe.py`; packages in benchmarks/requirements.txt) is one process, as they run it, on a few clips.
"""

import functools
import pathlib
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import peer_recipe
from absl import app, flags
from ml_collections import config_flags

from fusion_emotion.corpora import catalogue
from fusion_emotion.corpora.clip import Clip
from fusion_emotion.errors import UserError
from fusion_emotion.prepare import faces, hardware, media, pool
from fusion_emotion.prepare.clip import prepare_clip
from fusion_emotion.prepare.detectors import create_detector
from fusion_emotion.prepare.records import encode
from fusion_emotion.prepare.settings import Settings

_CONFIG = config_flags.DEFINE_config_file("config", "configs/ravdess.py")
_PEER_CLIPS = flags.DEFINE_integer("peer_clips", 2, "Clips that the peers' recipe is measured on; 0: none.")
_MEMORY_CLIPS = flags.DEFINE_integer("memory_clips", 0, "Only watch a worker's memory, over so many clips.")
_ROUNDS = 3
_REPEATS = 3


def decode_alone(argument: tuple[list[Clip], Settings]) -> Callable[[int], int]:
    """In a worker: decode what preparation decodes, and nothing else."""
    clips, settings = argument

    def work(task: int) -> int:
        for _ in media.Film(clips[task % len(clips)].path, decoder=settings.decoder).frames():
            pass
        return 0

    return work


def prepare_all(argument: tuple[list[Clip], Settings]) -> Callable[[int], int]:
    """In a worker: prepare a clip and encode its record; the result is the worker's memory in kB."""
    clips, settings = argument
    cv2.setNumThreads(1)
    detector = create_detector(settings)

    def work(task: int) -> int:
        _, record = prepare_clip(clips[task % len(clips)], settings, detector)
        assert record is not None
        encode(record)
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024

    return work


def seconds_per_clip(make_work: Callable, argument: tuple[list[Clip], Settings], n: int) -> tuple[float, list[int]]:
    """Wall seconds a clip over all workers, from the first finished clip to the last, and the results."""
    settings = argument[1]
    results, first_s = [], 0.0
    for _, result, lost in pool.run(range(n), make_work, argument, workers=settings.workers, timeout_s=600):
        assert not lost, lost
        results.append(result)
        first_s = first_s or time.perf_counter()
    return (time.perf_counter() - first_s) / (n - 1), results


def stages(clips: list[Clip], settings: Settings) -> dict[str, float]:
    """Seconds of each stage over all clips, in this process and on one thread."""
    cv2.setNumThreads(1)
    detector = create_detector(settings)
    spent: dict[str, float] = defaultdict(float)
    for clip in clips:
        marks = [("", time.perf_counter())]
        mark = functools.partial(lambda marks, name: marks.append((name, time.perf_counter())), marks)
        film = media.Film(clip.path, decoder=settings.decoder)
        mark("open, decode and resample audio")
        frames = list(film.frames())
        mark("decode video")
        found = faces.detect(frames, detector, every=settings.detect_every)
        mark("detect")
        track = faces.track(found, width=film.shape[1], height=film.shape[0])
        squares = faces.squares(faces.smooth(track).box, margin=settings.margin)
        for frame, square in zip(frames, squares, strict=True):
            faces.crop(frame, square, size=settings.face_size)
        mark("track and crop")
        for (_, before), (stage, after) in pairwise(marks):
            spent[stage] += after - before
    return spent


def detector_table(clips: list[Clip], settings: Settings) -> None:
    """Recall, time and steadiness of each size of the detector's input, every sampled frame looked at."""
    print(f"\n{settings.detector}, input size  found  ms/frame  jitter detected  jitter smoothed  largest deviation")
    videos = [media.Film(clip.path) for clip in clips]
    for size in (128, 192, 256, 320, 640):
        detector = create_detector(Settings(**{**settings.__dict__, "detector_sizes": (size,)}))
        n_found = n_frames = 0
        spent_s, before, after, off = 0.0, [], [], []
        for video in videos:
            frames = list(video.frames())
            began = time.perf_counter()
            found = [detector(frame) for frame in frames]
            spent_s += time.perf_counter() - began
            track = faces.track(found, width=video.shape[1], height=video.shape[0])
            n_found += int(track.found.sum())
            n_frames += len(frames)
            if not track.found.all():
                continue
            steady = faces.smooth(track)
            sparse = faces.track(
                faces.detect(frames, detector, every=settings.detect_every),
                width=video.shape[1],
                height=video.shape[0],
            )
            width = float(np.median(steady.box[:, 2] - steady.box[:, 0]))
            before.append(faces.jitter(track))
            after.append(faces.jitter(steady))
            off.append(float(np.abs(faces.smooth(sparse).box - steady.box).max()) / width)
        print(
            f"{size:>6} px  {n_found / n_frames:21.1%}  {1e3 * spent_s / n_frames:8.1f}"
            f"  {np.median(before):15.4f}  {np.median(after):15.4f}  {max(off, default=np.nan):17.3f}"
        )
    print("jitter: median absolute second difference of the box's centre, in face widths; deviation: of the smoothed")
    print(f"boxes with detection on every {settings.detect_every}nd frame from those with it on every one, likewise")


def main(argv: list[str]) -> None:
    """Print the tables for the folder that `argv` names."""
    if len(argv) != 2:
        raise UserError("name one folder of clips: PYTHONPATH=. python benchmarks/prepare.py FOLDER")
    wanted = catalogue.Wanted(audio_alone=False, channel="both")
    clips = list(catalogue.find_clips(catalogue.corpus("ravdess"), pathlib.Path(argv[1]), wanted).clips)
    settings = hardware.resolve(Settings.from_config(_CONFIG.value.to_dict()))
    settings = Settings(**{**settings.__dict__, "workers": settings.workers or 2})
    argument, n = (clips, settings), _REPEATS * len(clips)

    if _MEMORY_CLIPS.value:
        memory = seconds_per_clip(prepare_all, argument, _MEMORY_CLIPS.value)[1]
        tenth = max(1, len(memory) // 10)
        print(f"memory of a worker over {len(memory)} clips, MB, the largest in each tenth:")
        print("  " + "  ".join(f"{max(memory[i : i + tenth]) / 1024:.0f}" for i in range(0, len(memory), tenth)))
        return

    spent = stages(clips, settings)
    total = sum(spent.values())
    print(f"{len(clips)} clips, one process, one thread:")
    for stage, seconds in spent.items():
        print(f"  {stage:<31} {1e3 * seconds / len(clips):6.0f} ms/clip  {seconds / total:5.0%}")
    print(f"  {'all':<31} {1e3 * total / len(clips):6.0f} ms/clip")

    ours_s, alone_s = [], []
    for _ in range(_ROUNDS):
        alone_s.append(seconds_per_clip(decode_alone, argument, n)[0])
        ours_s.append(seconds_per_clip(prepare_all, argument, n)[0])
    ours, alone = statistics.median(ours_s), statistics.median(alone_s)
    print(f"\n{settings.workers} workers, median of {_ROUNDS} rounds of {n} clips:")
    print(f"  decoding alone  {60 / alone:6.0f} clips/min")
    print(f"  preparation     {60 / ours:6.0f} clips/min, {ours / alone:.2f} times the time of decoding alone")

    if _PEER_CLIPS.value:
        prepare = peer_recipe.create()
        prepare(clips[0].path)
        began = time.perf_counter()
        for clip in clips[: _PEER_CLIPS.value]:
            prepare(clip.path)
        peer = (time.perf_counter() - began) / _PEER_CLIPS.value
        print(f"  peers' recipe   {60 / peer:6.0f} clips/min; preparation does {peer / ours:.0f} times as many")

    detector_table(clips, settings)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=lambda argv: flags.FLAGS(argv))
    except UserError as error:
        sys.exit(f"error: {error}")
