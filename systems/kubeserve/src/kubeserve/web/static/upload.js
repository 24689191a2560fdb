// The upload of a version: files are chosen or dropped, sent, and taken up where they stopped.
import { call } from "./api.js";
import { button, element, h, say } from "./dom.js";
import { forget, keep, kept } from "./kept.js";
import { transfer } from "./transfer.js";
import { bytes } from "./words.js";

const BESIDE = ["requirements.txt", "sample.json"];
const MODEL = /\.(joblib|pkl|pickle|skops|onnx)$/i;
const OPEN = ["draft", "receiving"];
const AGAIN = ["rejected", "failed"]; // files that are sent anew are proved anew

export class Upload {
  /** @type {File[]} */ #files = [];
  #sending = false;
  open = false;
  #stop = new AbortController();
  #held = [];
  #again = false;

  /** Of a version; `changed` is called when that has begun to come, and when all is there. @param {string} version @param {() => void} changed */
  constructor(version, changed) {
    this.version = version;
    this.changed = changed;
    const drop = element("drop");
    element("files").addEventListener("change", (event) => {
      this.#choose([...event.target.files]);
      event.target.value = "";
    });
    const over = (event) => {
      if (this.open && !this.#sending) {
        event.preventDefault();
        drop.classList.toggle("over", ["dragenter", "dragover"].includes(event.type));
      }
    };
    ["dragenter", "dragover", "dragleave", "drop"].forEach((name) => window.addEventListener(name, over)); // anywhere
    window.addEventListener("drop", (event) => this.open && this.#choose([...event.dataTransfer.files]));
    element("send").addEventListener("click", () => this.#send());
    this.#goOn();
  }

  /** Follows the version: whether it takes files, and what is there of them. */
  follow(version) {
    const again = AGAIN.includes(version.state);
    this.#again = again;
    this.open = again || OPEN.includes(version.state);
    element("upload").hidden = !this.open && !this.#sending;
    say(element("upload-title"), again ? "Upload all its files again" : "Upload");
    if (again && !this.#sending) {
      say(element("upload-state"), "");
    }
    this.#held = again ? [] : version.files; // what was judged is replaced as a whole
    const part = !again && version.files.find((file) => !file.complete);
    const resume = element("resume");
    resume.hidden = !part || this.#sending || this.#files.length > 0;
    const there = part && `${bytes(part.size)} of ${bytes(part.total ?? part.size)} of ${part.name} are here.`;
    say(resume, there ? `${there} Choose the file again to go on.` : "");
    if (version.state === "deleted") {
      this.#stop.abort();
    }
  }

  async #goOn() {
    const files = await kept(this.version);
    if (files.length && !this.#files.length && !this.#sending) {
      this.#files = files;
      this.#draw();
      await this.#send();
    }
  }

  #choose(files) {
    if (this.#sending) {
      return;
    }
    element("upload-fault").textContent = "";
    for (const file of files) {
      const model = MODEL.test(file.name);
      if (!model && !BESIDE.includes(file.name)) {
        element("upload-fault").textContent = `${file.name} is neither a model nor ${BESIDE.join(" or ")}.`;
        continue;
      }
      this.#files = this.#files.filter((other) => other.name !== file.name && !(model && MODEL.test(other.name)));
      this.#files.push(file);
    }
    this.#draw();
  }

  #draw() {
    const rows = this.#files.map((file) => h("li", {},
      h("div", { class: "what" }, h("strong", {}, file.name), h("span", { class: "hint" }, ` ${bytes(file.size)}`),
        h("progress", { max: Math.max(1, file.size), value: 0, "data-file": file.name, "aria-label": `Sent of ${file.name}` })),
      !this.#sending && button("Remove", file.name, () => {
        this.#files = this.#files.filter((other) => other !== file);
        this.#draw();
      })));
    element("chosen").replaceChildren(...rows);
    element("send").hidden = this.#sending;
    element("send").disabled = !this.#files.some((file) => MODEL.test(file.name));
    element("drop").hidden = this.#sending;
    element("resume").hidden ||= this.#files.length > 0;
  }

  async #send() {
    this.#sending = true;
    element("upload-fault").textContent = "";
    this.#draw();
    keep(this.version, this.#files);
    const anew = this.#again;
    try {
      await this.#removeOthers();
      for (const file of this.#files) {
        await this.#one(file, anew);
      }
      await this.#finish();
      this.#files = [];
      say(element("upload-state"), "All files are there.");
      forget(this.version);
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#sending = false;
      say(element("upload-rate"), "");
      this.#draw();
      this.changed();
    }
  }

  /** Tells why; after a new login it goes on, so then the files are kept. */
  #failed(error) {
    if (error.status !== 401) {
      forget(this.version);
    }
    if (error.name !== "AbortError") {
      element("upload-fault").textContent = error.message;
    }
  }

  /** A version has one model: one that was begun under another name gives way. */
  async #removeOthers() {
    const model = this.#files.find((file) => MODEL.test(file.name));
    for (const held of this.#held.filter((file) => MODEL.test(file.name) && file.name !== model?.name)) {
      await call("DELETE", `/versions/${this.version}/files/${encodeURIComponent(held.name)}`);
    }
  }

  async #one(file, anew) {
    const bar = element("chosen").querySelector(`[data-file="${CSS.escape(file.name)}"]`);
    let began = 0;
    let first = null;
    let come = false;
    await transfer(this.version, file, {
      anew,
      signal: this.#stop.signal,
      progress: (sent) => {
        if (first === null) {
          [first, began] = [sent, performance.now()];
          say(element("upload-state"), `${file.name} is being sent.`);
        } else if (!come) {
          come = true;
          this.changed();
        }
        bar.value = sent;
        const rate = (sent - first) / Math.max(0.001, (performance.now() - began) / 1000);
        const percent = file.size ? Math.floor((100 * sent) / file.size) : 100;
        say(element("upload-rate"), `${percent} % of ${bytes(file.size)}, ${bytes(Math.round(rate))}/s`);
      },
      waiting: (why, pause) => {
        first = null;
        say(element("upload-state"), `${why.replace(/\.$/, "")}; going on in ${Math.ceil(pause / 1000)} s.`);
      },
    });
  }

  /** Says that all is there, as often as it takes. */
  async #finish() {
    for (let pause = 500; ; pause = Math.min(2 * pause, 15_000)) {
      try {
        return await call("POST", `/versions/${this.version}/finish`, {}, 600_000);
      } catch (error) {
        if (error.status !== 0 && error.status < 500) {
          throw error;
        }
        say(element("upload-state"), `${error.message} Going on in ${Math.ceil(pause / 1000)} s.`);
        await new Promise((done) => { setTimeout(done, pause); });
      }
    }
  }
}
