"""The download against a local server that cuts, stalls, refuses and alters."""

import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from conftest import ROOT
from download_kit import Act, Server, cut, pause, refuse, serve, serving, wrong_byte, zipped
from fusion_emotion import config
from fusion_emotion.corpora import catalogue, ravdess
from fusion_emotion.corpora.corpus import Remote, Wanted
from fusion_emotion.corpora.download import install
from fusion_emotion.errors import UserError

NAME = "Video_Speech_Actor_01.zip"


def clips_of(actor: int) -> dict[str, bytes]:
    draw = random.Random(actor)
    return {f"Actor_{actor:02d}/01-01-0{i}-01-01-01-{actor:02d}.mp4": draw.randbytes(30_000) for i in range(1, 5)}


CLIPS = clips_of(1)
CONTENT = zipped(CLIPS)
HALF = len(CONTENT) // 2


def files_in(root: pathlib.Path) -> dict[str, bytes]:
    """All files below `root`, but for the markers and the lock."""
    files = (path for path in root.rglob("*") if path.is_file() and ".downloaded" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as server:
        server.files = {NAME: CONTENT}
        yield server


def remote(name: str, content: bytes, *, known: bool) -> Remote:
    """An archive of RAVDESS with another content."""
    [archive] = [one for one in every_archive() if one.name == name]
    digest = f"md5:{hashlib.md5(content).hexdigest()}" if known else None
    return dataclasses.replace(archive, size_bytes=len(content) if known else None, digest=digest)


def every_archive() -> list[Remote]:
    wanted = (Wanted(audio_alone=audio_alone, channel="both") for audio_alone in (False, True))
    return [archive for one in wanted for archive in ravdess.remotes(one)]


def fetch(
    server: Server, root: pathlib.Path, *, known: bool = True, keep: bool = False, timeout_s: float = 10.0
) -> None:
    """Install all files of the server; the table has their sizes and md5 sums if `known`."""
    remotes = [remote(name, content, known=known) for name, content in server.files.items()]
    install(
        *(root, remotes), title="RAVDESS", mirror=server.url, keep_archives=keep, backoff_s=0.0, timeout_s=timeout_s
    )


# The archives


def test_the_table_has_every_archive() -> None:
    archives = every_archive()
    assert len({archive.name for archive in archives}) == 49
    assert sum(archive.size_bytes or 0 for archive in archives) == 13_791_318_113
    unknown = {archive.name for archive in archives if archive.digest is None or archive.size_bytes is None}
    assert unknown == {f"Video_Song_Actor_{actor:02d}.zip" for actor in range(1, 25) if actor != 18}
    [first] = [archive for archive in archives if archive.name == NAME]
    assert (first.size_bytes, first.digest) == (552_968_353, "md5:3c8ececaf392b4a9b11b32271f4f6d01")
    wanted = Wanted(audio_alone=False, channel="both", actors=(18, 2, 2))
    names = [archive.name for archive in ravdess.remotes(wanted)]
    assert names == ["Video_Speech_Actor_02.zip", "Video_Speech_Actor_18.zip", "Video_Song_Actor_02.zip"]


@pytest.mark.parametrize(("channel", "actor"), [("both", 25), ("song", 18)])
def test_an_actor_without_an_archive_is_named(channel: str, actor: int) -> None:
    with pytest.raises(UserError, match=f"data.actors.*{actor}"):
        ravdess.remotes(Wanted(audio_alone=False, channel=channel, actors=(actor,)))


def test_the_config_names_the_server(tmp_path: pathlib.Path, server: Server) -> None:
    values = config.defaults()
    values.data.actors, values.run.download_url, server.files = (1,), server.url, {}
    with pytest.raises(UserError, match=f"{NAME}.*404"):
        catalogue.download(catalogue.corpus("ravdess"), tmp_path, values.to_dict())


def test_only_clips_are_unpacked_and_a_second_run_asks_nothing(tmp_path: pathlib.Path, server: Server) -> None:
    clips = {actor: clips_of(actor) for actor in (1, 2, 3)}
    others = ("__MACOSX/Actor_01/._a.mp4", "Actor_01/a.sh", "../evil.mp4", "Actor_01/../../evil.mp4", "/evil.mp4")
    others = dict.fromkeys((*others, "..\\evil.mp4"), b"1")
    server.files = {f"Video_Speech_Actor_{actor:02d}.zip": zipped(clips[actor] | others) for actor in clips}
    for _ in range(2):
        fetch(server, tmp_path / "data")
    assert files_in(tmp_path) == {f"data/{name}": content for actor in clips for name, content in clips[actor].items()}
    assert server.ranges == [None] * 3


@pytest.mark.parametrize("harm", [pathlib.Path.unlink, lambda path: path.write_bytes(b"short")])
@pytest.mark.parametrize("keep", [False, True])
def test_a_missing_clip_comes_back(
    tmp_path: pathlib.Path, server: Server, keep: bool, harm: Callable[[pathlib.Path], object]
) -> None:
    fetch(server, tmp_path, keep=keep)
    harm(tmp_path / next(iter(CLIPS)))
    fetch(server, tmp_path, keep=keep)
    assert files_in(tmp_path) == CLIPS | ({NAME: CONTENT} if keep else {})
    assert len(server.ranges) == (1 if keep else 2)


@pytest.mark.parametrize(
    ("content", "asked"),
    [(CONTENT, []), (CONTENT[:HALF], [f"bytes={HALF}-"]), (b"?" + CONTENT[1:], [None]), (CONTENT + b"?", [None])],
    ids=["right", "short", "wrong", "long"],
)
def test_an_archive_put_there_by_hand_is_checked(
    tmp_path: pathlib.Path, server: Server, content: bytes, asked: list
) -> None:
    (tmp_path / NAME).write_bytes(content)
    fetch(server, tmp_path)
    assert (files_in(tmp_path), server.ranges) == (CLIPS, asked)


def test_a_song_of_unknown_size_and_md5(tmp_path: pathlib.Path, server: Server) -> None:
    server.files = {"Video_Song_Actor_01.zip": CONTENT}
    server.acts = [cut(HALF), serve]
    fetch(server, tmp_path, known=False, keep=True)
    (tmp_path / next(iter(CLIPS))).unlink()
    fetch(server, tmp_path, known=False)  # the kept archive is not sent again
    assert server.ranges[:2] == [None, f"bytes={HALF}-"]
    assert server.sent_bytes == len(CONTENT)
    assert files_in(tmp_path) == CLIPS
    shutil.rmtree(tmp_path)
    server.acts = [wrong_byte]  # the CRCs tell
    fetch(server, tmp_path, known=False)
    assert files_in(tmp_path) == CLIPS


# The connection

OBSTACLES: dict[str, list[Act]] = {
    "cuts": [cut(random.Random(i).randrange(10_000) * (i % 5 > 0)) for i in range(25)],
    "wrong byte": [wrong_byte],
    "wrong byte after a cut": [cut(500), wrong_byte],
    "stall": [pause(HALF)],
    "longer than known": [lambda handler, content, offset: serve(handler, content + bytes(9), offset)],
    "shorter than known": [lambda handler, content, offset: serve(handler, content[:HALF], offset)],
    "refusals": [refuse(status) for status in (503, 502, 500, 403, 408)],
    "retry after a second": [refuse(503, Retry_After=1)],
    "no Range": [cut(HALF), lambda handler, content, offset: serve(handler, content, 0)],
    "another range": [cut(HALF), refuse(206, Content_Range=f"bytes 7-9/{len(CONTENT)}")],
    "416 though there is more": [cut(HALF), refuse(416, Content_Range=f"bytes */{HALF - 1}")],
    "hangs up": [lambda handler, content, offset: None],
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_every_obstacle_is_overcome(tmp_path: pathlib.Path, server: Server, obstacle: str) -> None:
    start, server.acts = time.monotonic(), list(OBSTACLES[obstacle])
    fetch(server, tmp_path, timeout_s=0.5 if obstacle == "stall" else 10)
    assert not server.acts
    assert files_in(tmp_path) == CLIPS
    assert obstacle != "retry after a second" or time.monotonic() - start >= 1
    assert obstacle != "cuts" or server.sent_bytes == len(CONTENT)


@pytest.mark.parametrize(
    ("act", "requests", "kept"),
    [(wrong_byte, 2, 0), (refuse(404), 1, 0), (refuse(503), 9, 0), (lambda *_: None, 9, 0), (cut(10), 30, 300)],
    ids=["wrong byte", "404", "503", "hangs up", "cuts without end"],
)
def test_an_archive_that_cannot_be_fetched_is_named(
    tmp_path: pathlib.Path, server: Server, act: Act, requests: int, kept: int
) -> None:
    server.always = act
    with pytest.raises(UserError, match=NAME):
        fetch(server, tmp_path)
    assert len(server.ranges) == requests
    assert files_in(tmp_path) == ({f"{NAME}.part": CONTENT[:kept]} if kept else {})


# The disk


@pytest.mark.parametrize("keep", [False, True])
def test_a_disk_that_is_too_small_is_told_before_the_start(
    tmp_path: pathlib.Path, server: Server, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    server.files = {f"Video_Speech_Actor_{actor:02d}.zip": zipped(clips_of(actor)) for actor in (1, 2)}
    needed = 2 * int(1.05 * len(CONTENT)) + (2 if keep else 1) * len(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(needed, 1, needed - 1))
    with pytest.raises(UserError, match="free"):
        fetch(server, tmp_path, keep=keep)
    assert server.ranges == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(needed, 0, needed))
    fetch(server, tmp_path, keep=keep)
    assert len(files_in(tmp_path)) == 8 + 2 * keep


def test_a_clip_that_cannot_be_written_costs_no_second_fetch(tmp_path: pathlib.Path, server: Server) -> None:
    first, second, *_ = CLIPS
    (tmp_path / second).mkdir(parents=True)
    with pytest.raises(UserError, match="Actor_01"):
        fetch(server, tmp_path)
    assert {name for name in files_in(tmp_path) if not name.endswith(".partial")} == {first, f"{NAME}.part"}
    (tmp_path / second).rmdir()
    fetch(server, tmp_path)
    assert (files_in(tmp_path), len(server.ranges)) == (CLIPS, 1)


INSTALL = f"""
import pathlib, signal, sys
from fusion_emotion.corpora.corpus import Remote
from fusion_emotion.corpora.download import install
from fusion_emotion.errors import Stopped
# A shell starts its background jobs with SIGINT ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
remote = {remote(NAME, CONTENT, known=True)!r}
try:
    install(pathlib.Path(sys.argv[1]), [remote], title="RAVDESS", mirror=sys.argv[2], keep_archives=False)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@pytest.mark.parametrize(("kill", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_two_at_once_are_kept_apart_and_a_killed_one_goes_on(
    tmp_path: pathlib.Path, server: Server, kill: signal.Signals, exit_code: int
) -> None:
    server.acts = [pause(HALF)]
    command = [sys.executable, "-c", INSTALL, str(tmp_path), server.url]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    part, deadline = tmp_path / f"{NAME}.part", time.monotonic() + 60
    while not part.exists() or part.stat().st_size < HALF:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(UserError, match=str(process.pid)):
        fetch(server, tmp_path)
    process.send_signal(kill)
    _, errors = process.communicate(timeout=20)  # less than the wait for a byte
    assert process.returncode == exit_code
    assert b"Traceback" not in errors
    fetch(server, tmp_path)
    assert files_in(tmp_path) == CLIPS
    assert server.ranges == [None, f"bytes={HALF}-"]
