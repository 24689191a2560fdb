// The devices of a site: how each of them looks, and which of them are drawn.
import { sample } from "/chart.js";

const COLOURS = 8;
const DASHES = 4;

export class Legend {
  #list;
  #changed;
  #looks = new Map();
  #buttons = new Map();
  #chosen = new Set();

  // Lists devices in `list`; `changed` is called when a person chooses.
  constructor(list, changed) {
    this.#list = list;
    this.#changed = changed;
  }

  // Gives the classes of a device: 8 colours, and 4 dashes of each. A device keeps its own while the site is shown.
  look = (device) => this.#looks.get(device);

  // Says whether a device is drawn: all of them are until some are chosen.
  draws = (device) => this.#chosen.size === 0 || this.#chosen.has(device);

  // Lists these devices, beside those which it knows and may come again.
  show(devices) {
    for (const device of devices) {
      if (!this.#looks.has(device)) {
        const number = this.#looks.size;
        this.#looks.set(device, `colour-${number % COLOURS} dash-${Math.floor(number / COLOURS) % DASHES}`);
        this.#buttons.set(device, this.#button(device));
      }
    }
    for (const chosen of [...this.#chosen].filter((device) => !devices.includes(device))) {
      this.#chosen.delete(chosen);
    }
    const buttons = devices.map((device) => this.#buttons.get(device));
    if (buttons.length !== this.#list.children.length || buttons.some((each, at) => each !== this.#list.children[at])) {
      this.#list.replaceChildren(...buttons);
    }
    this.#mark();
  }

  // Forgets them: another site is shown.
  clear() {
    this.#looks.clear();
    this.#buttons.clear();
    this.#chosen.clear();
  }

  #button(device) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "device";
    button.append(sample(this.look(device)), device);
    button.addEventListener("click", () => {
      this.#chosen.delete(device) || this.#chosen.add(device);
      this.#mark();
      this.#changed();
    });
    return button;
  }

  #mark() {
    for (const [device, button] of this.#buttons) {
      button.setAttribute("aria-pressed", this.#chosen.has(device));
      button.classList.toggle("away", !this.draws(device));
    }
  }
}
