"""Real RAVDESS clips, if FUSION_EMOTION_REAL_DATA names a folder that holds them."""

import pathlib
import subprocess
import sys

import pytest

from conftest import ROOT
from fusion_emotion.prepare.records import Row, read_rows


def prepare(real_data: pathlib.Path, tmp_path: pathlib.Path, folder: str, count: int, *arguments: str) -> list[Row]:
    """Prepare the first `count` clips of a folder with the command line."""
    for path in sorted((real_data / "data" / folder).rglob("*.*"))[:count]:
        (tmp_path / path.name).symlink_to(path)
    command = [
        *(sys.executable, "launch.py", "--config=configs/ravdess.py", "--mode=prepare"),
        f"--config.data.root={tmp_path}",
        f"--config.run.cache={tmp_path / 'cache'}",
        f"--config.run.insightface_root={real_data / 'models' / 'insightface'}",
        *arguments,
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    rows = list(read_rows(next(tmp_path.glob("cache/*/sets/*/manifest.jsonl"))))
    assert len(rows) == count
    assert all(row.status == "ok" for row in rows)
    return rows


@pytest.mark.parametrize(("detector", "count"), [("insightface", 14), ("centerface", 4)])
def test_every_original_has_a_face_in_99_of_100_frames(real_data, tmp_path, detector, count):
    rows = prepare(real_data, tmp_path, "ravdess", count, f"--config.prepare.detector={detector}")
    assert sum(row.found_share * row.n_frames for row in rows) / sum(row.n_frames for row in rows) >= 0.99


def test_crops_that_the_face_fills_have_faces_until_their_black_last_frames(real_data, tmp_path):
    rows = prepare(real_data, tmp_path, "ravdess_facecrops", 20)
    assert 0.9 < sum(row.found_share for row in rows) / len(rows) < 1


def test_audio_alone_needs_no_detector(real_data, tmp_path):
    no_weights = "--config.run.insightface_root=/nowhere"
    rows = prepare(real_data, tmp_path, "ravdess_speech_16k", 200, "--config.model.modalities=audio", no_weights)
    assert all(row.n_samples > 2.9 * 16_000 for row in rows)
