"""The page that runs an exported model by onnxruntime-web, in headless Chromium."""

import functools
import http.server
import json
import queue
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from conftest import ROOT
from fusion_emotion.models.export import export_model
from fusion_emotion.models.weights import load_model

pytest.importorskip("jax2onnx", reason="requirements-export.txt is not installed")

# Chooses files in the page as a person does, and sends back what it then shows.
DRIVER = """<!doctype html><iframe id="page" src="index.html"></iframe><script>
const page = document.getElementById("page");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
async function choose(id, ...names) {
  const chosen = new page.contentWindow.DataTransfer();
  for (const name of names) chosen.items.add(new page.contentWindow.File([await (await fetch(name)).blob()], name));
  const input = page.contentDocument.getElementById(id);
  input.files = chosen.files;
  input.dispatchEvent(new page.contentWindow.Event("change"));
}
async function until(word) {
  const said = page.contentDocument.getElementById("said");
  for (let i = 0; i < 600 && !said.textContent.includes(word); i++) await sleep(100);
  return said.textContent;
}
page.onload = async () => {
  const told = [];
  await choose("model", "a.wav");
  told.push(await until("did not work"));
  await choose("model", "model.onnx", "model.onnx.json");
  told.push(await until("Choose a sound"));
  await choose("sound", "text.wav");
  told.push(await until("did not work"));
  await choose("sound", "a.wav");
  told.push(await until("windows of"));
  const rows = [...page.contentDocument.querySelectorAll("tr")].map((row) => [...row.cells].map((c) => c.textContent));
  await fetch("done", { method: "POST", body: JSON.stringify({ told, rows }) });
};
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what is posted."""

    posted: "queue.Queue[dict]" = queue.Queue()

    def do_POST(self) -> None:
        self.posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_the_page_says_what_the_example_says(workdir, tmp_path):
    browser, npm = shutil.which("chromium"), shutil.which("npm")
    if not browser or not npm:
        pytest.skip("no Chromium or no npm: packages of the system")
    install = [npm, "install", "--no-audit", "--no-fund", "onnxruntime-web@1.30.0"]
    installed = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"npm cannot install onnxruntime-web: {installed.stderr.strip()[-200:]}")
    shutil.copy(ROOT / "examples" / "onnx_web" / "index.html", tmp_path)
    (tmp_path / "driver.html").write_text(DRIVER)
    (tmp_path / "text.wav").write_text("no sound")
    export_model(load_model(workdir), tmp_path / "model.onnx")
    rng, time_s = np.random.default_rng(0), np.arange(16_000) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * pitch_hz * time_s) for pitch_hz in (90, 700, 3000)]
    sound = np.concatenate([*tones, rng.normal(0, 0.2, 16_000), rng.normal(0, 0.001, 16_000)])
    soundfile.write(tmp_path / "a.wav", sound, 16_000)
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    # Nothing but this machine has a name: the page loads nothing from elsewhere.
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        *quiet.split(),
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ]
    command += [f"--user-data-dir={tmp_path / 'browser'}", "--remote-debugging-port=0"]
    command += [f"http://127.0.0.1:{serving.server_port}/driver.html"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        posted = Handler.posted.get(timeout=60)
    finally:
        process.terminate()
        process.wait(timeout=30)
        serving.shutdown()
        serving.server_close()
    refused, ready, rubbish, done = posted["told"]
    assert "model.onnx and model.onnx.json" in refused
    assert ready == "Choose a sound."
    assert "did not work" in rubbish
    assert done.startswith("a.wav: 21 windows of 1 s")
    example = ROOT / "examples" / "onnx_voice.py"
    command = [sys.executable, str(example), str(tmp_path / "model.onnx"), str(tmp_path / "a.wav")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    expected = [line.split() for line in ran.stdout.splitlines()]
    assert [row[:2] for row in posted["rows"]] == [[f"{start} s", label] for start, _, label, _ in expected]
    shares, others = ([float(row[place]) for row in rows] for rows, place in ((posted["rows"], 2), (expected, 3)))
    assert len({label for _, _, label, _ in expected}) > 1
    np.testing.assert_allclose(shares, others, atol=0.011)
