"""The page itself: gradio, told to keep nothing, to send nothing, and to be heard by this machine alone."""

import contextlib
import html
import importlib.util
import os
import pathlib
import signal
import socket
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from fusion_emotion.errors import UserError
from fusion_emotion.pages.timeline import COLOURS
from fusion_emotion.predict.notice import models, notice, score, whom
from fusion_emotion.predict.recognizer import Recognizer
from fusion_emotion.serve.desk import MEDIA, Desk

HOST = "127.0.0.1"
_OWN_NAMES = (HOST, "localhost")
_HERE = pathlib.Path(__file__).parent
_SWEEP_S = 60.0
_TOO_LARGE = 413
# Whatever gradio's scripts ask for elsewhere, the browser does not load it. They make functions of text.
_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def check_possible(port: int) -> None:
    """Raise UserError if gradio is not installed, or the port is in use."""
    if importlib.util.find_spec("gradio") is None:
        raise UserError("--mode=serve needs gradio: pip install -r requirements-serve.txt")
    with socket.socket() as tried:
        # As the server does: a port that was just given back is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"serve.port={port} cannot be used ({error.strerror}): choose another, --config.serve.port=…"
            ) from error


def serve(recognizer: Recognizer, settings: Mapping[str, Any]) -> None:
    """Serve the page until Ctrl-C or a signal to end; `settings` is the section `serve`. Raises UserError."""
    is_over = threading.Event()
    before = {number: signal.signal(number, lambda *_: is_over.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(recognizer, **settings) as (address, desk):
            print(f"page       {address}, for this machine alone; Ctrl-C ends it", flush=True)
            while not is_over.wait(_SWEEP_S):
                desk.sweep()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def running(recognizer: Recognizer, *, port: int, max_upload_mb: int) -> Iterator[tuple[str, Desk]]:
    """Serve the page while the block runs; its address, and what answers it. Nothing is left on the disk."""
    check_possible(port)
    with tempfile.TemporaryDirectory(prefix="fusion_emotion-") as folder:
        desk = Desk(recognizer, pathlib.Path(folder))
        with _environment(GRADIO_TEMP_DIR=str(desk.uploads), GRADIO_ALLOWED_PATHS=""):
            blocks = build(desk, recognizer, max_upload_mb)
            try:
                _, address, _ = blocks.launch(**launch_settings(port, max_upload_mb))
            except OSError as error:
                raise UserError(f"the page cannot be served on port {port}: {error}") from error
        try:
            yield address, desk
        finally:
            desk.close()
            blocks.close(verbose=False)


def launch_settings(port: int, max_upload_mb: int) -> dict[str, Any]:
    """Return what gradio is told; each of its defaults here can be changed by the environment, or is another."""
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=_OWN_NAMES), Middleware(_Policed)]
    plain = ["system-ui", "sans-serif"]  # the default theme asks Google for its letters
    return {
        "server_name": HOST,
        "server_port": port,
        "share": False,
        "max_file_size": max_upload_mb * 10**6,
        "run_history": False,
        "footer_links": [],
        "mcp_server": False,
        "pwa": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "root_path": "",
        "theme": gradio.themes.Default(font=plain, font_mono=["ui-monospace", "monospace"]),
        # As `css` gradio would rewrite it, and lose what is for a phone.
        "head": f"<style>{(_HERE / 'page.css').read_text(encoding='utf-8')}</style>",
        "app_kwargs": {"middleware": middleware},
        "inbrowser": False,
        "inline": False,
        "quiet": True,
        "prevent_thread_lock": True,
    }


def build(desk: Desk, recognizer: Recognizer, max_upload_mb: int) -> Any:
    """Return the page as gradio's blocks."""
    import gradio

    # gradio marks the functions that a page may call, which cannot be done to methods.
    def begin(given: Any) -> Any:
        return desk.begin(given)

    def ask(given: Any) -> Any:
        return desk.ask(given)

    def push(given: Any) -> Any:
        return desk.push(given)

    def text(name: str) -> str:
        return (_HERE / name).read_text(encoding="utf-8")

    modalities = recognizer.about["modalities"]
    senses = {"sees": "video" in modalities, "hears": "audio" in modalities}
    with gradio.Blocks(
        title="Expressions of face and voice", analytics_enabled=False, delete_cache=(60, 600)
    ) as blocks:
        gradio.HTML("<h1>Expressions of face and voice</h1>", apply_default_css=False)
        with gradio.Tabs():
            with gradio.Tab("A recording"):
                gradio.HTML(
                    html_template=text("recording.html"),
                    js_on_load=text("camera.js") + text("recording.js"),
                    server_functions=[begin, ask],
                    limit_mb=max_upload_mb,
                    media=MEDIA,
                    apply_default_css=False,
                    **senses,
                )
            with gradio.Tab("Live"):
                gradio.HTML(
                    html_template=text("live.html"),
                    js_on_load=text("camera.js") + text("live.js"),
                    server_functions=[push],
                    labels=list(recognizer.label_names),
                    colours=COLOURS,
                    apply_default_css=False,
                    **senses,
                )
        gradio.HTML(card(recognizer.about), apply_default_css=False)
    return blocks


def card(about: Mapping[str, Any]) -> str:
    """Return the card of a model, whose model.json is `about`, and its notice."""
    rows = [("tells apart", ", ".join(about["label_names"]))]
    for model in models(about):
        numbers = model["numbers"]
        rows += [
            ("reads", model["modalities"].replace("+", " and ")),
            ("trained on", model["trained_on"]),
            ("how good", f"{score(numbers)} on {whom(numbers)}"),
            ("licence of the data", model["licence"]),
            ("made", " ".join(str(model[name])[:10] for name in ("date", "commit") if model.get(name))),
        ]
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in rows if value
    )
    return f'<div class="fe-card"><h2>The model</h2><table>{lines}</table><p>{html.escape(notice(about))}</p></div>'


class _Policed:
    """Tells the browser to load nothing from other hosts, and other pages not to frame this one or ask it for anything.

    A connection whose upload is refused is closed: else the server would take in the rest of it.
    """

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", f"{_POLICY}; frame-ancestors 'self'".encode())
                more = [policy, (b"referrer-policy", b"no-referrer")]
                more += [(b"connection", b"close")] if message["status"] == _TOO_LARGE else []
                message["headers"] = [*message.get("headers", []), *more]
            await send(message)

        origin = dict(scope.get("headers", ())).get(b"origin", b"").decode("latin-1")
        if origin and scope["type"] == "http" and urllib.parse.urlsplit(origin).hostname not in _OWN_NAMES:
            from starlette.responses import PlainTextResponse

            await PlainTextResponse("another page may not ask this one", status_code=403)(scope, receive, sent)
            return
        await self._app(scope, receive, sent)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
