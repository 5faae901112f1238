"""The download against a local server that cuts, lies, stalls, refuses and sends the wrong thing."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_emotion.corpora import download as download_module
from fusion_emotion.corpora import fetch as fetch_module
from fusion_emotion.corpora.download import Archive, download, plan
from fusion_emotion.corpora.fetch import Patience
from fusion_emotion.corpora.unpack import unpack
from fusion_emotion.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]
API = "/api/records/1188976"
NAME = "Video_Speech_Actor_01.zip"
SONG = "Video_Song_Actor_01.zip"
# Loopback answers in milliseconds; only the tests of the time-out wait for it
QUICK = Patience(attempts=6, whole_fetches=3, backoff_s=0.001, most_wait_s=0.3, timeout_s=5.0)
HASTY = dataclasses.replace(QUICK, timeout_s=0.3)

Act = Callable[["Handler", bytes, int], None]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def clips_of(actor: int, *, bytes_each: int = 30_000, count: int = 4, channel: str = "01") -> dict[str, bytes]:
    random = Random(actor)
    return {
        f"Actor_{actor:02d}/0{1 + i % 2}-{channel}-0{1 + i}-01-01-01-{actor:02d}.mp4": random.randbytes(bytes_each)
        for i in range(count)
    }


def zipped(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def there(root: pathlib.Path) -> dict[str, bytes]:
    """All that lies below `root`, but for the markers and the lock."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and ".downloaded" not in path.parts
    }


