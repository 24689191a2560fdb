// Follows what changes.
import { element, say } from "./dom.js";

/**
 * Calls `look` now and then every `every` milliseconds while the page is seen. What goes wrong is told at the top, and
 * goes away by itself; 404 ends it, and false from `look`. Returns a function that looks at once.
 * @param {() => Promise<any>} look @param {number} every
 */
export function follow(look, every) {
  let timer = 0;
  let running = false;
  let again = false;
  async function now() {
    clearTimeout(timer);
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    const goesOn = await attempt(look);
    running = false;
    if (goesOn && !document.hidden) {
      timer = setTimeout(now, again ? 0 : every);
    }
  }
  document.addEventListener("visibilitychange", () => document.hidden || now());
  now();
  return now;
}

async function attempt(look) {
  try {
    const goesOn = (await look()) !== false;
    tell("");
    return goesOn;
  } catch (error) {
    if (error.status === 404) {
      gone(error.message);
      return false;
    }
    if (error.status === undefined) {
      throw error;
    }
    tell(`Not live: ${error.message}`);
    return true;
  }
}

/** Says at the top why what is shown does not follow. @param {string} text */
function tell(text) {
  say(element("live"), text);
  element("live").hidden = text === "";
}

/** Says that what the page is about is not there. @param {string} message */
export function gone(message) {
  const title = document.createElement("h1");
  title.textContent = "Not here";
  const text = document.createElement("p");
  text.className = "lead";
  text.textContent = `${message.charAt(0).toUpperCase()}${message.slice(1)}.`;
  element("main").replaceChildren(title, text);
}

/**
 * Follows server-sent events, connecting again however often; `ended` after the event `end`. Returns how to stop.
 * @param {string} url @param {string} name of the events @param {(data: any) => void} take @param {(data: any) => void} [ended]
 */
export function stream(url, name, take, ended = () => {}) {
  let source;
  let timer = 0;
  let pause = 500;
  function connect() {
    source = new EventSource(url);
    source.addEventListener("open", () => tell(""));
    source.addEventListener(name, (event) => {
      pause = 500;
      take(JSON.parse(event.data));
    });
    source.addEventListener("end", (event) => {
      source.close();
      ended(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      source.close();
      timer = setTimeout(connect, pause);
      pause > 500 && tell("Not live: the server does not answer. It is tried again.");
      pause = Math.min(2 * pause, 10_000);
    });
  }
  connect();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}
