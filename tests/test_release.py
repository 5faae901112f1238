"""A released model: trained on every clip, with the numbers of the cross-validation of the same config."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

import tiny
from fusion_emotion.corpora.protocols import PARTS
from fusion_emotion.corpora.sample import make_corpus
from fusion_emotion.errors import UserError
from fusion_emotion.experiments import release, summary
from fusion_emotion.input.leaks import check_split
from fusion_emotion.models.weights import load_model
from fusion_emotion.predict.notice import notice
from launch_kit import launch
from run_tiny import Tiny
from test_crossval import Quick


def test_a_released_model_has_all_clips_and_the_numbers_of_the_cross_validation(tmp_path: pathlib.Path) -> None:
    records = tiny.write(tmp_path / "records")
    quick = Quick(tmp_path, records)
    with pytest.raises(UserError, match=r"no finished cross-validation.*--mode=crossval"):
        release.config_of(quick.workdir)
    results, _ = quick.finished(protocols=("random",))
    summary.write(results, quick.workdir)
    with pytest.raises(UserError, match="has the protocol random, with the same people"):
        release.config_of(quick.workdir)
    results, _ = quick.finished(protocols=("kfold",), seeds=(3, 4))
    summary.write(results, quick.workdir)
    config = release.config_of(quick.workdir)
    assert (config["split"]["protocol"], config["seed"]) == ("everything", 3)

    run = Tiny.of(records, model__modalities="audio", split__protocol="everything", train__epochs=1)
    n_clips = len(tiny.records_of())
    assert {part: run.data.parts[part].n_clips for part in PARTS} == dict.fromkeys(PARTS, n_clips)
    check_split(records, run.data.parts, run.data.protocol).raise_errors()
    assert "numbers say nothing" in run.data.protocol.warning
    run.train(tmp_path / "everything")
    evaluated = run.evaluate(tmp_path / "everything")
    assert "neither validation nor test part measures" in evaluated["checkpoint"]["chosen_by"]
    release.release(tmp_path / "everything", quick.workdir, tmp_path / "voice-tiny")

    trained, released = load_model(tmp_path / "everything"), load_model(tmp_path / "voice-tiny")
    batch_stats = [model.variables["batch_stats"]["audio"]["BatchNorm_0"]["mean"] for model in (trained, released)]
    np.testing.assert_array_equal(*batch_stats)
    network = results["protocols"]["kfold"]["systems"]["network"]
    numbers = released.about["numbers"]
    assert (numbers["uar"], numbers["uar_interval"]) == (network["uar"]["pooled"], list(network["uar"]["interval"]))
    assert (numbers["clips"], numbers["protocol"]["name"]) == (n_clips, "kfold")
    assert (numbers["trained_on_clips"], numbers["trained_on_speakers"]) == (n_clips, numbers["speakers"])
    assert sum(of["n"] for of in numbers["by"]["sex"].values()) == n_clips  # two seeds answered each
    assert released.about["temperature"] == pytest.approx(1.5)
    failures = released.about["failures"]
    assert failures
    assert all(each["true"] != each["predicted"] for each in failures)
    card = (tmp_path / "voice-tiny" / "README.md").read_text(encoding="utf-8")
    assert f"UAR {100 * numbers['uar']:.1f} %" in card
    assert "CC BY-NC-SA 4.0" in card
    assert failures[0]["clip"] in card
    assert f"{100 * numbers['uar']:.1f}% UAR" in notice(released.about)
    assert json.loads((tmp_path / "voice-tiny" / "model.json").read_text())["trained_on"] == "RAVDESS"


def test_a_model_whose_test_part_is_given_is_released_with_its_own_numbers(tmp_path: pathlib.Path) -> None:
    records = tiny.write(tmp_path / "records")
    workdir, output = tmp_path / "run", tmp_path / "face-tiny"
    run = Tiny.of(records, model__modalities="audio", split__protocol="random", train__epochs=1)
    run.train(workdir)
    run.evaluate(workdir)
    assert not release.is_tested(workdir)
    assert not release.is_tested(tmp_path / "nowhere")
    results = json.loads((workdir / "results.json").read_text())
    results["protocol"]["name"] = "given_takes"
    (workdir / "results.json").write_text(json.dumps(results))
    assert release.is_tested(workdir)
    release.release_tested(workdir, output)
    released = load_model(output)
    np.testing.assert_array_equal(
        *(model.variables["params"]["Dense_0"]["kernel"] for model in (released, load_model(workdir)))
    )
    numbers, clip = released.about["numbers"], results["test"]["clip"]
    assert (numbers["uar"], numbers["war"], numbers["clips"]) == (clip["uar"], clip["war"], clip["count"])
    assert numbers["trained_on_clips"] == results["parts"]["train"]["clips"]
    assert released.about["temperature"] == results["test"]["calibration"]["temperature"]
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"{clip['count']} others, which may be of the same people: UAR {100 * clip['uar']:.1f} %" in card
    assert "None" not in card


@pytest.mark.slow
def test_a_release_made_twice_is_the_same_to_the_bit(tmp_path: pathlib.Path) -> None:
    # Both views of the voice, trained by processes of their own; only the date differs.
    make_corpus(tmp_path / "corpus", seed=0, actors=3, workers=2)
    settings = {"data.corpus": "sample", "data.root": tmp_path / "corpus", "run.cache": tmp_path / "cache"}
    settings |= {"split.n_folds": 3, "train.epochs": 1, "train.validate_every_epochs": 1, "segment.pad_to_s": "(5.2,)"}
    settings |= {"model.descriptors.speeds": "()"}  # each speed has shapes of its own to compile
    settings |= {"crossval.baselines": False, "crossval.protocols": "kfold", "crossval.compare": False}
    flags = [f"--config.{field}={value}" for field, value in settings.items()]
    once, again = tmp_path / "once", tmp_path / "again"
    # Compiled once for all folds; the two releases compile for themselves.
    compiled = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    ran = launch("--mode=crossval", "--config=configs/voice.py", *flags, f"--workdir={once}", timeout=500, env=compiled)
    assert ran.returncode == 0, ran.stderr
    shutil.copytree(once, again)
    released = []
    for workdir in (once, again):
        output = workdir / "voice-sample"
        ran = launch("--mode=release", f"--output={output}", f"--workdir={workdir}")
        assert ran.returncode == 0, ran.stderr
        about = json.loads((output / "model.json").read_text(encoding="utf-8"))
        del about["date"]
        released.append((about, *((output / name).read_bytes() for name in ("weights.safetensors", "README.md"))))
    assert released[0] == released[1]
    assert len(released[0][1]) > 1_000_000
