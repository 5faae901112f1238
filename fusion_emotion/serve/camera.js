// Shared by both tabs: opens camera and microphone, and names the format that this browser records.
const said = element.querySelector(".fe-said");
const say = (text, isWrong = false) => { said.textContent = text; said.classList.toggle("fe-wrong", isWrong); };
const format = () => ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4", "audio/webm", "audio/mp4"]
  .find(kind => MediaRecorder.isTypeSupported(kind) && (props.sees || kind.startsWith("audio") || !kind.includes("vp8")));

async function opened() {
  if (!navigator.mediaDevices) {
    say("This browser gives a camera only to a page of this machine: open http://127.0.0.1 instead.", true);
    return null;
  }
  const picture = props.sees ? { width: { ideal: 640 }, height: { ideal: 480 } } : false;
  const wanted = [{ video: picture, audio: props.hears }, { video: picture, audio: false }, { video: false, audio: props.hears }];
  let reason = "";
  for (const one of wanted.filter(one => one.video || one.audio)) {
    try {
      return await navigator.mediaDevices.getUserMedia(one);
    } catch (error) {
      reason = reason || error.message || error.name;
      if (error.name === "NotAllowedError") break;
    }
  }
  say(`No camera and no microphone can be used (${reason}): allow them for this page, or connect one.`, true);
  return null;
}

function showSelf(stream) {
  const self = element.querySelector(".fe-self");
  self.hidden = !stream.getVideoTracks().length;
  self.srcObject = stream;
  self.play().catch(() => {});
}

const closed = stream => stream && stream.getTracks().forEach(track => track.stop());
