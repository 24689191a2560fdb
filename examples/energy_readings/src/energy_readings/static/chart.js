// A line for each device, drawn as SVG: time to the right, power upwards.
const SVG = "http://www.w3.org/2000/svg";
const MOST_DEVICES = 6;
const HEIGHT = 240;
const EDGE = { top: 12, right: 16, bottom: 28, left: 64 };

export function draw(svg, legend, readings) {
  const width = Math.max(280, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren();
  legend.replaceChildren();
  if (!readings.length) {
    svg.setAttribute("aria-label", "No readings yet");
    svg.append(text(width / 2, HEIGHT / 2, "No readings yet", "middle"));
    return;
  }
  const points = readings.map((each) => ({ ...each, time: Date.parse(each.timestamp) })).reverse();
  const x = scale(range(points.map((each) => each.time)), EDGE.left, width - EDGE.right);
  const powers = range(points.map((each) => each.power_reading));
  const ticks = round(powers);
  const y = scale([ticks[0], ticks[ticks.length - 1]], HEIGHT - EDGE.bottom, EDGE.top);
  grid(svg, width, x, y, ticks);
  const devices = [...new Set(points.map((each) => each.device_id))].sort();
  devices.slice(0, MOST_DEVICES).forEach((device, number) => {
    line(svg, points.filter((each) => each.device_id === device), x, y, number);
    const name = document.createElement("span");
    name.className = `device device-${number}`;
    name.textContent = device;
    legend.append(name);
  });
  if (devices.length > MOST_DEVICES) {
    legend.append(`and ${devices.length - MOST_DEVICES} more in the table`);
  }
  const last = points[points.length - 1];
  const from = new Date(points[0].time).toLocaleString();
  svg.setAttribute("aria-label", `${points.length} readings of ${devices.length} devices since ${from}, power from ` +
    `${powers[0]} to ${powers[1]}; the newest: ${last.power_reading} by ${last.device_id}`);
}

function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// Values for the grid that are easy to read: steps of 1, 2 or 5, with what is shown between the first and the last.
function round([low, high]) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const wanted = high > low ? Math.max(high - low, size / 1e9, 1e-300) : size / 5 || 1;
  const span = Math.min(wanted, Number.MAX_VALUE);
  const unit = 10 ** Math.floor(Math.log10(span / 4));
  const step = unit * ([1, 2, 5].find((factor) => unit * factor * 4 >= span) ?? 10);
  const first = Math.floor(low / step);
  const count = Math.max(1, Math.min(6, Math.ceil(high / step) - first));
  return Array.from({ length: count + 1 }, (_, number) => finite((first + number) * step));
}

function finite(value) {
  return Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, value));
}

// By halves, for the difference of two numbers may be larger than the largest.
function scale([from, to], start, end) {
  const part = (value) => (value / 2 - from / 2) / (to / 2 - from / 2);
  const at = (value) => (to === from ? (start + end) / 2 : start + part(value) * (end - start));
  return Object.assign(at, { from, to });
}

function line(svg, points, x, y, number) {
  const places = points.map((each) => `${x(each.time).toFixed(1)},${y(each.power_reading).toFixed(1)}`);
  svg.append(made("polyline", { points: places.join(" "), class: `line device-${number}` }));
  for (const place of places.slice(-100)) {
    const [cx, cy] = place.split(",");
    svg.append(made("circle", { cx, cy, r: 3, class: `dot device-${number}` }));
  }
}

function grid(svg, width, x, y, ticks) {
  for (const value of ticks) {
    const height = y(value);
    svg.append(made("line", { x1: EDGE.left, x2: width - EDGE.right, y1: height, y2: height, class: "grid" }));
    svg.append(text(EDGE.left - 8, height + 4, short(value, ticks[1] - ticks[0]), "end"));
  }
  const places = x.from === x.to ? [[x.from, "middle"]] : [[x.from, "start"], [x.to, "end"]];
  if (x.from !== x.to && width > 480) {
    places.push([(x.from + x.to) / 2, "middle"]);
  }
  const days = new Date(x.from).toDateString() !== new Date(x.to).toDateString();
  for (const [time, anchor] of places) {
    const when = new Date(time);
    const label = days
      ? when.toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" })
      : when.toLocaleTimeString();
    svg.append(text(x(time), HEIGHT - 8, label, anchor));
  }
}

function short(value, step) {
  const size = Math.abs(value);
  if (size >= 1e6 || step < 1e-3) {
    return value === 0 ? "0" : value.toExponential(2);
  }
  return value.toLocaleString([], { maximumFractionDigits: Math.max(0, -Math.floor(Math.log10(step))) });
}

function text(x, y, content, anchor) {
  const label = made("text", { x, y, "text-anchor": anchor });
  label.textContent = content;
  return label;
}

function made(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    node.setAttribute(key, value);
  }
  return node;
}
