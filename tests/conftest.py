"""Every jaxtyping annotation of the package is checked while the tests run."""

import os
import pathlib

import pytest
from jaxtyping import install_import_hook

install_import_hook("fusion_emotion", "beartype.beartype")

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real clips, where there is one."""
    folder = os.environ.get("FUSION_EMOTION_REAL_DATA", "")
    if not pathlib.Path(folder, "data", "ravdess").is_dir():
        pytest.skip("FUSION_EMOTION_REAL_DATA names no folder with data/ravdess")
    return pathlib.Path(folder)
