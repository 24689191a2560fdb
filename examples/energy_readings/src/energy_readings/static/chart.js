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
  const y = scale(widened(range(points.map((each) => each.power_reading))), HEIGHT - EDGE.bottom, EDGE.top);
  grid(svg, width, x, y);
  const devices = [...new Set(points.map((each) => each.device_id))];
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
    `${y.low} to ${y.high}; the newest: ${last.power_reading} by ${last.device_id}`);
}

function range(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function widened([low, high]) {
  const spare = (high - low) / 10 || Math.abs(high) / 10 || 1;
  return [low - spare, high + spare, low, high];
}

function scale([from, to, low = from, high = to], start, end) {
  const at = (value) => (to === from ? (start + end) / 2 : start + ((value - from) / (to - from)) * (end - start));
  return Object.assign(at, { from, to, low, high });
}

function line(svg, points, x, y, number) {
  const places = points.map((each) => `${x(each.time).toFixed(1)},${y(each.power_reading).toFixed(1)}`);
  svg.append(made("polyline", { points: places.join(" "), class: `line device-${number}` }));
  for (const place of places.slice(-100)) {
    const [cx, cy] = place.split(",");
    svg.append(made("circle", { cx, cy, r: 3, class: `dot device-${number}` }));
  }
}

function grid(svg, width, x, y) {
  for (const step of [0, 0.25, 0.5, 0.75, 1]) {
    const value = y.from + (y.to - y.from) * step;
    const height = y(value);
    svg.append(made("line", { x1: EDGE.left, x2: width - EDGE.right, y1: height, y2: height, class: "grid" }));
    svg.append(text(EDGE.left - 8, height + 4, short(value, y.to - y.from), "end"));
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

function short(value, span) {
  const size = Math.max(Math.abs(value), span);
  if (size >= 1e6 || size < 1e-2) {
    return value.toExponential(1);
  }
  return value.toLocaleString([], { maximumFractionDigits: span >= 20 ? 0 : span >= 1 ? 1 : 3 });
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
