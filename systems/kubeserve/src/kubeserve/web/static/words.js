// Numbers and times for people.

const UNITS = ["bytes", "KB", "MB", "GB", "TB"];
const STEPS = [["day", 86_400], ["hour", 3600], ["minute", 60]];
const ago = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** A size, such as 3.4 MB. @param {number} count */
export function bytes(count) {
  const power = count < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** power;
  return `${power ? value.toFixed(value < 10 ? 1 : 0) : count} ${UNITS[power]}`;
}

/** A duration, such as 0.42 s. @param {number} count */
export function seconds(count) {
  if (count < 0.01) {
    return "< 0.01 s";
  }
  if (count >= 3600) {
    return `${Math.floor(count / 3600).toLocaleString()} h ${Math.floor((count % 3600) / 60)} min`;
  }
  return count < 60 ? `${count.toFixed(count < 10 ? 2 : 1)} s` : `${Math.floor(count / 60)} min ${Math.floor(count % 60)} s`;
}

/** How long ago a time was. @param {string} time */
export function since(time) {
  const passed = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const step = STEPS.find(([, size]) => passed >= size);
  return step ? ago.format(-Math.floor(passed / step[1]), step[0]) : "just now";
}

/** A time of day; with the date unless it is today's. @param {string} time */
export function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString([], { timeStyle: "short" }) : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}
