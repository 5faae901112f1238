const one = name => element.querySelector(name);
const button = one("[data-do=live]"), canvas = one("canvas"), bars = {};
let session = null;

props.labels.forEach((name, place) => {
  const row = document.createElement("div"), bar = document.createElement("span"), share = document.createElement("span");
  const title = document.createElement("span"), track = document.createElement("span");
  title.textContent = name;
  bar.style.background = props.colours[place % props.colours.length];
  track.append(bar);
  row.append(title, track, share);
  one(".fe-bars").append(row);
  bars[name] = [bar, share];
});

function draw(moment) {
  Object.entries(moment.probabilities).forEach(([name, share]) => {
    bars[name][0].style.width = `${100 * (share || 0)}%`;
    bars[name][1].textContent = share === null ? "" : `${Math.round(100 * share)} %`;
  });
  const self = one(".fe-self"), pen = canvas.getContext("2d");
  canvas.width = self.videoWidth || 640;
  canvas.height = self.videoHeight || 480;
  if (!moment.box) return;
  const [x, y, wide, high] = moment.box;
  pen.strokeStyle = pen.fillStyle = "#50c878";
  pen.lineWidth = canvas.width / 200;
  pen.strokeRect(x, y, wide, high);
  pen.font = `600 ${canvas.width / 28}px system-ui, sans-serif`;
  pen.shadowColor = "#000";
  pen.shadowBlur = 4;
  pen.fillText(moment.label, x, Math.max(canvas.width / 28, y - 6));
}

function take(mine, answer) {
  if (answer.error) { say(answer.error, true); end(mine); return; }
  const moment = (answer.moments || []).at(-1);
  if (!moment || session !== mine) return;
  const lag = (performance.now() - mine.began) / 1000 - moment.end;
  draw(moment);
  const label = moment.label || "nothing to read";
  say(`${moment.end.toFixed(1)} s: ${label}, read by ${moment.modalities}; ${Math.max(0, lag).toFixed(1)} s behind`);
}

// Chunks are numbered, and sent one after the other.
function send(mine, blob) {
  mine.sent = mine.sent.then(async () => {
    if (mine.isOver) return;
    const bytes = new Uint8Array(blob ? await blob.arrayBuffer() : 0);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    const last = !blob;
    if (!bytes.length && !last) return;
    take(mine, await server.push({ id: mine.id, number: mine.number++, data: btoa(text) }));
    if (last) mine.isOver = true;
  }).catch(error => { say(`The live stream broke off (${error.message || error}): start it again.`, true); end(mine); });
}

function end(mine) {
  if (!mine) return;
  mine.isOver = true;
  if (mine.recorder.state !== "inactive") mine.recorder.stop();
  closed(mine.stream);
  if (session === mine) { session = null; button.textContent = "Start"; one(".fe-now").hidden = true; }
}

function stop() {
  if (session && session.recorder.state !== "inactive") session.recorder.stop();
}

button.onclick = async () => {
  if (session) { stop(); return; }
  button.disabled = true;
  const stream = await opened();
  button.disabled = false;
  if (!stream) return;
  const mine = { id: `${Date.now()}-${Math.random()}`, number: 0, sent: Promise.resolve(), stream, isOver: false };
  mine.recorder = new MediaRecorder(stream, { mimeType: format() });
  mine.recorder.onstart = () => { mine.began = performance.now(); };
  mine.recorder.ondataavailable = event => send(mine, event.data);
  // The last chunk, then the mark of the end; also where camera and microphone are taken away.
  mine.recorder.onstop = () => {
    if (mine.isOver) return;
    send(mine, null);
    mine.sent.then(() => { if (session === mine) { end(mine); say(""); } });
  };
  session = mine;
  one(".fe-now").hidden = false;
  one(".fe-stage").hidden = !stream.getVideoTracks().length;
  showSelf(stream);
  button.textContent = "Stop";
  say("The first second …");
  mine.recorder.start(125);
};
window.addEventListener("fe-stop-live", stop);
window.addEventListener("pagehide", () => closed(session && session.stream));
