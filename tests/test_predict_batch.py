"""Many recordings by one command: names, failures, and what a kill leaves."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, clips_of, put
from films import ffmpeg, film
from fusion_emotion.errors import UserError
from fusion_emotion.predict import batch
from fusion_emotion.predict.batch import recordings
from fusion_emotion.predict.journal import Journal
from fusion_emotion.predict.outputs import write_index
from fusion_emotion.predict.recognizer import Recognizer
from launch_kit import launch, refused


def predict(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return launch("--mode=predict", *arguments)


@pytest.fixture(scope="module")
def long_film(sample_corpus, tmp_path_factory):
    """A clip of the sample corpus over and over, some 40 s."""
    clip = clips_of(sample_corpus)[0].path
    return ffmpeg(clip, tmp_path_factory.mktemp("long") / "long.mkv", "-c", "copy", before=("-stream_loop", "20"))


def test_a_folder_gives_each_recording_a_place_of_its_own(tmp_path):
    put(tmp_path, "a.mp4", "a.wav", "b/a.mp4", "b/notes.txt", "out/a.mp4", "c/A.JPG")
    places = recordings(str(tmp_path), tmp_path / "out")
    assert {str(pathlib.Path(path).relative_to(tmp_path)): str(place) for path, place in places.items()} == {
        "a.mp4": "a_mp4",
        "a.wav": "a_wav",
        "b/a.mp4": "b/a",
        "c/A.JPG": "c/A",
    }


def test_a_pattern_a_file_and_an_address(tmp_path):
    put(tmp_path, "x/a.mp4", "y/a.mp4", "y/b.wav", "odd.xyz")
    found = recordings(str(tmp_path / "*" / "a.mp4"), tmp_path / "out")
    assert [str(place) for place in found.values()] == ["x/a", "y/a"]
    assert [str(place) for place in recordings(str(tmp_path / "odd.xyz"), tmp_path / "out").values()] == ["odd"]
    address = "https://example.org/talks/a%20b.mp4?token=1/2"
    assert {str(place) for place in recordings(address, tmp_path).values()} == {"a_20b"}
    for nothing in ("none", "none/*.mp4"):
        with pytest.raises(UserError, match="--input="):
            recordings(str(tmp_path / nothing), tmp_path / "out")


def test_one_bad_file_does_not_stop_the_rest(workdir, sample_corpus, tmp_path):
    inputs, output = tmp_path / "in", tmp_path / "in" / "out"
    inputs.mkdir()
    (inputs / "a.mp4").write_text("no film")
    shutil.copy(clips_of(sample_corpus)[0].path, inputs / "b.mp4")
    shutil.copy(clips_of(sample_corpus)[1].path, inputs / "..c.mp4")
    ran = predict(f"--input={inputs}", f"--model={workdir}", f"--output={output}")
    refused(ran, "1 of 3")
    assert "failed: " in ran.stdout
    assert "a.mp4: the file is cut short" in ran.stdout
    written = [f"{name}.{form}" for name in ("b", "..c") for form in ("csv", "json", "html")]
    assert {path.name for path in output.iterdir()} == {".lock", "index.html", *written}
    before = (output / "b.json").stat().st_mtime_ns
    (inputs / "a.mp4").unlink()
    again = predict(f"--input={inputs}", f"--model={workdir}", f"--output={output}")
    assert again.returncode == 0, again.stderr
    assert (output / "b.json").stat().st_mtime_ns == before
    told = json.loads((output / "b.json").read_text())  # as if first judged from another folder
    (tmp_path / "b.json").write_text(json.dumps({**told, "source": {**told["source"], "path": "elsewhere/b.mp4"}}))
    index = write_index(output, {str(inputs / "b.mp4"): tmp_path / "b.json"})
    assert '"media": "../b.mp4"' in index.read_text()
    assert "b.mp4" in again.stdout
    smoother = predict(
        f"--input={inputs}", f"--model={workdir}", f"--output={output}", "--config.predict.smoothing_s=1"
    )
    assert smoother.returncode == 0, smoother.stderr
    assert (output / "b.json").stat().st_mtime_ns > before


def test_what_is_done_is_remembered_without_json_too(workdir, sample_corpus, tmp_path, monkeypatch):
    shutil.copy(clips_of(sample_corpus)[0].path, tmp_path / "a.mp4")
    recognizer = Recognizer.load(str(workdir), detector="centerface", formats=("csv", "eaf"))
    for _ in range(2):
        batch.predict(recognizer, str(tmp_path / "a.mp4"), tmp_path / "out")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".a.json", ".lock", "a.csv", "a.eaf"]
        monkeypatch.setattr(Recognizer, "predict", None)  # from now on nothing may be judged


def test_odd_names(workdir, sample_corpus, tmp_path):
    """A line break is shown as one, and a name that no JSON file can hold is refused."""
    clip = clips_of(sample_corpus)[0].path
    shutil.copy(clip, tmp_path / "two\nlines.mp4")
    shutil.copy(clip, os.fsencode(tmp_path) + b"/bad\xff.mp4")
    ran = predict(f"--input={tmp_path}", f"--model={workdir}", f"--output={tmp_path / 'out'}")
    refused(ran, "1 of 2")
    assert "'two\\nlines.mp4'" in ran.stdout
    assert "not in UTF-8: rename it" in ran.stdout


def timeline(folder: pathlib.Path) -> Any:
    return json.loads((folder / "long.json").read_text())["timeline"]


def started(workdir: pathlib.Path, source: pathlib.Path, output: pathlib.Path) -> subprocess.Popen:
    flags = ["--mode=predict", f"--input={source}", f"--model={workdir}", f"--output={output}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *flags], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def wait_for_blocks(rows: pathlib.Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not rows.exists() or rows.read_bytes().count(b'{"go_on"') < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_prediction_goes_on_and_ends_as_if_it_had_not_been(workdir, long_film, tmp_path):
    whole = predict(f"--input={long_film}", f"--model={workdir}", f"--output={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr
    assert len(timeline(tmp_path / "whole")["start"]) > 150
    process = started(workdir, long_film, tmp_path / "killed")
    rows = tmp_path / "killed" / ".long.rows"
    wait_for_blocks(rows, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kept = rows.read_bytes().count(b'"step"')
    assert kept >= 25
    assert not (tmp_path / "killed" / "long.json").exists()
    # Half of a block, as a crash of the machine may leave.
    with rows.open("ab") as file:
        file.write(b'{"step": 99999, "seen": {}}\n{"step": 100')
    process = started(workdir, long_film, tmp_path / "killed")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert timeline(tmp_path / "killed") == timeline(tmp_path / "whole")
    assert not rows.exists()


def test_ctrl_c_says_what_is_kept(workdir, long_film, tmp_path):
    process = started(workdir, long_film, tmp_path)
    wait_for_blocks(tmp_path / ".long.rows", 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("stopped by Ctrl-C: 0 of 1 recordings are finished")


@pytest.mark.slow
def test_two_predictions_into_one_folder(workdir, long_film, tmp_path):
    process = started(workdir, long_film, tmp_path)
    try:
        wait_for_blocks(tmp_path / ".long.rows", 1)
        refused(predict(f"--input={long_film}", f"--model={workdir}", f"--output={tmp_path}"), "in use", "--output")
    finally:
        process.kill()
        process.communicate()


@given(cut=st.integers(0, 600))
def test_a_journal_that_is_cut_anywhere_keeps_its_whole_blocks(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "rows"
    journal = Journal(path, {"a": 1})
    for block in range(3):
        journal.append([{"step": 5 * block + i, "seen": {}} for i in range(5)], {"skip": 5 * block + 5})
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    again = Journal(path, {"a": 1})
    steps = [row["step"] for row in again.rows()]
    assert len(steps) % 5 == 0
    assert steps == list(range(len(steps)))
    assert again.go_on == ({"skip": len(steps)} if steps else None)
    assert len(steps) == 5 * sum(line.startswith(b'{"go_on"') for line in whole[:cut].split(b"\n")[:-1])
    again.append([{"step": len(steps), "seen": {}}], {"skip": len(steps) + 1})
    assert [row["step"] for row in again.rows()][-1] == len(steps)
    again.close()
    other = Journal(path, {"a": 2})
    assert (other.go_on, list(other.rows())) == (None, [])
    other.close()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--input"]),
        (["--input=nowhere", "--model=MODEL"], ["--input=nowhere"]),
        (["--input=README.md", "--model=voice-bass"], ["voice-bass", "workdir"]),
        (["--input=README.md", "--model=docs"], ["docs", "model.json"]),
        (["--input=README.md", "--model=MODEL", "--output=README.md"], ["README.md", "--output"]),
        (["--input=README.md", "--model=MODEL", "--output=/proc/none"], ["--output"]),
        (["--input=README.md", "--model=MODEL", "--config.predict.formats=('csv','xlsx')"], ["predict.formats", "eaf"]),
        (["--input=README.md", "--model=MODEL", "--config.predict.people=some"], ["predict.people", "main, all"]),
        (["--input=README.md", "--model=MODEL", "--config.predict.detector=any"], ["predict.detector", "centerface"]),
    ],
)  # fmt: skip
def test_wrong_flags(workdir, tmp_path, flags, words):
    given = [flag.replace("MODEL", str(workdir)) for flag in flags]
    refused(predict(f"--output={tmp_path / 'out'}", *given), *words)


def test_a_model_of_a_newer_version(workdir, tmp_path):
    shutil.copytree(workdir / "model", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    (tmp_path / "model" / "model.json").write_text(json.dumps(about | {"format": 99}))
    refused(predict("--input=README.md", f"--model={tmp_path}", f"--output={tmp_path / 'out'}"), "newer version")


def test_the_command_that_pip_installs(workdir, tmp_path):
    """`fusion-emotion predict FILE` in another folder, which has no configs."""
    source = film(tmp_path / "a.mp4")
    code = "import sys, launch; sys.argv[0] = 'fusion-emotion'; launch.console()"
    command = [sys.executable, "-c", code, "predict", str(source), f"--model={workdir}", "--config.predict.formats=csv"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "predictions" / "a.csv").exists()
