// What is amiss on a page: labels, names, contrast, room. The body of a function, for a browser of the tests.
const found = [];
const shown = (each) => each.getClientRects().length && getComputedStyle(each).visibility !== "hidden";
const told = (each) => (each.getAttribute("aria-label") || each.textContent || each.title || "").trim();
for (const each of document.querySelectorAll("input, select, textarea"))
  if (shown(each) && !(each.labels.length && each.labels[0].textContent.trim())) found.push("no label: " + each.outerHTML);
for (const each of document.querySelectorAll("a, button, summary"))
  if (shown(each) && !told(each) && !each.querySelector("img[alt]")) found.push("no name: " + each.outerHTML);
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push("twice: " + id);
for (const each of document.querySelectorAll("[aria-describedby], [aria-labelledby]"))
  for (const id of ["aria-describedby", "aria-labelledby"].flatMap((name) => (each.getAttribute(name) ?? "").split(/\s+/)))
    if (id && !ids.includes(id)) found.push("names nothing: " + id);
if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
if (document.documentElement.scrollWidth > document.documentElement.clientWidth) found.push("wider than the screen");
const part = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
const over = (above, below) => { const [r, g, b, a = 1] = above; return [r, g, b].map((v, i) => a * v + (1 - a) * below[i]); };
const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (each) => { const own = part(getComputedStyle(each).backgroundColor);
  return each.parentElement ? ((own[3] ?? 1) === 1 ? own : over(own, ground(each.parentElement))) : own; };
for (const each of document.querySelectorAll("body *:not(svg *)")) {
  const text = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!text || !shown(each) || each.closest(":disabled, option, noscript, .unseen, .skip")) continue;
  const [ink, paper] = [part(getComputedStyle(each).color), ground(each)];
  const [high, low] = [light(over(ink, paper)), light(paper)].sort((a, b) => b - a);
  const faded = [...function* () { for (let at = each; at; at = at.parentElement) yield Number(getComputedStyle(at).opacity); }()].reduce((a, b) => a * b);
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${each.outerHTML.slice(0, 200)}`);
  if (faded < 0.7) found.push(`faded ${faded}: ${each.outerHTML.slice(0, 200)}`);
}
return found;
