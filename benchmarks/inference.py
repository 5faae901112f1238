"""A clip of 3.5 s through the released models on one core, its sound beside openSMILE's functionals of it, alternating.

PYTHONPATH=. python benchmarks/inference.py    (requirements-baselines.txt)

After decoding and finding faces: from samples and 18 crops to log-probabilities. openSMILE's times are of the
functionals alone, which a classifier has yet to judge.
"""

import functools
import os
from collections.abc import Callable

import jax
import numpy as np
import opensmile
from turns import in_turn, timed

from fusion_emotion.models.batch import batch_spec, noise
from fusion_emotion.models.weights import load_model
from fusion_emotion.predict.recognizer import find

ROUNDS = 30
FRAMES = 18  # of 0.2 s
SAMPLES = 56_000  # 3.5 s at 16 kHz


def released(name: str) -> Callable[[], object]:
    """A released model on a clip of noise, compiled."""
    model = load_model(*find(name))
    batch = noise(batch_spec(model.config, n_frames=FRAMES), n_classes=len(model.label_names))
    batch["n_samples"] = np.full(1, SAMPLES, np.int32)
    judge = jax.jit(functools.partial(model.net.apply, train=False))
    variables = jax.device_put(dict(model.variables))
    return lambda: jax.block_until_ready(judge(variables, batch))


def functionals(of: opensmile.FeatureSet) -> Callable[[], object]:
    """A feature set of openSMILE on the same length of sound."""
    smile = opensmile.Smile(of, opensmile.FeatureLevel.Functionals)
    sound = np.random.default_rng(0).normal(0, 0.1, SAMPLES).astype(np.float32)
    return lambda: smile.process_signal(sound, 16_000)


def main() -> None:
    """Print the median milliseconds."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX starts its threads
    tasks = {
        "voice-base": released("voice-base"),
        "face-base": released("face-base"),
        "ComParE 2016": functionals(opensmile.FeatureSet.ComParE_2016),
        "eGeMAPS": functionals(opensmile.FeatureSet.eGeMAPSv02),
    }
    found = in_turn({name: functools.partial(timed, task) for name, task in tasks.items()}, rounds=ROUNDS)
    for name, milliseconds in found.items():
        print(f"{name:<14} {milliseconds:6.1f} ms")
    print(f"voice and face {found['voice-base'] + found['face-base']:6.1f} ms")
    print(f"ComParE's time over that of the voice: {found['ComParE 2016'] / found['voice-base']:.1f}")


if __name__ == "__main__":
    main()
