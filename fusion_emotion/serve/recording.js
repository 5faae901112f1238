const one = name => element.querySelector(name);
const buttons = element.querySelectorAll(".fe-choose button, .fe-choose input");
const links = [];  // object URLs of the recording that is shown, and of its files
let recorder = null, stream = null;
one(".fe-limit").textContent = props.limit_mb;

const busy = is => buttons.forEach(button => { button.disabled = is; });

function shown(answer, media) {
  const viewer = one(".fe-viewer"), files = one(".fe-files");
  viewer.hidden = files.hidden = false;
  viewer.onload = () => {
    const inside = viewer.contentDocument.documentElement;
    const fit = () => { viewer.style.height = `${inside.scrollHeight}px`; };
    new viewer.contentWindow.ResizeObserver(fit).observe(viewer.contentDocument.body);
    fit();
  };
  viewer.srcdoc = media ? answer.page.replaceAll(props.media, media) : answer.page;
  files.replaceChildren("Save: ");
  Object.entries(answer.files).forEach(([name, text]) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text]));
    link.download = name;
    link.textContent = name.split(".").pop();
    links.push(link.href);
    files.append(link, " ");
  });
}

// `file` is null for the example.
async function judge(file) {
  if (file && file.size > props.limit_mb * 1e6) {
    say(`${file.name} has ${Math.ceil(file.size / 1e6)} MB: at most ${props.limit_mb} MB are taken (serve.max_upload_mb).`, true);
    busy(false);
    return;
  }
  window.dispatchEvent(new Event("fe-stop-live"));
  links.splice(0).forEach(link => URL.revokeObjectURL(link));
  one(".fe-viewer").hidden = one(".fe-files").hidden = true;
  one(".fe-viewer").srcdoc = "";
  busy(true);
  try {
    say(file ? "Reading the file …" : "Making the example clip …");
    const place = file ? { path: (await upload(file)).path, name: file.name } : {};
    let answer = await server.begin(place);
    while (answer.id || answer.waits || "read_s" in answer) {
      judge.id = answer.id || judge.id;
      answer = await server.ask(judge.id);
      if (answer.waits) say("Waiting until another recording is done …");
      if (answer.read_s) say(`Judging: ${answer.read_s.toFixed(0)} s` + (answer.length_s ? ` of ${answer.length_s.toFixed(0)} s` : ""));
    }
    if (answer.error) { say(answer.error, true); return; }
    const media = file ? URL.createObjectURL(file) : "";
    if (media) links.push(media);
    shown(answer, media);
    say("");
  } catch (error) {
    say(`${file ? file.name : "The example"} could not be judged (${error.message || error}): try again.`, true);
  } finally {
    busy(false);
  }
}

async function record() {
  stream = await opened();
  if (!stream) return;
  const parts = [], kind = format();
  let size = 0;
  recorder = new MediaRecorder(stream, { mimeType: kind });
  recorder.ondataavailable = event => {
    parts.push(event.data);
    size += event.data.size;
    if (size > props.limit_mb * 9e5) stop();
  };
  recorder.onstop = () => {
    closed(stream);
    one(".fe-recorder").hidden = true;
    judge(new File(parts, kind.includes("mp4") ? "recording.mp4" : "recording.webm", { type: kind }));
  };
  recorder.start(1000);
  busy(true);
  showSelf(stream);
  one(".fe-recorder").hidden = false;
  say("Recording …");
}

const stop = () => { if (recorder && recorder.state !== "inactive") recorder.stop(); };

one("[data-do=record]").onclick = record;
one("[data-do=stop]").onclick = stop;
one("[data-do=example]").onclick = () => judge(null);
one("input").onchange = event => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) judge(file);
};
const drop = one(".fe-drop");
drop.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); one("input").click(); } };
["dragover", "dragleave", "drop"].forEach(kind => drop.addEventListener(kind, event => {
  event.preventDefault();
  drop.classList.toggle("fe-over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files.length && !one("input").disabled) judge(event.dataTransfer.files[0]);
}));
