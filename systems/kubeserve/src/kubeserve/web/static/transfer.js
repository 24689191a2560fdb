// Sends one file in parts. Whatever breaks, it asks how much is there and goes on from that byte.
import { Refusal, refuse, url } from "./api.js";

const PART = 8 * 1024 * 1024;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
const SILENCE = 30_000; // milliseconds without progress, after which a connection is given up
const PASSING = [0, 408, 425, 429, 500, 502, 503, 504];
const PASSING_CODES = ["offset", "busy", "silent", "broken_body"];

/**
 * Sends a file of a version. `progress` is told the bytes that are there, `waiting` a message and the pause before the
 * next attempt. `anew`: nothing that is there counts, until a part has come. Throws a Refusal that another attempt would not change.
 * @param {string} version @param {File} file
 * @param {{anew: boolean, progress: (sent: number) => void, waiting: (why: string, pause: number) => void, signal: AbortSignal}} told
 */
export async function transfer(version, file, { anew, progress, waiting, signal }) {
  const path = url(`/versions/${version}/files/${encodeURIComponent(file.name)}`);
  const start = () => (anew ? 0 : null);
  let offset = start();
  let pause = FIRST_PAUSE;
  while (offset !== file.size || file.size === 0) {
    signal.throwIfAborted();
    try {
      offset ??= await there(path, file);
      progress(offset);
      if (offset < file.size || file.size === 0) {
        offset = await part(path, file, offset, progress, signal);
        pause = FIRST_PAUSE;
        anew = false;
        if (file.size === 0) {
          return;
        }
      }
    } catch (error) {
      if (error.code === "other" && offset !== 0) {
        offset = 0; // another file of this name is half here: this one takes its place
        await request("DELETE", path, null, {}, () => {}, signal);
        continue;
      }
      if (!PASSING.includes(error.status) && !PASSING_CODES.includes(error.code)) {
        throw error;
      }
      anew &&= error.code !== "offset"; // some of it has come
      waiting(error.message, pause);
      await sleep(pause, signal);
      pause = Math.min(2 * pause, LONGEST_PAUSE);
      offset = start();
    }
  }
}

/** How much of the file is there; nothing if that is of a file of another size. */
async function there(path, file) {
  const response = await fetch(path, { method: "HEAD", signal: AbortSignal.timeout(SILENCE) }).catch(() => null);
  if (response === null) {
    throw new Refusal(0, { error: "The server does not answer" });
  }
  if (!response.ok) {
    refuse(response.status, {});
  }
  const length = response.headers.get("Upload-Length");
  return length === null || Number(length) === file.size ? Number(response.headers.get("Upload-Offset")) : 0;
}

async function part(path, file, offset, progress, signal) {
  const end = Math.min(offset + PART, file.size);
  const headers = { "Upload-Identity": `${file.size}-${file.lastModified}`, "Content-Type": "application/octet-stream" };
  if (file.size > 0) {
    headers["Content-Range"] = `bytes ${offset}-${end - 1}/${file.size}`;
  }
  const received = await request("PUT", path, file.slice(offset, end), headers, (sent) => progress(offset + sent), signal);
  return received.size;
}

function request(method, path, body, headers, progress, signal) {
  return new Promise((done, failed) => {
    const sent = new XMLHttpRequest();
    let watch = 0;
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => sent.abort(), SILENCE);
    };
    const stop = () => sent.abort();
    const away = () => failed(new Refusal(0, { error: "The connection broke" }));
    sent.open(method, path);
    sent.responseType = "json";
    Object.entries(headers).forEach(([name, value]) => sent.setRequestHeader(name, value));
    sent.upload.addEventListener("progress", (event) => { alive(); progress(event.loaded); });
    sent.addEventListener("error", away);
    sent.addEventListener("abort", () => (signal.aborted ? failed(signal.reason) : away()));
    sent.addEventListener("load", () => {
      try {
        done(sent.status < 300 ? sent.response : refuse(sent.status, sent.response ?? {}));
      } catch (error) {
        failed(error);
      }
    });
    sent.addEventListener("loadend", () => { clearTimeout(watch); signal.removeEventListener("abort", stop); });
    signal.addEventListener("abort", stop);
    alive();
    sent.send(body);
  });
}

function sleep(pause, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, pause);
    signal.addEventListener("abort", () => { clearTimeout(timer); failed(signal.reason); }, { once: true });
  });
}
