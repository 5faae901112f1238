"""A server of files on this computer that cuts, stalls, refuses and alters."""

import contextlib
import http.server
import io
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator

import pytest

Act = Callable[["Handler", bytes, int], None]  # answers a request for a file from an offset on


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Files by the path of their URL, those of Zenodo by name; `acts` answer the next requests, `always` all others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.acts: list[Act] = []
        self.always: Act = serve
        self.ranges: list[str | None] = []  # of every request
        self.sent_bytes = 0
        self.go = threading.Event()  # ends the pauses
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match = re.fullmatch(r"/records/1188976/files/([^/]+)\?download=1", self.path)
        name = match[1] if match else self.path
        if name not in self.server.files:
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        act = self.server.acts.pop(0) if self.server.acts else self.server.always
        act(self, self.server.files[name], int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0)

    def answer(self, status: int, content: bytes = b"", *, length: int = 0, **headers: object) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": length or len(content), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.send(content)

    def send(self, content: bytes) -> None:
        self.server.sent_bytes += len(content)
        self.wfile.write(content)


def pause(after: int, *, hang_up: bool = False) -> Act:
    """Stop after so many bytes of the body, until the server's `go`; or for good."""

    def act(handler: Handler, content: bytes, offset: int) -> None:
        rest, size = content[offset:], len(content)
        if not rest:
            handler.answer(416, Content_Range=f"bytes */{size}")
            return
        extent = {"Content_Range": f"bytes {offset}-{size - 1}/{size}"} if offset else {}
        handler.answer(206 if offset else 200, rest[:after], length=len(rest), **extent)
        if not hang_up and len(rest) > after:
            handler.server.go.wait(30)
            handler.send(rest[after:])

    return act


def cut(after: int) -> Act:
    return pause(after, hang_up=True)


serve = pause(sys.maxsize)


def refuse(status: int, **headers: object) -> Act:
    return lambda handler, content, offset: handler.answer(status, **headers)


def wrong_byte(handler: Handler, content: bytes, offset: int) -> None:
    serve(handler, content[:1000] + bytes([content[1000] ^ 1]) + content[1001:], offset)


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
    thread.start()
    yield server
    server.go.set()
    server.shutdown()
    server.server_close()
    thread.join()
