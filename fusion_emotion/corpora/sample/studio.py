"""Makes the clips of one actor. Runs in its own process: see `voices.speak_all`."""

import os
import pathlib
from collections.abc import Collection, Iterator

import cv2
import numpy as np
from jaxtyping import Float32

from fusion_emotion.corpora.sample import heads, looks, script, video, voices
from fusion_emotion.corpora.sample.warps import Image

_PAUSE_S = 0.3  # before the speech; half of it after
_SHORTEST_S, _LONGEST_S = 2.0, 3.0
_BLINK = (0.5, 1.0, 1.0, 0.7, 0.3)  # closure of the lids in each frame
_AWAY_S = 1.16  # contains a full second of sampled frames wherever it starts
_WALK = (0.1, 0.3, 0.55, 0.8)  # distance in frame widths in each frame of walking out


def make_actor(folder: pathlib.Path, actor: int, wanted: Collection[str], *, seed: int) -> None:
    """Make those clips of an actor whose file names are wanted; each appears only when it is complete."""
    cv2.setNumThreads(1)
    speeches = voices.speak_all(actor, seed=seed)
    head = heads.Head(looks.look_of(actor, seed=seed))
    for take, speech in zip(script.takes_of(actor), speeches, strict=True):
        if take.file_name not in wanted:
            continue
        wave, openness = _recorded(take, speech, seed=seed)
        unfinished = folder / script.unfinished(take.file_name)
        video.write_mp4(
            unfinished,
            _performed(head, take, openness, seed=seed),
            wave,
            frame_rate=heads.FRAME_RATE,
            sample_rate_hz=voices.SAMPLE_RATE_HZ,
        )
        os.replace(unfinished, folder / take.file_name)


def _recorded(
    take: script.Take, speech: Float32[np.ndarray, "S"], *, seed: int
) -> tuple[Float32[np.ndarray, "N"], Float32[np.ndarray, "T"]]:
    """Return the sound of a take, and the opening of the mouth in each frame (0 to 1)."""
    rng = script.take_rng(seed, take, script.Stream.NOISE)
    samples_per_frame = voices.SAMPLE_RATE_HZ // heads.FRAME_RATE
    spoken_s = len(speech) / voices.SAMPLE_RATE_HZ
    length_s = np.clip(spoken_s + 1.5 * _PAUSE_S, _SHORTEST_S, _LONGEST_S)
    frames = int(np.ceil(length_s * heads.FRAME_RATE))
    start = int(max(_PAUSE_S, (length_s - spoken_s) / 2) * voices.SAMPLE_RATE_HZ)
    wave = np.zeros(frames * samples_per_frame, np.float32)
    speech = speech[: len(wave) - start]
    wave[start : start + len(speech)] = speech

    loudness = np.sqrt(np.mean(wave.reshape(frames, samples_per_frame) ** 2, axis=1))
    loudness = np.convolve(loudness, [0.25, 0.5, 0.25], mode="same")
    openness = np.sqrt(np.clip(loudness / np.quantile(loudness, 0.95), 0, 1))
    if take.key in script.NO_SOUND:
        return np.zeros_like(wave), openness.astype(np.float32)
    hiss_dbfs = rng.uniform(-64, -54)
    wave += 10 ** (hiss_dbfs / 20) * rng.standard_normal(len(wave), np.float32)
    return wave, openness.astype(np.float32)


def _performed(
    head: heads.Head, take: script.Take, openness: Float32[np.ndarray, "T"], *, seed: int
) -> Iterator[Image]:
    """Yield the frames of a take."""
    rng = script.take_rng(seed, take, script.Stream.FACE)
    frames = len(openness)
    gain = rng.uniform(0.94, 1.06)
    poses = _poses(frames, rng)
    weights = _weights(take, openness, rng, seed=seed)
    aside = np.zeros(frames)
    if take.key in script.NO_FACE:
        walk = np.concatenate([_WALK, np.ones(round(_AWAY_S * heads.FRAME_RATE)), _WALK[::-1]])
        first = (frames - len(walk)) // 2
        aside[first : first + len(walk)] = walk
    for frame_weights, pose, out in zip(weights, poses, aside, strict=True):
        yield np.asarray(cv2.convertScaleAbs(head.frame(frame_weights, pose, aside=float(out)), alpha=gain))


def _weights(
    take: script.Take, openness: Float32[np.ndarray, "T"], rng: np.random.Generator, *, seed: int
) -> Float32[np.ndarray, "T U"]:
    """Return the weights of `heads.UNITS` in each frame: the expression (strength 0.7 to 1), speech and blinks."""
    manner = script.actor_rng(seed, take.actor, script.Stream.MANNER).uniform(0.88, 1.12, len(heads.UNITS))
    chance = rng.uniform(0.85, 1.1, len(heads.UNITS))
    seconds = np.arange(len(openness)) / heads.FRAME_RATE
    strength = 0.85 + 0.15 * np.sin(2 * np.pi * (rng.uniform(0.25, 0.6) * seconds + rng.uniform()))
    expression = script.EXPRESSIONS[script.EXPRESSION_OF[take.emotion]]
    full = np.array([expression.get(unit, 0.0) for unit in heads.UNITS]) * manner * chance
    weights = strength[:, None] * full
    lips, jaw, lids = (heads.UNITS.index(unit) for unit in ("lips_part", "jaw_drop", "lids_close"))
    weights[:, lips] += script.SPEECH_OPENS_LIPS * openness * (1 - weights[:, lips])
    weights[:, jaw] += script.SPEECH_DROPS_JAW * openness * (1 - weights[:, jaw])
    blinks = np.zeros(len(openness))
    at = int(rng.uniform(0, 1.5) * heads.FRAME_RATE)
    while at + len(_BLINK) < len(openness):
        blinks[at : at + len(_BLINK)] = _BLINK
        at += int(rng.uniform(1.2, 3) * heads.FRAME_RATE)
    weights[:, lids] += blinks * (1 - weights[:, lids])
    return weights.astype(np.float32)


def _poses(frames: int, rng: np.random.Generator) -> Float32[np.ndarray, "T 3"]:
    """Return the pose in each frame: a slow sway around a random place (right and down in pixels, roll in radians)."""
    seconds = np.arange(frames)[:, None] / heads.FRAME_RATE
    place = rng.uniform([-8, -4, -0.03], [8, 4, 0.03])
    reach = rng.uniform([1, 1, 0.005], [3.5, 2.5, 0.02])
    sway = np.sin(2 * np.pi * (rng.uniform(0.15, 0.7, 3) * seconds + rng.uniform(size=3)))
    return (place + reach * sway).astype(np.float32)
