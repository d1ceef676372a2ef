
"use strict";
const MOST_CARDS = 50;
const NEIGHBOURS = 4;
const SVG = "http://www.w3.org/2000/svg";
const element = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
let token = "";
let gate = null;

function headers(more) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : { ...more };
}

async function open() {
  const response = await fetch("gate", { headers: headers() });
  element("access").hidden = response.status !== 401;
  if (response.status === 401) {
    element("said").textContent = token ? "This is not the token." : "";
    element("token").focus();
    return;
  }
  const body = await response.json();
  if (!response.ok) throw new Error(body.error);
  gate = body;
  element("about").textContent =
    `${gate.classes.length} classes; images are accepted by their ${gate.score} score, which is expected to reject ` +
    `at most ${percent(gate.false_alarm_rate)} of familiar images.`;
  element("drop").hidden = false;
  element("said").textContent = "";
}

function part(name, attributes, text) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

// The calibration scores as bars, the threshold as a dashed line and the image's own score as a thick one.
function plot(verdict, threshold) {
  const { edges, counts } = gate.calibration;
  const [width, height, foot] = [480, 120, 18];
  const known = [edges[0], edges[edges.length - 1], verdict.score].concat(threshold === null ? [] : [threshold]);
  const reach = edges[edges.length - 1] - edges[0];
  // A score far out must not squeeze everything else.
  const low = Math.max(Math.min(...known), edges[0] - 2 * reach);
  const high = Math.min(Math.max(...known), edges[edges.length - 1] + 2 * reach);
  const at = (score) => 4 + ((width - 8) * (Math.min(Math.max(score, low), high) - low)) / (high - low);
  const most = Math.max(...counts);
  const drawing = part("svg", { viewBox: `0 0 ${width} ${height + foot}`, role: "img" });
  drawing.setAttribute("aria-label", `score ${verdict.score.toPrecision(4)} beside the scores of ${gate.calibration.images} calibration images`);
  counts.forEach((count, i) => {
    const tall = (height * count) / most;
    drawing.append(part("rect", { x: at(edges[i]), y: height - tall, width: Math.max(at(edges[i + 1]) - at(edges[i]) - 0.5, 0.5), height: tall }));
  });
  drawing.append(part("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }));
  if (threshold !== null) drawing.append(part("line", { class: "threshold", x1: at(threshold), x2: at(threshold), y1: 0, y2: height }));
  drawing.append(part("line", { class: "own", x1: at(verdict.score), x2: at(verdict.score), y1: 0, y2: height }));
  drawing.append(part("text", { x: 2, y: height + 13 }, low.toPrecision(3)));
  drawing.append(part("text", { x: width - 2, y: height + 13, "text-anchor": "end" }, `more familiar → ${high.toPrecision(3)}`));
  return drawing;
}

function fact(list, name, text) {
  const [group, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = name;
  value.textContent = text;
  group.append(term, value);
  list.append(group);
}

function card(file) {
  const shown = element("card").content.firstElementChild.cloneNode(true);
  const image = shown.querySelector(".image");
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  image.addEventListener("error", () => { URL.revokeObjectURL(image.src); image.hidden = true; });
  shown.querySelector(".name").textContent = file.name;
  shown.querySelector(".verdict").textContent = "…";
  element("cards").prepend(shown);
  while (element("cards").children.length > MOST_CARDS) element("cards").lastElementChild.remove();
  return shown;
}

function fail(shown, message) {
  shown.classList.add("broken");
  shown.querySelector(".verdict").textContent = message;
}

function tell(shown, verdict) {
  shown.classList.add(verdict.accepted ? "accepted" : "rejected");
  shown.querySelector(".verdict").textContent = verdict.accepted ? `Accepted: ${verdict.label}` : "Rejected: unlike the training images";
  const facts = shown.querySelector(".facts");
  fact(facts, verdict.accepted ? "Label" : "Label, if it had to be one", verdict.label);
  fact(facts, "Probability", percent(verdict.probability));
  fact(facts, `Score (${gate.score})`, verdict.score.toPrecision(5));
  fact(facts, "p-value", verdict.p_value.toPrecision(3));
  const threshold = gate.by_class ? gate.thresholds[gate.classes.indexOf(verdict.label)] : gate.thresholds[0];
  shown.querySelector("figure").hidden = false;
  shown.querySelector(".plot").append(plot(verdict, threshold));
  shown.querySelector("figcaption").textContent =
    `Scores of ${gate.calibration.images} calibration images; dashed: the threshold${gate.by_class ? " of this label" : ""}; thick: this image.`;
  if (!verdict.neighbours || !verdict.neighbours.length) return;
  shown.querySelector(".near").hidden = false;
  for (const near of verdict.neighbours) {
    const [item, image] = ["li", "img"].map((tag) => document.createElement(tag));
    image.src = near.thumbnail;
    image.alt = "";
    image.title = near.id;
    item.append(image, `${near.label}, cosine ${near.cosine.toFixed(2)}`);
    shown.querySelector(".near ul").append(item);
  }
}

async function judge(file) {
  const shown = card(file);
  if (file.size > gate.limits.max_bytes) return fail(shown, `The file has more than ${gate.limits.max_bytes} bytes.`);
  try {
    const kind = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    const place = gate.neighbours ? `verdicts?neighbours=${NEIGHBOURS}` : "verdicts";
    const response = await fetch(place, { method: "POST", body: file, headers: headers({ "Content-Type": kind }) });
    const body = await response.json();
    if (!response.ok) return fail(shown, `No verdict: ${body.error}`);
    if (body.gate !== gate.gate) await open();
    tell(shown, body.verdicts[0]);
  } catch (error) {
    fail(shown, `No verdict: ${error.message}`);
  }
}

async function judgeAll(files) {
  const all = [...files];
  let done = 0;
  for (const file of all) {
    element("said").textContent = `Judging ${file.name} …`;
    await judge(file);
    done += 1;
  }
  const first = element("cards").firstElementChild;
  element("said").textContent = done === 1 ? first.querySelector(".verdict").textContent : `${done} images judged.`;
}

const drop = element("drop");
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
// A file that misses the field must not replace the page.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
drop.addEventListener("drop", (event) => judgeAll(event.dataTransfer.files));
element("files").addEventListener("change", (event) => { judgeAll(event.target.files); });
element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = element("token").value.trim();
  start();
});

function start() {
  open().catch((error) => { element("said").textContent = `The server does not answer: ${error.message}`; });
}
start();
