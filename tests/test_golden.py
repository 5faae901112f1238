"""Values of the code before segments, weights files and the config's section `run`: none of them may change.

The golden logits are of one CPU; others round differently, so they are compared within a tolerance. To change a value
on purpose, change data/golden.json in the same commit and say why.
"""

import functools
import hashlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from configs import original
from conftest import ROOT
from fusion_emotion import config as config_
from fusion_emotion.models.batch import Batch
from fusion_emotion.models.create import create_model
from run_tiny import Tiny

GOLDEN = json.loads((ROOT / "tests" / "data" / "golden.json").read_text())


def batch(face_size: int) -> Batch:
    """Four segments of noise, two of which lack a modality."""
    rng = np.random.default_rng(0)
    fields = {
        "faces": rng.integers(0, 256, (4, 5, face_size, face_size, 3), np.uint8),
        "waveform": rng.integers(-9000, 9000, (4, 16_000), np.int16),
        "n_frames": np.full(4, 5, np.int32),
        "has_video": np.array([1, 1, 0, 1], bool),
        "has_audio": np.array([1, 0, 1, 1], bool),
        "mask": np.ones(4, bool),
    }
    return {name: jnp.asarray(value) for name, value in fields.items()}


@pytest.mark.parametrize("name", ["defaults", "original"])
def test_the_logits_of_the_initial_networks(name: str) -> None:
    """The same parameters from the same seed, and the same function of them, with dropout and without."""
    config: dict[str, Any] = {"defaults": config_, "original": original}[name].get_config().to_dict()
    net, segments = create_model(config, n_classes=8), batch(config["prepare"]["face_size"])
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), segments)

    @jax.jit  # one compilation of both
    def outputs(variables: Any, segments: Batch) -> tuple[jax.Array, jax.Array]:
        keys = jax.random.split(jax.random.key(1), 4)
        trained, _ = net.apply(variables, segments, train=True, keys=keys, mutable=["batch_stats"])
        return net.apply(variables, segments, train=False), trained

    for logits, golden in zip(outputs(variables, segments), (name, f"{name}_train"), strict=True):
        np.testing.assert_allclose(logits, GOLDEN["logits"][golden], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of(tiny.write(tmp_path_factory.mktemp("tiny") / "records"))


def test_the_first_training_batch(job: Tiny) -> None:
    """The split, the order of segments, their random starts, and the bytes of faces and sound."""
    first = next(job.batches())
    assert {name: hashlib.sha256(first[name].tobytes()).hexdigest() for name in GOLDEN["batch"]} == GOLDEN["batch"]


def test_the_results_of_a_training(job: Tiny, tmp_path: pathlib.Path) -> None:
    job.train(tmp_path)
    results, golden = job.evaluate(tmp_path), GOLDEN["results"]
    assert results["checkpoint"]["step"] == golden["step"]
    assert results["test"]["clip"]["confusion"] == golden["confusion"]
    assert results["test"]["segment"]["confusion"] == golden["segment_confusion"]
    assert results["test"]["loss"] == pytest.approx(golden["loss"], abs=1e-3)
