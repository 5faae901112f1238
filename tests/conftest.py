"""Every jaxtyping annotation of the package is checked while the tests run."""

import atexit
import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from fusion_emotion.corpora.clip import Clip
    from fusion_emotion.predict.recognizer import Recognizer
    from fusion_emotion.prepare.settings import Settings

# What one test compiles, no other compiles again: not in the other process of the run, nor in those that tests start.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": _compiled, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
# Compilation takes most of the time. CI runs the slow tests and the main job with all optimizations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# The same examples in every run, and no deadline: the machine of a test run has other things to do.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")
install_import_hook("fusion_emotion", "typecheck.check")

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real clips, where there is one."""
    folder = os.environ.get("FUSION_EMOTION_REAL_DATA", "")
    if not pathlib.Path(folder, "data", "ravdess").is_dir():
        pytest.skip("FUSION_EMOTION_REAL_DATA names no folder with data/ravdess")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def sample_corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two actors of the sample corpus: 32 clips, one with a second without a face and one with a silent track."""
    from fusion_emotion.corpora.sample import make_corpus

    root = tmp_path_factory.mktemp("sample") / "corpus"
    make_corpus(root, seed=0, actors=2, workers=2)
    return root


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The workdir of a model for prediction, with random weights."""
    import predict_kit

    return predict_kit.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def hearing(workdir: pathlib.Path) -> "Recognizer":
    """A recogniser with that model, which finds a face in every frame that is not black."""
    import predict_kit
    from films import OneFace

    return predict_kit.recognizer(workdir, OneFace())


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A film of two seconds with one face."""
    import films

    return films.film(tmp_path_factory.mktemp("talk") / "talk.mp4", seconds=2, size=(320, 240))


def clips_of(root: pathlib.Path) -> "list[Clip]":
    """The clips of a sample corpus."""
    from fusion_emotion.corpora import catalogue

    wanted = catalogue.Wanted(audio_alone=False, channel="speech")
    return list(catalogue.find_clips(catalogue.corpus("sample"), root, wanted).clips)


def put(root: pathlib.Path, *names: str, content: bytes = bytes(300)) -> pathlib.Path:
    """Write files of the same content below a folder, and return it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def settings_of(cache: pathlib.Path, **changes: object) -> "Settings":
    """The preparation of `configs/sample.py`, with its cache in a temporary folder."""
    from configs import sample
    from fusion_emotion.prepare.settings import Settings

    settings = Settings.from_config(sample.get_config().to_dict())
    return dataclasses.replace(settings, cache=str(cache), **changes)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, which reads every file."""
    if os.geteuid():
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that holds 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
