/** The microphone, as long as the reader speaks. */

const BITS_A_SECOND = 32_000; // OPUS is clear speech at less
const PREFERRED = "audio/webm;codecs=opus";
const REASONS = {
  NotAllowedError: "This page may not use the microphone: allow it in the browser, and try again.",
  NotFoundError: "No microphone was found: connect one, or choose a file.",
  NotReadableError: "The microphone is in use elsewhere: close what uses it, and try again.",
};

/** Whether this browser has a microphone for this page: over plain HTTP it has not. */
export const canRecord = () =>
  navigator.mediaDevices?.getUserMedia !== undefined && "MediaRecorder" in window;

/** Begin; `stop()` ends it, `file` resolves then. Raises an Error with a sentence. */
export async function record() {
  const stream = await microphone();
  const mimeType = MediaRecorder.isTypeSupported(PREFERRED) ? PREFERRED : "";
  const recorder = new MediaRecorder(stream, { mimeType, audioBitsPerSecond: BITS_A_SECOND });
  const parts = [];
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  const file = new Promise((resolve) => {
    recorder.addEventListener("stop", () => {
      for (const track of stream.getTracks()) track.stop();
      resolve(fileOf(parts, recorder.mimeType));
    });
  });
  recorder.start();
  const stop = () => {
    if (recorder.state !== "inactive") recorder.stop();
  };
  return { file, stop, began: performance.now() };
}

async function microphone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const reason = REASONS[error.name] ?? `The microphone cannot be used: ${error.message}.`;
    throw new Error(reason, { cause: error });
  }
}

function fileOf(parts, mimeType) {
  const [type] = mimeType.split(";");
  const clock = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return new File(parts, `recording-${clock}.${type.split("/")[1] ?? "webm"}`, { type });
}
