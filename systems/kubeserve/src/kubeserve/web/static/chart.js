// Small charts in SVG: time to the right, from 0 upwards. A point is `at` a time and has a `value`, null where there is none.
import { when } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 132;
const EDGE = { top: 8, right: 1, bottom: 22, left: 40 };
const NICE = [1, 2, 5, 10];

/** Draws a bar for each point, of which `bad` is a part. Returns what is in the SVG. */
export function bars(svg, points, write) {
  const chart = new Chart(svg, points, write);
  const nodes = points.flatMap(({ at, value, bad }, place) => {
    const text = `${when(new Date(at).toISOString())}: ${write(value)}${bad ? `, ${write(bad)} of them errors` : ""}`;
    return value ? [chart.bar(place, value, "bar", text), ...(bad ? [chart.bar(place, bad, "bar bad", text)] : [])] : [];
  });
  chart.name(points.some(({ bad }) => bad) ? "some of them errors" : "");
  return chart.with(nodes);
}

/** Draws what is under a line; a gap where there is no value. `most` is the top of the scale. */
export function area(svg, points, write, most = 0) {
  const chart = new Chart(svg, points, write, most);
  const runs = [[]];
  points.forEach(({ value }, place) => (value === null ? runs.push([]) : runs.at(-1).push([place, value])));
  chart.name("");
  svg.replaceChildren(...chart.with(runs.filter((run) => run.length).flatMap((run) => chart.run(run))));
}

class Chart {
  constructor(svg, points, write, most = 0) {
    this.svg = svg;
    this.points = points;
    this.write = write;
    this.width = Math.max(160, svg.clientWidth);
    this.greatest = Math.max(0, ...points.map(({ value }) => value ?? 0));
    this.most = most || nice(this.greatest);
    this.room = (this.width - EDGE.left - EDGE.right) / points.length;
    svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
  }

  x(place) {
    return EDGE.left + place * this.room;
  }

  y(value) {
    return HEIGHT - EDGE.bottom - (value / this.most) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  bar(place, value, look, text) {
    const gap = this.room > 4 ? 1 : 0;
    const high = Math.max(1, this.y(0) - this.y(value));
    const node = made("rect", { x: this.x(place), y: this.y(0) - high, width: this.room - gap, height: high, class: look });
    node.append(made("title", {}, text));
    return node;
  }

  /** A line through values that follow each other, and what is below. */
  run(values) {
    const line = values.flatMap(([place, value]) => [[this.x(place), this.y(value)], [this.x(place + 1), this.y(value)]]);
    const [first, last] = [line[0][0], line.at(-1)[0]];
    const below = [[first, this.y(0)], ...line, [last, this.y(0)]];
    return [made("polygon", { points: below.map(String).join(" "), class: "below" }),
      made("polyline", { points: line.map(String).join(" "), class: "line" })];
  }

  /** What a screen reader says. */
  name(more) {
    const title = this.svg.previousElementSibling.textContent;
    const last = this.points.at(-1)?.value;
    const now = last === null || last === undefined ? "none" : this.write(last);
    const parts = [`at most ${this.write(this.greatest)}`, `now ${now}`, more].filter(Boolean);
    this.svg.setAttribute("aria-label", `${title}: ${parts.join(", ")}`);
  }

  /** The grid and its labels, below the nodes. */
  with(nodes) {
    const [left, right] = [EDGE.left, this.width - EDGE.right];
    const rows = [0, this.most / 2, this.most].flatMap((value) => [
      made("line", { x1: left, x2: right, y1: this.y(value), y2: this.y(value), class: value ? "grid" : "ground" }),
      made("text", { x: left - 6, y: this.y(value) + 4, "text-anchor": "end" }, this.write(value)),
    ]);
    const ends = [[left, "start", this.points[0]], [right, "end", this.points.at(-1)]].filter(([, , point]) => point);
    const times = ends.map(([x, anchor, { at }]) => made("text", { x, y: HEIGHT - 5, "text-anchor": anchor }, when(new Date(at).toISOString())));
    return [...rows, ...nodes, ...times];
  }
}

/** The next of 1, 2, 5, 10, 20 … that is not below. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return NICE.map((step) => step * power).find((step) => step >= value);
}

function made(name, attributes, text = "") {
  const node = document.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
  node.textContent = text;
  return node;
}
