"""A workdir that an earlier version made still evaluates: one-second windows, no section `run`, no list of its clips.

tests/data/old_workdir.tar.gz was made at commit 3337aff: the audio branch with four features, trained on the records of
`tiny.write`. It holds config.json, metrics.jsonl, the best checkpoint, and the numbers of its own evaluation.
"""

import json
import pathlib
import shutil

import pytest

import tiny
from fusion_emotion import commands, config
from fusion_emotion.input.membership import CLIPS

ARCHIVE = pathlib.Path(__file__).parent / "data" / "old_workdir.tar.gz"


def test_an_old_workdir_evaluates_to_the_same_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.unpack_archive(ARCHIVE, tmp_path)  # `TarFile.extractall` has another signature before Python 3.11.4
    workdir = tmp_path / "old_workdir"
    expected = json.loads((workdir / "results.json").read_text())
    monkeypatch.setattr(commands, "prepared", lambda config: tiny.write(tmp_path / "records"))
    commands.evaluate(config.load(workdir), workdir)
    assert "clips      not listed" in capsys.readouterr().out
    assert not (workdir / CLIPS).exists()
    results = json.loads((workdir / "results.json").read_text())
    assert results["checkpoint"]["step"] == expected["checkpoint"]["step"]
    assert results["checkpoint"]["validation_uar"] == expected["checkpoint"]["validation_uar"]
    assert results["test"]["clip"]["confusion"] == expected["test"]["clip"]["confusion"]
    assert results["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-5)
