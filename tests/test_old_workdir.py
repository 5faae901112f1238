"""A workdir that an earlier version made, with one-second windows and no section `run`, still evaluates.

tests/data/old_workdir.tar.gz was made at commit 3337aff: the audio branch with four features, trained on the records of
`tiny.write`. It holds config.json, metrics.jsonl, the best checkpoint, and the numbers of its own evaluation.
"""

import json
import pathlib
import tarfile

import pytest

import tiny
from fusion_emotion import config
from fusion_emotion.evaluate.results import evaluate
from fusion_emotion.input.data import Data
from fusion_emotion.models.create import create_model
from fusion_emotion.train import devices

ARCHIVE = pathlib.Path(__file__).parent / "data" / "old_workdir.tar.gz"


def test_an_old_workdir_evaluates_to_the_same_numbers(tmp_path: pathlib.Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    workdir = tmp_path / "old_workdir"
    expected = json.loads((workdir / "results.json").read_text())
    values = config.load(workdir)
    config.check(values)
    data = Data.open(values, tiny.write(tmp_path / "records"))
    model = create_model(values, n_classes=len(data.label_names), axis_name=devices.AXIS)
    results = evaluate(model, data, values, workdir)
    assert results["checkpoint"]["step"] == expected["checkpoint"]["step"]
    assert results["checkpoint"]["validation_uar"] == expected["checkpoint"]["validation_uar"]
    assert results["test"]["clip"]["confusion"] == expected["test"]["clip"]["confusion"]
    assert results["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-5)
