"""Real RAVDESS clips, where FUSION_EMOTION_REAL_DATA names a folder that holds them."""

import pathlib
import subprocess
import sys

import pytest

from conftest import ROOT
from fusion_emotion.prepare.records import read_rows


def prepare(real_data: pathlib.Path, tmp_path: pathlib.Path, folder: str, *arguments: str) -> list:
    command = [
        *(sys.executable, "launch.py", "--config=configs/ravdess.py", "--mode=prepare"),
        f"--config.data.root={real_data / 'data' / folder}",
        f"--config.prepare.cache={tmp_path}",
        f"--config.prepare.insightface_root={real_data / 'models' / 'insightface'}",
        *arguments,
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    return list(read_rows(next(tmp_path.glob("*/manifest.jsonl"))))


@pytest.mark.parametrize("detector", ["insightface", "centerface"])
def test_every_original_has_a_face_in_99_of_100_frames(real_data, tmp_path, detector):
    rows = prepare(real_data, tmp_path, "ravdess", f"--config.prepare.detector={detector}")
    assert len(rows) == 14
    assert all(row.status == "ok" for row in rows)
    frames = sum(row.n_frames for row in rows)
    assert sum(row.found_share * row.n_frames for row in rows) / frames >= 0.99


def test_crops_that_the_face_fills_are_prepared_whole(real_data, tmp_path):
    rows = prepare(real_data, tmp_path, "ravdess_facecrops")
    assert len(rows) == 60
    assert all(row.status == "ok" for row in rows)
    # Their last frames are black: no face is to be found there.
    assert 0.9 < sum(row.found_share for row in rows) / len(rows) < 1


def test_audio_alone_needs_no_detector(real_data, tmp_path):
    rows = prepare(
        real_data,
        tmp_path,
        "ravdess_speech_16k",
        "--config.model.modalities=audio",
        "--config.prepare.insightface_root=/nowhere",
    )
    assert len(rows) == 1080
    assert all(row.status == "ok" and row.n_samples > 2.9 * 16_000 for row in rows)
