// Numbers of any size for people: with an SI prefix, or a power of ten where there is none.
const PREFIXES = "qryzafpnµm kMGTPEZYRQ";
const NONE = PREFIXES.indexOf(" ");
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

// Gives how to write values up to that size: `unit`, such as kW, and `write`, which takes a value and a step that has to show.
export function inUnit(largest, unit) {
  const [, prefix, base] = unit.match(/^([mkMGT]?)(.+)$/);
  const power = largest ? 3 * Math.floor(Math.log10(largest) / 3) : 0;
  const name = PREFIXES[PREFIXES.indexOf(prefix || " ") + power / 3];
  const write = (value, step) => {
    const digits = Math.min(20, Math.max(0, power - Math.floor(Math.log10(step))));
    const number = value / 10 ** power;
    return number.toLocaleString([], { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  return { unit: name ? name.trim() + base : `×10${raised(power)} ${unit}`, write };
}

function raised(power) {
  return (power < 0 ? "⁻" : "") + [...String(Math.abs(power))].map((digit) => RAISED[digit]).join("");
}

// Values for a grid that are easy to read: steps of 1, 2 or 5, with what is shown between the first and the last.
export function ticks([low, high]) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const wanted = high > low ? Math.max(high - low, size / 1e9, 1e-300) : size / 5 || 1;
  const span = Math.min(wanted, Number.MAX_VALUE);
  const unit = 10 ** Math.floor(Math.log10(span / 4));
  const step = unit * ([1, 2, 5].find((factor) => unit * factor * 4 >= span) ?? 10);
  const first = Math.floor(low / step);
  const count = Math.max(1, Math.min(6, Math.ceil(high / step) - first));
  return { step, values: Array.from({ length: count + 1 }, (_, number) => finite((first + number) * step)) };
}

export function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// By halves, for the difference of two numbers may be larger than the largest.
export function scale([from, to], start, end) {
  const part = (value) => (value / 2 - from / 2) / (to / 2 - from / 2);
  const at = (value) => (to === from ? (start + end) / 2 : start + part(value) * (end - start));
  return Object.assign(at, { from, to, room: Math.abs(end - start) });
}

function finite(value) {
  return Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, value));
}
