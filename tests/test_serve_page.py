"""The page in the browser: what the server allows, uploads, recordings and the live tab. Needs gradio and Chromium."""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from fusion_emotion.serve import page
from launch_kit import free_port
from test_serve import answer, files_below

LIMIT_MB = 2
BROWSER = shutil.which("chromium")


# Whatever the environment says, the page is for this machine alone.
ENVIRONMENT = {
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_SHARE": "True",
    "GRADIO_ANALYTICS_ENABLED": "True",
    "GRADIO_RUN_HISTORY": "True",
    "GRADIO_MCP_SERVER": "True",
    "GRADIO_SSR_MODE": "True",
    "GRADIO_ROOT_PATH": "/elsewhere",
    "GRADIO_ALLOWED_PATHS": "/",
}
asked: list[str] = []  # hosts that this process has looked up or called


def _watch(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo":
        asked.append(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(str(arguments[1][0]))


@pytest.fixture(scope="module")
def served(hearing, tmp_path_factory):
    """The page, its address, and where its temporary files lie."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -r requirements-serve.txt")
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(page.tempfile, "tempdir", str(temporary))
        sys.addaudithook(_watch)
        with page.running(hearing, port=free_port(), max_upload_mb=LIMIT_MB) as (address, desk):
            yield address.rstrip("/"), desk, temporary
    assert not list(temporary.iterdir())


def connection(address: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)


def get(address: str, path: str, **headers: str) -> http.client.HTTPResponse:
    joined = connection(address)
    joined.request("GET", path, headers=headers)
    return joined.getresponse()


@pytest.mark.slow
def test_the_page_is_for_this_machine_alone(served):
    address, _, _ = served
    port = int(address.rsplit(":", 1)[1])
    assert address == f"http://127.0.0.1:{port}"
    # Every address of 127.0.0.0/8 is this machine's, but the page listens on one.
    with socket.socket() as tried, pytest.raises(ConnectionRefusedError):
        tried.connect(("127.0.0.2", port))
    assert get(address, "/", Host="pages.example").status == 400
    told = get(address, "/")
    assert "default-src 'self'" in told.headers["content-security-policy"]
    content = told.read().decode()
    for wanted in ('"analytics_enabled":false', '"run_history":false', '"footer_links":[]'):
        assert wanted in content.replace('": ', '":'), wanted
    assert "fonts.googleapis" not in get(address, "/theme.css").read().decode()
    assert get(address, "/gradio_api/mcp/").status == 404
    assert get(address, f"/gradio_api/file={ROOT}/README.md").status in (403, 404)
    assert {host for host in asked if not host.startswith("127.0.0.")} <= {"localhost", "None"}


@pytest.mark.slow
def test_an_upload_that_is_too_large_is_refused_while_it_comes(served):
    address, desk, _ = served
    joined = connection(address)
    joined.putrequest("POST", "/gradio_api/upload")
    joined.putheader("Content-Type", "multipart/form-data; boundary=b")
    joined.putheader("Content-Length", str(3 * 10**9))
    joined.endheaders()
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    joined.send(head.encode())
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < 100e6:
            joined.send(bytes(100_000))
            sent += 100_000
    # The connection was cut; what the system's buffers hold was sent in vain.
    assert LIMIT_MB * 1e6 <= sent < 50e6
    for _ in range(50):
        if not files_below(desk.uploads):
            break
        time.sleep(0.1)
    assert not files_below(desk.uploads)


@pytest.mark.slow
def test_a_name_with_dots_stays_in_the_folder_of_uploads(served, talk):
    address, desk, temporary = served
    joined = connection(address)
    head = '--b\r\nContent-Disposition: form-data; name="files"; filename="../../../evil.mp4"\r\n\r\n'
    body = head.encode() + talk.read_bytes() + b"\r\n--b--\r\n"
    joined.request("POST", "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"})
    [path] = json.loads(joined.getresponse().read())
    assert pathlib.Path(path).is_relative_to(desk.uploads)
    assert "page" in answer(desk, desk.begin({"path": path, "name": "../../../evil.mp4"}))
    assert not files_below(temporary)


@pytest.fixture(scope="module")
def browser():
    """Chromium with a camera of its own, for which no other host exists."""
    if not BROWSER:
        pytest.skip("no Chromium: the package chromium of the system")
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r tests/requirements.txt")
    hosts = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", hosts, *camera])
        yield opened
        opened.close()


@pytest.fixture
def tab(served, browser):
    """The open page. In the end it must have asked for nothing elsewhere, and no script may have failed."""
    context = browser.new_context(viewport={"width": 1100, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    urls, faults = [], []
    opened.on("request", lambda request: urls.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(served[0])
    opened.wait_for_selector(".fe-drop")
    yield opened
    assert len(urls) > 10
    assert not [url for url in urls if not url.startswith((f"{served[0]}/", "blob:", "data:"))]
    assert not faults
    context.close()
    assert not files_below(served[2])


def viewer(tab):
    """The frame of the viewer, once its film is loaded."""
    tab.wait_for_selector(".fe-viewer:not([hidden])", timeout=60_000)
    frame = tab.query_selector(".fe-viewer").content_frame()
    frame.wait_for_function("media && media.readyState > 1 && isFinite(media.duration)", timeout=20_000)
    return frame


@pytest.mark.slow
def test_a_clip_that_is_uploaded_is_shown_and_its_files_are_saved(tab, talk, tmp_path):
    tab.set_input_files(".fe-drop input", talk)
    frame = viewer(tab)
    assert frame.inner_text("h1").startswith("talk.mp4: ")
    assert frame.locator("#segments tr").count() >= 1
    assert "do not say what a person feels" in frame.inner_text("#notice")
    assert frame.evaluate("media.src").startswith("blob:")
    with tab.expect_download() as saved:
        tab.click(".fe-files a:text-is('csv')")
    assert saved.value.suggested_filename == "talk.csv"
    saved.value.save_as(tmp_path / "talk.csv")
    assert len((tmp_path / "talk.csv").read_text().splitlines()) == 7
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.wait_for_timeout(300)
    for place in (tab, frame):
        wide, window = place.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window


@pytest.mark.slow
def test_rubbish_is_said_in_one_line_and_the_page_goes_on(tab, talk, tmp_path):
    (tmp_path / "rubbish.mp4").write_text("no film\n" * 100)
    (tmp_path / "large.mp4").write_bytes(bytes(LIMIT_MB * 10**6 + 1))
    for name, words in (("rubbish.mp4", "rubbish.mp4: it cannot be opened"), ("large.mp4", "at most 2 MB are taken")):
        tab.set_input_files(".fe-drop input", tmp_path / name)
        tab.wait_for_selector(f".fe-wrong:has-text('{words}')")
        assert tab.is_hidden(".fe-viewer")
    tab.set_input_files(".fe-drop input", talk)
    viewer(tab)
    assert tab.inner_text(".fe-said") == ""


@pytest.mark.slow
def test_camera_and_microphone_are_recorded_without_a_duration_and_judged(tab):
    tab.click("[data-do=record]")
    tab.wait_for_timeout(2500)
    tab.click("[data-do=stop]")
    frame = viewer(tab)
    assert frame.inner_text("h1").startswith("recording.webm: ")
    source = frame.evaluate("shown.source")
    assert source["duration_s"] is None
    assert source["width"] == 640
    assert 1.5 < frame.evaluate("media.duration") < 5
    assert "audio+video" in frame.evaluate("shown.timeline.modalities")


@pytest.mark.slow
def test_the_live_tab_judges_the_camera_until_it_is_stopped(tab):
    tab.click("button[role=tab]:has-text('Live')")
    tab.click("[data-do=live]")
    tab.wait_for_selector(".fe-said:has-text('read by audio+video')", timeout=30_000)
    assert tab.locator(".fe-bars div").count() == 8
    tab.click("[data-do=live]")
    tab.wait_for_selector("[data-do=live]:text-is('Start')")
    tab.click("button[role=tab]:has-text('A recording')")
    tab.click("[data-do=example]")
    assert viewer(tab).inner_text("h1").startswith("01-01-")


@pytest.mark.slow
def test_the_command_ends_by_ctrl_c_and_leaves_nothing(workdir, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -r requirements-serve.txt")
    (tmp_path / "temporary").mkdir()
    port = free_port()
    command = [sys.executable, "launch.py", "--mode=serve", f"--model={workdir}", f"--config.serve.port={port}"]
    command += [f"--config.run.cache={tmp_path / 'cache'}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith(f"page       http://127.0.0.1:{port}/")
        second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: serve.port={port} cannot be used")
    assert second.stderr.count("\n") == 1
    assert not files_below(tmp_path / "temporary")