class Zenodo(http.server.ThreadingHTTPServer):
    """The record's API and its files; `acts[name]` says what each next request of a file meets."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.acts: dict[str, list[Act]] = {}
        self.always: dict[str, Act] = {}
        self.api: Act | None = None
        self.sent_bytes = 0  # of archives
        self.asked: list[tuple[str, str | None]] = []  # file and Range of every request
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        return [asked for name, asked in self.asked if name != "api"]

    def record(self) -> bytes:
        return json.dumps(
            {
                "id": 1188976,
                "files": [
                    {
                        "id": "0b5c",
                        "key": name,
                        "size": len(content),
                        "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                        "links": {"self": f"{self.url}/api/records/1188976/files/{name}/content"},
                    }
                    for name, content in self.files.items()
                ],
            }
        ).encode()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the play."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Zenodo

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        if self.path == API:
            self.server.asked.append(("api", asked))
            (self.server.api or serve)(self, self.server.record(), 0)
            return
        match = re.fullmatch(
            r"(?:/api/records/1188976/files/([^/]+)/content|/records/1188976/files/([^/]+)\?download=1)",
            self.path,
        )
        name = match and (match[1] or match[2])
        if name not in self.server.files:
            self.send_error(404)
            return
        with self.server.lock:
            self.server.asked.append((name, asked))
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            acts = self.server.acts.get(name)
            act = acts.pop(0) if acts else self.server.always.get(name, serve)
        try:
            act(
                self,
                self.server.files[name],
                int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0,
            )
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, content: bytes) -> None:
        for start in range(0, len(content), 16_384):
            block = content[start : start + 16_384]
            if self.path != API:
                with self.server.lock:
                    self.server.sent_bytes += len(block)
            self.wfile.write(block)


def open_body(handler: Handler, content: bytes, offset: int, *, length: int | None = None) -> None:
    """The headers of an honest answer from `offset` on, but for the length."""
    if offset >= len(content) > 0:
        handler.head(416, Content_Range=f"bytes */{len(content)}", Content_Length=3)
        handler.wfile.write(b"no.")
        return
    extent = {"Content_Range": f"bytes {offset}-{len(content) - 1}/{len(content)}"} if offset else {}
    left = len(content) - offset
    handler.head(206 if offset else 200, Content_Length=left if length is None else length, **extent)


def serve(handler: Handler, content: bytes, offset: int) -> None:
    open_body(handler, content, offset)
    handler.body(content[offset:])


def cut(after: int, *, reset: bool = False) -> Act:
    """Hangs up after so many bytes of the body, with a TCP reset if asked."""

    def act(handler: Handler, content: bytes, offset: int) -> None:
        open_body(handler, content, offset)
        handler.body(content[offset : offset + after])
        if reset:
            handler.wfile.flush()
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()

    return act


def lie(by: int) -> Act:
    """Announces a length that is wrong by so many bytes, sends the truth and hangs up."""

    def act(handler: Handler, content: bytes, offset: int) -> None:
        open_body(handler, content, offset, length=max(0, len(content) - offset + by))
        handler.body(content[offset:])

    return act


def wrong_byte(handler: Handler, content: bytes, offset: int) -> None:
    changed = bytearray(content)
    changed[len(content) // 3] ^= 1
    serve(handler, bytes(changed), offset)


def answer(status: int, **headers: object) -> Act:
    return lambda handler, content, offset: handler.head(status, Content_Length=0, **headers)


def stall(handler: Handler, content: bytes, offset: int) -> None:
    open_body(handler, content, offset)
    handler.body(content[offset : offset + 1000])
    handler.wfile.flush()
    handler.server.closing.wait(20)


def drip(handler: Handler, content: bytes, offset: int) -> None:
    open_body(handler, content, offset)
    for i in range(offset, len(content)):
        if handler.server.closing.wait(0.05):
            return
        handler.body(content[i : i + 1])


def endless(handler: Handler, content: bytes, offset: int) -> None:
    handler.head(200)
    handler.body(content)
    while not handler.server.closing.is_set():
        handler.body(bytes(16_384))


def lie_without_end(handler: Handler, content: bytes, offset: int) -> None:
    open_body(handler, content, offset, length=10**15)
    while not handler.server.closing.is_set():
        handler.body(bytes(16_384))


def no_ranges(handler: Handler, content: bytes, offset: int) -> None:
    serve(handler, content, 0)


def other_range(handler: Handler, content: bytes, offset: int) -> None:
    """Answers 206 with the bytes from elsewhere."""
    handler.head(206, Content_Range=f"bytes 7-{len(content) - 1}/{len(content)}", Content_Length=len(content) - 7)
    handler.body(content[7:])


def slowly(handler: Handler, content: bytes, offset: int) -> None:
    open_body(handler, content, offset)
    for start in range(offset, len(content), 8192):
        # Before a piece: after the last one the server must not count a connection that the client is done with.
        if handler.server.closing.wait(0.004):
            return
        handler.body(content[start : start + 8192])


@contextlib.contextmanager
def zenodo(files: dict[str, bytes]) -> Iterator[Zenodo]:
    server = Zenodo(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


CLIPS = clips_of(1)
CONTENT = zipped(CLIPS)


def fetch(server: Zenodo, root: pathlib.Path, *, patience: Patience = QUICK, **wanted: object) -> None:
    download(root, base_url=server.url, patience=patience, **{"actors": [1], **wanted})  # type: ignore[arg-type]


# What is fetched


def test_plan_asks_the_record() -> None:
    files = {f"Video_{kind}_Actor_{a:02d}.zip": b"x" * a for kind in ("Speech", "Song") for a in range(1, 25)}
    with zenodo(files) as server:
        archives = plan(base_url=server.url + "/", channel="both", modality="av", actors=[18, 2, 2])
    assert archives == [
        Archive(
            name=name,
            url=f"{server.url}/api/records/1188976/files/{name}/content",
            size_bytes=len(files[name]),
            md5=hashlib.md5(files[name]).hexdigest(),
        )
        for name in ("Video_Speech_Actor_02.zip", "Video_Speech_Actor_18.zip", "Video_Song_Actor_02.zip")
    ]


@pytest.mark.parametrize(
    ("channel", "modality", "count"),
    [
        ("speech", "av", 24),
        ("song", "av", 23),
        ("both", "v", 47),
        ("speech", "a", 1),
        ("song", "a", 1),
        ("both", "a", 2),
    ],
)
def test_the_packaged_table_knows_every_archive(channel: str, modality: str, count: int) -> None:
    with zenodo({}) as server:
        server.api = answer(404)
        archives = plan(base_url=server.url, channel=channel, modality=modality, actors=range(1, 25))
    assert len(archives) == len({archive.name for archive in archives}) == count
    for archive in archives:
        assert archive.url == f"{server.url}/records/1188976/files/{archive.name}?download=1"
        assert (archive.md5 is None) == (archive.size_bytes is None) == archive.name.startswith("Video_Song")
        assert archive.md5 is None or re.fullmatch("[0-9a-f]{32}", archive.md5)


def test_the_packaged_table_is_that_of_the_record() -> None:
    table = download_module._table("https://zenodo.org")
    assert len(table) == 49
    assert sum(archive.size_bytes or 0 for archive in table.values()) == 13_791_318_113
    assert table[NAME].md5 == "3c8ececaf392b4a9b11b32271f4f6d01"


GARBAGE = {
    "no JSON": b"<html>We will be back soon</html>",
    "cut": b'{"files": [{"key": "Video_Spe',
    "another shape": b"[1, 2]",
    "no files": b'{"files": null}',
    "deep": b"[" * 100_000,
    "not listed": b'{"files": []}',
    "no checksum": json.dumps(
        {"files": [{"key": NAME, "size": 3, "checksum": "sha1:00", "links": {"self": "http://x"}}]}
    ).encode(),
    "no link": json.dumps(
        {"files": [{"key": NAME, "size": 3, "checksum": f"md5:{'0' * 32}", "links": {"self": "file:///etc"}}]}
    ).encode(),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_from_the_api_falls_back_to_the_table(garbage: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with zenodo({}) as server:
        server.api = lambda handler, content, offset: serve(handler, garbage, 0)
        archives = plan(base_url=server.url, channel="speech", modality="av", actors=[1], patience=QUICK)
    assert [archive.md5 for archive in archives] == ["3c8ececaf392b4a9b11b32271f4f6d01"]
    assert "packaged table" in capsys.readouterr().out
    assert len(server.asked) == 4


def test_an_endless_api_falls_back_to_the_table() -> None:
    with zenodo({}) as server:
        server.api = endless
        once = dataclasses.replace(QUICK, attempts=1)
        archives = plan(base_url=server.url, channel="song", modality="av", actors=[2], patience=once)
    assert [(archive.name, archive.md5) for archive in archives] == [("Video_Song_Actor_02.zip", None)]


def test_the_api_is_asked_again_before_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [answer(503), answer(429, Retry_After=0), serve]
    with zenodo({NAME: CONTENT}) as server:
        server.api = lambda *request: answers.pop(0)(*request)
        (archive,) = plan(base_url=server.url, channel="speech", modality="av", actors=[1], patience=QUICK)
    assert archive.md5 == hashlib.md5(CONTENT).hexdigest()
    assert capsys.readouterr().out == ""


def test_no_server_at_all(tmp_path: pathlib.Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"(?s){NAME}: no connection.*run the same command again"):
            download(tmp_path, base_url=url, actors=[1], patience=QUICK)


def test_a_song_without_size_and_md5_is_fetched_by_the_table(tmp_path: pathlib.Path) -> None:
    clips = clips_of(1, channel="02")
    with zenodo({SONG: zipped(clips)}) as server:
        server.api = answer(500)
        server.acts[SONG] = [cut(40_000), wrong_byte]
        fetch(server, tmp_path, channel="song")
    assert there(tmp_path) == clips


def test_a_kept_song_is_not_sent_again(tmp_path: pathlib.Path) -> None:
    with zenodo({SONG: CONTENT}) as server:
        server.api = answer(500)
        fetch(server, tmp_path, channel="song", keep_archives=True)
        (tmp_path / next(iter(CLIPS))).unlink()
        fetch(server, tmp_path, channel="song", keep_archives=True)
    assert there(tmp_path) == CLIPS | {SONG: CONTENT}
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]
    assert server.sent_bytes == len(CONTENT)


@pytest.mark.parametrize("act", [lie(-30_000), lie(30_000)], ids=["shorter", "longer"])
def test_a_song_of_unknown_size_and_a_lying_length(tmp_path: pathlib.Path, act: Act) -> None:
    with zenodo({SONG: CONTENT}) as server:
        server.api = answer(500)
        server.acts[SONG] = [act]
        fetch(server, tmp_path, channel="song")
    assert there(tmp_path) == CLIPS


@pytest.mark.parametrize("act", [endless, lie_without_end])
def test_an_endless_song_of_unknown_size_is_left(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(download_module, "_MOST_ARCHIVE_BYTES", 400_000)
    with zenodo({SONG: CONTENT}) as server:
        server.api = answer(500)
        server.always[SONG] = act
        with pytest.raises(UserError, match=f"{SONG}: still no end after 400000 bytes"):
            fetch(server, tmp_path, channel="song")
    assert len(server.ranges) == 1
    assert there(tmp_path) == {}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"channel": "sung"}, "channel='sung' is unknown: choose one of speech, song, both"),
        ({"modality": "text"}, "modality='text' is unknown: choose one of av, v, a"),
        ({"actors": [0]}, "0 is no actor"),
        ({"actors": [25]}, "25 is no actor"),
        ({"actors": [18], "channel": "song"}, "actor 18 sang nothing"),
        ({"base_url": "zenodo.org"}, "base_url='zenodo.org'"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path: pathlib.Path, wanted: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        download(tmp_path / "data", patience=QUICK, **wanted)


# How it is fetched


def test_clips_arrive_byte_for_byte(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = {f"Actor_{a:02d}/03-01-01-01-01-01-{a:02d}.wav": bytes([a]) * 50 for a in (1, 2)}
    files = {NAME: CONTENT, "Audio_Speech_Actors_01-24.zip": zipped(audio, compression=zipfile.ZIP_STORED)}
    with zenodo(files) as server:
        fetch(server, tmp_path)
        fetch(server, tmp_path, modality="a")
    assert there(tmp_path) == CLIPS | audio
    assert server.sent_bytes == sum(map(len, files.values()))
    assert f"1 archives, 0.00 GB to fetch into {tmp_path}" in capsys.readouterr().out
    marker = json.loads((tmp_path / ".downloaded" / f"{NAME}.json").read_text())
    assert marker == {
        "size": len(CONTENT),
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "members": {name: len(content) for name, content in CLIPS.items()},
    }


def test_a_second_run_asks_nothing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zenodo({NAME: CONTENT}) as server:
        fetch(server, tmp_path)
        asked = list(server.asked)
        fetch(server, tmp_path)
    assert server.asked == asked
    assert "all 1 archives are unpacked" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["deleted", "shortened", "marker cut"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_missing_clip_comes_back(tmp_path: pathlib.Path, keep: bool, harm: str) -> None:
    victim = tmp_path / next(iter(CLIPS))
    with zenodo({NAME: CONTENT}) as server:
        fetch(server, tmp_path, keep_archives=keep)
        assert (tmp_path / NAME).exists() == keep
        if harm == "deleted":
            victim.unlink()
        elif harm == "shortened":
            victim.write_bytes(b"short")
        else:
            (tmp_path / ".downloaded" / f"{NAME}.json").write_text('{"members"')
        fetch(server, tmp_path, keep_archives=keep)
    assert there(tmp_path) == CLIPS | ({NAME: CONTENT} if keep else {})
    assert len(server.ranges) == (1 if keep else 2)


@pytest.mark.parametrize("harm", ["short", "wrong", "too long"])
def test_an_archive_put_there_by_hand_is_checked(tmp_path: pathlib.Path, harm: str) -> None:
    changed = {"short": CONTENT[:60_000], "wrong": b"?" + CONTENT[1:], "too long": CONTENT + b"?"}[harm]
    (tmp_path / NAME).write_bytes(changed)
    with zenodo({NAME: CONTENT}) as server:
        fetch(server, tmp_path)
    assert there(tmp_path) == CLIPS
    assert server.ranges == ["bytes=60000-" if harm == "short" else None]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT)), st.booleans()), max_size=QUICK.attempts - 1))
def test_any_cuts_are_resumed(cuts: list[tuple[int, bool]]) -> None:
    with zenodo({NAME: CONTENT}) as server, tempfile.TemporaryDirectory() as folder:
        server.acts[NAME] = [cut(after, reset=reset) for after, reset in cuts]
        fetch(server, pathlib.Path(folder))
        assert there(pathlib.Path(folder)) == CLIPS
        if not any(reset for _, reset in cuts):  # a reset may throw away what was on its way
            assert server.sent_bytes == len(CONTENT)


def test_cuts_without_end_are_borne_as_long_as_bytes_come(tmp_path: pathlib.Path) -> None:
    clips = clips_of(1, bytes_each=1_500_000, count=4)
    with zenodo({NAME: zipped(clips)}) as server:
        server.always[NAME] = cut(400_000)
        fetch(server, tmp_path)
        assert len(server.ranges) > 2 * QUICK.attempts
    assert there(tmp_path) == clips


def test_cuts_that_get_nowhere_are_given_up(tmp_path: pathlib.Path) -> None:
    with zenodo({NAME: CONTENT}) as server:
        server.always[NAME] = cut(10)
        with pytest.raises(UserError, match=f"{NAME}: .*what has come is kept"):
            fetch(server, tmp_path)
    assert len(server.ranges) == QUICK.attempts
    assert there(tmp_path) == {f"{NAME}.part": CONTENT[: 10 * QUICK.attempts]}


OBSTACLES: dict[str, list[Act]] = {
    "longer than announced": [lie(-50_000)],
    "longer than announced, always": [lie(-50_000), lie(-30_000), lie(-100)],
    "shorter than announced": [lie(50_000)],
    "nothing announced comes": [cut(0), lie(-len(CONTENT))],
    "wrong byte": [wrong_byte],
    "wrong byte after a cut": [cut(10_000), wrong_byte],
    "never ends": [endless],
    "never ends, with wrong bytes": [lambda handler, content, offset: endless(handler, b"?" + content[1:], 0)],
    "503": [answer(503), answer(502), answer(500)],
    "403": [answer(403)],
    "429": [answer(429, Retry_After=0)],
    "408": [answer(408)],
    "ignores Range": [cut(50_000), no_ranges],
    "another range": [cut(50_000), other_range],
    "206 without a range": [cut(50_000), answer(206), serve],
    "416 though there is more": [cut(50_000), answer(416, Content_Range="bytes */50000"), serve],
    "416 without a range": [cut(50_000), answer(416), serve],
    "length is no number": [
        lambda handler, content, offset: (handler.head(200, Content_Length="many"), handler.body(content))[0]
    ],
    "no HTTP": [lambda handler, content, offset: handler.wfile.write(b"220 ftp.example.org ready\r\n")],  # type: ignore
    "hangs up": [lambda handler, content, offset: None],
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_every_obstacle_is_overcome(tmp_path: pathlib.Path, obstacle: str) -> None:
    # Only wrong bytes cost a whole fetch: all else is noticed before the md5 has to
    patience = dataclasses.replace(QUICK, whole_fetches=2 if "wrong byte" in obstacle else 1)
    with zenodo({NAME: CONTENT}) as server:
        server.acts[NAME] = list(OBSTACLES[obstacle])
        fetch(server, tmp_path, patience=patience)
        assert not server.acts[NAME]
    assert there(tmp_path) == CLIPS


@pytest.mark.parametrize("act", [stall, drip])
def test_a_stalling_server_is_left(tmp_path: pathlib.Path, act: Act) -> None:
    with zenodo({NAME: CONTENT}) as server:
        server.acts[NAME] = [act, act]
        start = time.monotonic()
        fetch(server, tmp_path, patience=HASTY)
        assert time.monotonic() - start < 5
    assert there(tmp_path) == CLIPS
    assert len(server.ranges) == 3
    assert server.ranges[1] is not None  # what came before the stall was kept


def test_a_wrong_byte_always_is_an_error_that_says_all(tmp_path: pathlib.Path) -> None:
    with zenodo({NAME: CONTENT}) as server:
        server.always[NAME] = wrong_byte
        with pytest.raises(UserError) as raised:
            fetch(server, tmp_path)
    changed = bytearray(CONTENT)
    changed[len(CONTENT) // 3] ^= 1
    for part in (
        NAME,
        hashlib.md5(CONTENT).hexdigest(),
        hashlib.md5(changed).hexdigest(),
        "run the same command",
    ):
        assert part in str(raised.value)
    assert len(server.ranges) == QUICK.whole_fetches
    assert there(tmp_path) == {}


def test_an_archive_that_is_never_whole_is_not_left_behind(tmp_path: pathlib.Path) -> None:
    damaged = bytearray(CONTENT)
    damaged[damaged.index(b"PK\x01\x02") + 16] ^= 1  # the CRC of the first clip
    with zenodo({SONG: bytes(damaged)}) as server:
        server.api = answer(500)
        with pytest.raises(UserError, match=f"{SONG}: fetched 3 times.*is no whole zip file.*Bad CRC-32"):
            fetch(server, tmp_path, channel="song")
    assert there(tmp_path) == {}


def test_a_404_is_not_asked_twice(tmp_path: pathlib.Path) -> None:
    with zenodo({NAME: CONTENT}) as server:
        server.always[NAME] = answer(404)
        with pytest.raises(UserError, match=f"{NAME}: answered 404"):
            fetch(server, tmp_path)
    assert len(server.ranges) == 1


@pytest.mark.parametrize(("header", "cap_s", "least_s"), [("1", 20.0, 1.0), ("3600", 0.4, 0.4)])
def test_retry_after_is_honoured_up_to_the_cap(
    tmp_path: pathlib.Path, header: str, cap_s: float, least_s: float
) -> None:
    with zenodo({NAME: CONTENT}) as server:
        server.acts[NAME] = [answer(429, Retry_After=header)]
        start = time.monotonic()
        fetch(server, tmp_path, patience=dataclasses.replace(QUICK, most_wait_s=cap_s))
        assert least_s <= time.monotonic() - start < 5
    assert there(tmp_path) == CLIPS


def test_retry_after_as_a_date() -> None:
    seconds = fetch_module._retry_after_s(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90)))
    assert 85 < seconds <= 90
    assert fetch_module._retry_after_s("soon") == fetch_module._retry_after_s("") == 0


def test_archives_come_over_as_many_connections_as_asked_for(tmp_path: pathlib.Path) -> None:
    files = {f"Video_Speech_Actor_{a:02d}.zip": zipped(clips_of(a, bytes_each=60_000)) for a in range(1, 6)}
    with zenodo(files) as server:
        server.always = dict.fromkeys(files, slowly)
        fetch(server, tmp_path, actors=range(1, 6), connections=2)
    assert server.most_at_once == 2
    clips: dict[str, bytes] = {}
    for actor in range(1, 6):
        clips |= clips_of(actor, bytes_each=60_000)
    assert there(tmp_path) == clips


def test_one_bad_archive_does_not_keep_the_others_away(tmp_path: pathlib.Path) -> None:
    files = {f"Video_Speech_Actor_{a:02d}.zip": zipped(clips_of(a)) for a in (1, 2, 3)}
    with zenodo(files) as server:
        server.always[NAME] = wrong_byte
        with pytest.raises(UserError, match=f"^{NAME}: fetched 3 times"):
            fetch(server, tmp_path, actors=[1, 2, 3], connections=1)
        assert there(tmp_path) == clips_of(2) | clips_of(3)
        server.always.clear()
        fetch(server, tmp_path, actors=[1, 2, 3])
    assert there(tmp_path) == clips_of(1) | clips_of(2) | clips_of(3)
    assert server.ranges == [None] * 6


# The disk


def usage(free: int) -> Callable[[object], shutil._ntuple_diskusage]:
    return lambda path: shutil._ntuple_diskusage(10**12, 10**12 - free, free)


@pytest.mark.parametrize("keep", [False, True])
def test_a_disk_that_is_too_small_is_told_before_the_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, keep: bool
) -> None:
    files = {f"Video_Speech_Actor_{a:02d}.zip": zipped(clips_of(a)) for a in range(1, 5)}
    size = len(files[NAME])
    needed = 4 * int(1.05 * size) + (4 if keep else 2) * size
    with zenodo(files) as server:
        monkeypatch.setattr(shutil, "disk_usage", usage(needed - 1))
        with pytest.raises(UserError, match=r"GB are needed and .* GB are free"):
            fetch(server, tmp_path, actors=range(1, 5), connections=2, keep_archives=keep)
        assert server.ranges == []
        monkeypatch.setattr(shutil, "disk_usage", usage(needed))
        fetch(server, tmp_path, actors=range(1, 5), connections=2, keep_archives=keep)
    assert len(there(tmp_path)) == 16 + 4 * keep


def test_a_disk_that_fills_up_keeps_what_came(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / NAME))

    with zenodo({NAME: CONTENT}) as server:
        with monkeypatch.context() as patch:
            patch.setattr(download_module, "unpack", full)
            with pytest.raises(UserError, match=f"{NAME}: No space left on device: make room"):
                fetch(server, tmp_path)
        fetch(server, tmp_path)
    assert there(tmp_path) == CLIPS
    assert len(server.ranges) == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*Not a directory"):
        download(tmp_path / "file" / "data", actors=[1])


# The archive


def member(name: str, *, mode: int = 0o100644, content: bytes = b"x" * 100) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name
    info.external_attr = mode << 16
    return info, content


def archive_of(*members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return buffer.getvalue()


GOOD = member("Actor_01/01-01-01-01-01-01-01.mp4")
MALICIOUS = {
    "../evil.mp4": member("../evil.mp4"),
    "Actor_01/../../evil.mp4": member("Actor_01/../../evil.mp4"),
    "Actor_01\\..\\..\\evil.mp4": member("Actor_01\\..\\..\\evil.mp4"),
    "Actor_01\\evil.mp4": member("Actor_01\\evil.mp4"),
    "/evil.mp4": member("/evil.mp4"),
    "C:/evil.mp4": member("C:/evil.mp4"),
    "\\\\host\\evil.mp4": member("\\\\host\\evil.mp4"),
    "Actor_01/link.mp4": member("Actor_01/link.mp4", mode=0o120777, content=b"/etc/passwd"),
    "Actor_02": member("Actor_02", mode=0o120777, content=b"/tmp"),
    "Actor_01/pipe.mp4": member("Actor_01/pipe.mp4", mode=0o010644),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_member_is_refused_by_name(tmp_path: pathlib.Path, name: str) -> None:
    content = archive_of(GOOD, MALICIOUS[name])
    root = tmp_path / "data"
    with zenodo({NAME: content}) as server, pytest.raises(UserError, match=re.escape(repr(name))):
        fetch(server, root)
    assert there(tmp_path) == {f"data/{NAME}": content}
    assert len(server.ranges) == 1


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.zip").write_bytes(archive_of(GOOD, member(GOOD[0].filename, content=b"y" * 100)))
    with pytest.raises(UserError, match=r"01-01-01-01-01-01-01.mp4' is there twice"):
        unpack(tmp_path / "a.zip", tmp_path / "data")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "", "Actor_01", "Actor_1", "a.mp4", "a.wav", "a.sh", "C:", "\\", "é.mp4"])),
    st.sampled_from([0o100644, 0o120777, 0o040755, 0]),
)
def test_no_path_leaves_the_target(fragments: list[str], mode: int) -> None:
    name = "/".join(fragments)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "data")
        root.mkdir()
        archive = pathlib.Path(folder, "a.zip")
        archive.write_bytes(archive_of(GOOD, member(name, mode=mode)))
        with contextlib.suppress(UserError):
            unpack(archive, root)
        written = {path.relative_to(folder).as_posix() for path in pathlib.Path(folder).rglob("*")}
    assert written <= {"a.zip", "data", "data/Actor_01"} | {
        f"data/Actor_01/{clip}" for clip in ("01-01-01-01-01-01-01.mp4", "a.mp4", "a.wav")
    }


def test_what_is_no_clip_is_passed_over_and_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {
        "__MACOSX/Actor_01/._a.mp4": b"1",
        "Actor_01/.DS_Store": b"2",
        "Actor_01/a.sh": b"3",
        "Actor_01/": b"",
    }
    with zenodo({NAME: zipped(CLIPS | extra)}) as server:
        fetch(server, tmp_path)
    assert there(tmp_path) == CLIPS
    assert "passed over 3 files that are no clips" in capsys.readouterr().out


def test_an_archive_without_clips_is_refused(tmp_path: pathlib.Path) -> None:
    with (
        zenodo({NAME: zipped({"README.txt": b"hello"})}) as server,
        pytest.raises(UserError, match="no clip in it"),
    ):
        fetch(server, tmp_path)


def test_a_bomb_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({GOOD[0].filename: bytes(10_000_000)}))
    with pytest.raises(UserError, match=r"would unpack from \d+ to 10000000 bytes"):
        unpack(tmp_path / "a.zip", tmp_path / "data")
    assert set(there(tmp_path)) == {"a.zip"}


def test_an_archive_that_the_disk_cannot_hold_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", usage(sum(map(len, CLIPS.values())) - 1))
    with pytest.raises(UserError, match="are free"):
        unpack(tmp_path / "a.zip", tmp_path)
    assert set(there(tmp_path)) == {"a.zip"}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("by", [-1, 1, -900, 5000])
@pytest.mark.parametrize("crc", ["of the whole", "of what is announced"])
def test_a_member_of_another_size_than_announced_is_damage(
    tmp_path: pathlib.Path, by: int, compression: int, crc: str
) -> None:
    content = bytes(range(256)) * 4
    packed = bytearray(zipped({GOOD[0].filename: content}, compression=compression))
    entry = packed.index(b"PK\x01\x02")
    announced = len(content) + by
    struct.pack_into("<I", packed, entry + 24, announced)
    if crc == "of what is announced":
        struct.pack_into("<I", packed, entry + 16, zipfile.crc32(content[:announced]))
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(zipfile.BadZipFile):
        unpack(tmp_path / "a.zip", tmp_path)
    assert set(there(tmp_path)) == {"a.zip"}


SMALL_CLIPS = {name: content[:40] * 5 for name, content in clips_of(1, count=2).items()}
SMALL = zipped(SMALL_CLIPS)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_wrong_byte_anywhere_never_gets_into_a_clip(offset: int, change: int) -> None:
    damaged = bytearray(SMALL)
    damaged[offset] ^= change
    with tempfile.TemporaryDirectory() as folder:
        (archive := pathlib.Path(folder, "a.zip")).write_bytes(damaged)
        (root := pathlib.Path(folder, "data")).mkdir()
        with contextlib.suppress(UserError, zipfile.BadZipFile):
            unpack(archive, root)
        assert set(there(root).values()) <= set(SMALL_CLIPS.values())


# Kills, and two at once


def start(server: Zenodo, root: pathlib.Path) -> subprocess.Popen:
    code = (
        "import pathlib, sys\n"
        "from fusion_emotion.corpora.download import download\n"
        "download(pathlib.Path(sys.argv[1]), base_url=sys.argv[2], actors=[1])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", code, root, server.url],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(path: pathlib.Path, size: int) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} did not grow to {size} bytes"
        time.sleep(0.005)


BIG_CLIPS = clips_of(1, bytes_each=500_000)
BIG = zipped(BIG_CLIPS)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_download_goes_on_from_there(tmp_path: pathlib.Path, kill: signal.Signals) -> None:
    part = tmp_path / f"{NAME}.part"
    with zenodo({NAME: BIG}) as server:
        server.acts[NAME] = [slowly]
        process = start(server, tmp_path)
        wait_for(part, len(BIG) // 2)
        process.send_signal(kill)
        output, errors = process.communicate(timeout=20)
        assert process.returncode not in (0, None)
        if kill == signal.SIGINT:
            assert b"KeyboardInterrupt" in errors
            assert b"the same command goes on from there" in output
        held = part.stat().st_size
        assert part.read_bytes() == BIG[:held]
        assert len(BIG) // 2 <= held < len(BIG)
        while server.at_once:  # the server has not yet noticed
            time.sleep(0.005)
        server.sent_bytes = 0
        fetch(server, tmp_path)
        assert server.ranges[1:] == [f"bytes={held}-"]
        assert server.sent_bytes == len(BIG) - held
    assert there(tmp_path) == BIG_CLIPS


def test_a_kill_loses_not_a_byte(tmp_path: pathlib.Path) -> None:
    with zenodo({NAME: BIG}) as server:
        server.acts[NAME] = [stall]
        process = start(server, tmp_path)
        wait_for(tmp_path / f"{NAME}.part", 1000)
        process.kill()
        process.communicate()
        fetch(server, tmp_path)
        assert server.ranges == [None, "bytes=1000-"]
    assert there(tmp_path) == BIG_CLIPS


def test_two_at_once_are_kept_apart(tmp_path: pathlib.Path) -> None:
    with zenodo({NAME: BIG}) as server:
        server.acts[NAME] = [slowly]
        process = start(server, tmp_path)
        wait_for(tmp_path / f"{NAME}.part", 1)
        with pytest.raises(UserError, match=f"process {process.pid} is downloading into it"):
            fetch(server, tmp_path)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
    assert there(tmp_path) == BIG_CLIPS
    assert len(server.ranges) == 1
