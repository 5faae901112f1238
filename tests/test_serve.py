"""The page: what it answers, what it keeps (nothing), what it asks of other hosts (nothing), and how it looks."""

import asyncio
import base64
import csv
import io
import os
import pathlib
import shutil
import socket
import sys
import time

import numpy as np
import pytest

import launch
import predict_kit
from films import ffmpeg
from fusion_emotion.errors import UserError
from fusion_emotion.serve import page
from fusion_emotion.serve.desk import MEDIA, Desk, plain
from launch_kit import free_port


@pytest.fixture
def desk(hearing, tmp_path):
    opened = Desk(hearing, tmp_path)
    yield opened
    opened.close()


def uploaded(desk, source, name="talk.mp4"):
    """A file where gradio puts an upload."""
    folder = desk.uploads / "0123abcd"
    folder.mkdir()
    return {"path": str(shutil.copy(source, folder / "talk.mp4")), "name": name}


def answer(desk, begun):
    told = desk.ask(begun["id"])
    while "read_s" in told or "waits" in told:
        told = desk.ask(begun["id"])
    return told


def files_below(folder: pathlib.Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_an_upload_becomes_a_viewer_and_files_and_is_removed(desk, talk, tmp_path):
    begun = desk.begin(uploaded(desk, talk, name="../../etc/my talk.mp4"))
    told = answer(desk, begun)
    assert MEDIA in told["page"]
    names = {f"my talk.{suffix}" for suffix in ("csv", "json", "html", "eaf", "TextGrid", "vtt", "srt")}
    assert set(told["files"]) == names
    rows = list(csv.DictReader(io.StringIO(told["files"]["my talk.csv"])))
    assert [row["modalities"] for row in rows] == ["audio+video"] * 6
    assert rows[0]["file"] == "my talk.mp4"
    assert '"media": "my%20talk.mp4"' in told["files"]["my talk.html"]
    assert str(tmp_path) not in told["page"] + told["files"]["my talk.json"]
    assert not files_below(tmp_path)
    assert "begin again" in desk.ask(begun["id"])["error"]


def test_rubbish_is_one_line_and_is_removed(desk, tmp_path):
    (tmp_path / "rubbish").write_text("no film\n" * 100)
    told = answer(desk, desk.begin(uploaded(desk, tmp_path / "rubbish")))
    (tmp_path / "rubbish").unlink()
    assert told["error"].startswith("talk.mp4: it cannot be opened")
    assert "\n" not in told["error"]
    assert not files_below(tmp_path)


@pytest.mark.parametrize("path", ["talk.mp4", "uploads/../talk.mp4", "uploads/gone.mp4", ""])
def test_only_uploads_are_judged(desk, talk, tmp_path, path):
    shutil.copy(talk, tmp_path / "talk.mp4")
    assert "no such upload" in desk.begin({"path": str(tmp_path / path), "name": "talk.mp4"})["error"]
    assert files_below(tmp_path) == ["talk.mp4"]


def test_names_become_plain():
    assert plain("../../a/b<script>.mp4") == "b_script_.mp4"
    assert plain("C:\\films\\..\\é 1.mp4") == "é 1.mp4"
    assert plain("..") == plain("") == "recording"
    assert plain("\ud800.mp4") == "_.mp4"
    assert plain("\u53eb" * 200 + ".mp4") == "\u53eb" * 32 + ".mp4"


def test_what_broke_off_is_swept(desk):
    for name, age_s in (("old", 3600), ("new", 5)):
        (desk.uploads / name).write_text("part of a film")
        os.utime(desk.uploads / name, (time.time() - age_s,) * 2)
    desk.sweep()
    assert files_below(desk.uploads) == ["new"]


def chunks(path, size=6000):
    content = path.read_bytes()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return [base64.b64encode(piece).decode() for piece in [*pieces, b""]]


@pytest.fixture(scope="module")
def stream(talk, tmp_path_factory):
    """A film in a container that is read as it comes, without a duration."""
    return ffmpeg(talk, tmp_path_factory.mktemp("stream") / "talk.mkv", "-c", "copy", "-live", "1")


def test_a_live_stream_is_judged_as_it_comes(desk, stream, talk):
    moments = []
    for number, data in enumerate(chunks(stream)):
        told = desk.push({"id": "one", "number": number, "data": data})
        assert "error" not in told
        moments += told["moments"]
        if number == 0:
            waiting = desk.begin(uploaded(desk, talk))
            assert desk.ask(waiting["id"]) == {"waits": True}
    assert [moment["end"] for moment in moments] == pytest.approx(np.arange(1.0, 1.81, 0.2).tolist())
    assert moments[-1]["modalities"] == "audio+video"
    assert sum(moments[-1]["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    assert "page" in answer(desk, waiting)  # once the stream has ended


def test_a_live_stream_with_a_gap_ends_with_one_line(desk, stream):
    first, second, third, *_ = chunks(stream)
    desk.push({"id": "one", "number": 0, "data": first})
    assert "missing" in desk.push({"id": "one", "number": 2, "data": third})["error"]
    assert "has ended" in desk.push({"id": "other", "number": 1, "data": second})["error"]
    rubbish = base64.b64encode(b"no stream" * 100).decode()
    desk.push({"id": "two", "number": 0, "data": rubbish})
    assert "cannot be opened" in desk.push({"id": "two", "number": 1, "data": ""})["error"]


def test_a_live_stream_that_ended_says_so(desk, stream, monkeypatch):
    monkeypatch.setattr("fusion_emotion.serve.live._STALLED_S", 0.1)
    first = chunks(stream)[0]
    told, number, deadline = {}, 0, time.monotonic() + 60
    while "error" not in told and time.monotonic() < deadline:
        told = desk.push({"id": "one", "number": number, "data": first})
        number += 1
        time.sleep(0.5)
    assert "start it again" in told["error"]


def test_other_pages_may_not_ask():
    asked = []

    async def app(scope, receive, send):
        asked.append(scope)

    async def told(message):
        answers.append(message.get("status"))

    for origin, is_own in (
        ("http://evil.example", False),
        ("null", False),
        ("http://localhost:7860", True),
        ("", True),
    ):
        answers = []
        scope = {"type": "http", "headers": [(b"origin", origin.encode())] if origin else []}
        asyncio.run(page._Policed(app)(scope, None, told))
        assert (len(asked) == 1, answers[:1]) == (is_own, [] if is_own else [403])
        asked.clear()


def test_the_card_has_the_numbers_the_licence_and_the_notice():
    shown = page.card({**predict_kit.ABOUT, "trained_on": "a <corpus>"})
    for words in (
        "a &lt;corpus&gt;",
        "50.0% UAR",
        "chance 12.5%) on 32 clips of 2 people it had not met",
        "kfold",
        "CC0",
    ):
        assert words in shown
    assert "do not say what a person feels" in shown


def test_a_port_in_use_and_a_missing_gradio_are_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-serve\.txt"):
        page.check_possible(free_port())
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: name)
    with socket.socket() as taken:
        taken.bind((page.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"serve\.port={port} cannot be used"):
            page.check_possible(port)


def test_the_installed_command_takes_the_model_behind_serve(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fusion-emotion", "serve", "runs/sample", "--config.serve.port=7000"])
    monkeypatch.setattr(launch, "run", lambda: None)
    launch.console()
    assert sys.argv[1:] == ["--mode=serve", "--model=runs/sample", "--config.serve.port=7000"]
