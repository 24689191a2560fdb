// A line for each device, drawn as SVG: time to the right, power upwards.
import { inUnit, range, scale, ticks } from "/numbers.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 260;
const EDGE = { top: 28, right: 16, bottom: 28, gap: 8 };
const DOT = 24; // pixels of the width for each; denser ones would hide the dashes
const DAY_AND_TIME = 280; // pixels that two of them need

// Draws readings, the newest of them first; `look` gives the classes of a device.
export function draw(svg, readings, unit, look) {
  const width = Math.max(280, svg.clientWidth);
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.replaceChildren();
  if (!readings.length) {
    svg.setAttribute("aria-label", "No readings");
    svg.append(text(width / 2, HEIGHT / 2, "No readings", "middle"));
    return;
  }
  const points = readings.map((each) => ({ ...each, time: Date.parse(each.timestamp) })).reverse();
  const powers = range(points.map((each) => each.power_reading));
  const { y, left } = rows(svg, width, powers, unit);
  const x = scale(range(points.map((each) => each.time)), left, width - EDGE.right);
  times(svg, width, x);
  const devices = Map.groupBy(points, (each) => each.device_id);
  for (const [device, its] of devices) {
    svg.append(line(device, its, x, y, look(device)));
  }
  const last = points[points.length - 1];
  const from = new Date(points[0].time).toLocaleString();
  svg.setAttribute("aria-label", `${points.length} readings of ${devices.size} devices since ${from}, power from ` +
    `${powers[0]} to ${powers[1]} ${unit}; the newest: ${last.power_reading} ${unit} by ${last.device_id}`);
}

// The sample of a device's line, for the legend.
export function sample(classes) {
  const svg = made("svg", { viewBox: "0 0 32 8", class: `sample ${classes}`, "aria-hidden": "true" });
  svg.append(made("line", { x1: 1, x2: 31, y1: 4, y2: 4, class: "line" }));
  return svg;
}

function line(device, points, x, y, classes) {
  const places = points.map((each) => [x(each.time).toFixed(1), y(each.power_reading).toFixed(1)]);
  const group = made("g", { class: classes });
  const title = made("title", {});
  title.textContent = device;
  group.append(title, made("polyline", { points: places.map(String).join(" "), class: "line" }));
  if (places.length === 1 || places.length * DOT <= x.room) {
    group.append(...places.map(([cx, cy]) => made("circle", { cx, cy, r: 2.5, class: "dot" })));
  }
  return group;
}

// The grid and its labels, for which it makes as much room on the left as they need.
function rows(svg, width, powers, unit) {
  const { step, values } = ticks(powers);
  const y = scale([values[0], values[values.length - 1]], HEIGHT - EDGE.bottom, EDGE.top);
  const written = inUnit(Math.max(...values.map(Math.abs)), unit);
  const labels = values.map((value) => text(0, y(value) + 4, written.write(value, step), "end"));
  svg.append(text(0, 14, written.unit, "start"), ...labels);
  const end = Math.ceil(Math.max(...labels.map((label) => label.getComputedTextLength())));
  labels.forEach((label) => label.setAttribute("x", end));
  const left = end + EDGE.gap;
  const grid = (value) => made("line", { x1: left, x2: width - EDGE.right, y1: y(value), y2: y(value), class: "grid" });
  svg.append(...values.map(grid));
  return { y, left };
}

function times(svg, width, x) {
  const places = x.from === x.to ? [[x.from, "middle"]] : [[x.from, "start"], [x.to, "end"]];
  if (x.from !== x.to && width > 480) {
    places.push([(x.from + x.to) / 2, "middle"]);
  }
  const days = new Date(x.from).toDateString() !== new Date(x.to).toDateString();
  const clock = x.room >= DAY_AND_TIME ? { hour: "2-digit", minute: "2-digit" } : {};
  for (const [time, anchor] of places) {
    const when = new Date(time);
    const label = days
      ? when.toLocaleString([], { day: "numeric", month: "short", ...clock })
      : when.toLocaleTimeString();
    svg.append(text(x(time), HEIGHT - 8, label, anchor));
  }
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
