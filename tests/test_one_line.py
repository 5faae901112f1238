"""Machines and commands as people have them: odd encodings, no home, a port in use, another folder."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

import tiny
from conftest import ROOT
from films import sounds
from fusion_emotion.errors import UserError
from fusion_emotion.train import cluster
from run_tiny import Tiny
from test_bad_input import RAVDESS, refused

AUDIO = "--config=configs/ravdess_audio.py"


def launch(*arguments: str, cwd: pathlib.Path = ROOT, **named: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **named)  # type: ignore


@pytest.fixture
def corpus(tmp_path: pathlib.Path) -> list[str]:
    """Flags of a corpus of sounds, one of them in a folder whose name is no UTF-8, and one with another name."""
    for number, clip in enumerate(sounds(tmp_path, 3), 1):
        clip.path.rename(tmp_path / f"03-01-0{number}-01-01-01-01.wav")
    odd = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xf0\x9f\x98\x80"))
    odd.mkdir()
    (tmp_path / "03-01-02-01-01-01-01.wav").rename(odd / "03-01-02-01-01-01-01.wav")
    (odd / os.fsdecode(b"\xff.wav")).write_bytes(b"x")
    return [AUDIO, "--mode=prepare", f"--config.data.root={tmp_path}", f"--config.run.cache={tmp_path / 'cache'}"]


def test_names_that_are_no_utf8_on_a_terminal_that_is_none(corpus):
    ran = launch(*corpus, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert ran.returncode == 0, ran.stderr
    assert "found 3 = ok 3" in ran.stdout
    assert r"\udcff.wav" in ran.stdout
    assert ran.stdout.isascii()


def test_libraries_are_silent(corpus):
    """A log file holds lines of the project alone, and no bar."""
    ran = launch(*corpus)
    firsts = [line.split()[0] for line in ran.stdout.splitlines()]
    assert firsts == ["config", "passed", "preparing", "found", "records"]
    assert all(line.startswith("preparing: ") for line in ran.stderr.splitlines())
    assert "\r" not in ran.stderr


def test_a_user_without_a_home(corpus, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    refused(launch(*corpus[:-1], "--config.run.cache=~nobody_at_all/cache", env=environment), "run.cache", "HOME")
    assert launch(*corpus, env=environment).returncode == 0


def test_the_config_of_a_workdir_is_a_config(corpus, tmp_path):
    workdir = tmp_path / "run"
    (workdir).mkdir()
    made = {"data": {"root": "/gone", "actors": ["01"]}, "model": {"modalities": "audio"}}
    (workdir / "config.json").write_text(json.dumps(made))
    for flags in ([f"--config={workdir / 'config.json'}"], [f"--workdir={workdir}"]):
        ran = launch(*flags, *corpus[1:])
        assert ran.returncode == 0, ran.stderr
        assert "found 3 = ok 3" in ran.stdout
        refused(launch(*flags, "--mode=prepare"), "/gone", "--config.data.root")


def test_the_configs_are_listed_from_any_folder(tmp_path):
    ran = launch("--config=nope.py", cwd=tmp_path)
    refused(ran, "nope.py")
    listed = [word.rstrip(",") for word in ran.stderr.split() if word.rstrip(",").endswith("ravdess.py")]
    assert (tmp_path / listed[0]).samefile(ROOT / "configs" / "ravdess.py")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([RAVDESS, "--config.data.actors=all"], ["data.actors"]),
        ([RAVDESS, "--config.run.cache="], ["run.cache", "path"]),
        ([RAVDESS, "--workdir="], ["--workdir is empty"]),
        ([RAVDESS, "--config.model.dropout_rate=1.5"], ["model.dropout_rate=1.5", "0 to 1"]),
    ],
)
def test_values_that_no_run_can_have(arguments, words):
    refused(launch(*arguments), *words)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("localhost", "HOST:PORT"),
        ("localhost:", "HOST:PORT"),
        ("localhost:many", "HOST:PORT"),
        ("localhost:99999", "65535"),
        ("::1:1234", "HOST:PORT"),
        ("no.such.host.invalid:1234", "no.such.host.invalid"),
    ],
)
def test_an_address_that_is_none(address, words):
    with pytest.raises(UserError, match=words):
        cluster.join(address, 2, 1)


def test_a_port_in_use():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        refused(launch(AUDIO, f"--distributed=127.0.0.1:{port}", "--num_processes=2", "--process_id=0"), str(port))


def test_more_accumulated_batches_than_steps_and_a_batch_that_no_memory_holds(tmp_path):
    tiny.write(tmp_path / "records")
    with pytest.raises(UserError, match=r"accumulate_steps=1000 .* \d+ steps"):
        Tiny.of(tmp_path / "records", train__accumulate_steps=1000)
    with pytest.raises(UserError, match=r"batch_size=65536 .* GB"):
        Tiny.of(tmp_path / "records", train__batch_size=65536, prepare__face_size=512)
