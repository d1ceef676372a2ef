
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const slider = document.getElementById("slider");
const percent = (share) => `${(100 * share).toFixed(2)} %`;

const rows = [...document.querySelectorAll("#counts tbody tr")].map((row) => ({
  set: data.sets[Number(row.dataset.set)],
  rejected: row.querySelector(".rejected"),
  share: row.querySelector(".share"),
  right: row.querySelector(".right"),
}));
const lists = [...document.querySelectorAll("[data-follow]")].map((list) => ({
  set: data.sets[Number(list.closest("[data-set]").dataset.set)],
  rejected: list.dataset.follow === "rejected",
  count: list.querySelector(".count"),
  cards: [...list.querySelectorAll("li")].map((card) => ({ card, p: Number(card.dataset.p) })),
}));
const plots = [...document.querySelectorAll(".plot[data-low]")].map((plot) => {
  const [low, high, origin, inner, outer] = ["low", "high", "origin", "inner", "outer"].map((name) => Number(plot.dataset[name]));
  return { marker: plot.querySelector(".marker"), low, high, at: (value) => (origin + (inner * (value - low)) / (high - low)) / outer };
});

function show(position) {
  const p = data.p_values[position];
  const threshold = data.thresholds && data.thresholds[position];
  document.getElementById("promised").textContent = percent(data.promised[position]);
  slider.setAttribute("aria-valuetext", percent(data.promised[position]));
  document.getElementById("cut").textContent =
    position === 0 ? "Nothing is rejected." : `Rejected: p ≤ ${p.toPrecision(4)}` + (threshold === null ? "." : `, a score below ${threshold.toPrecision(6)}.`);
  for (const { set, rejected, share, right } of rows) {
    const count = set.rejected[position];
    rejected.textContent = count;
    share.textContent = set.images ? percent(count / set.images) : "–";
    if (set.right) right.textContent = count < set.images ? percent(set.right[position] / (set.images - count)) : "–";
  }
  for (const { set, rejected, count, cards } of lists) {
    const all = rejected ? set.rejected[position] : set.images - set.rejected[position];
    let shown = 0;
    for (const { card, p: own } of cards) {
      card.hidden = own <= p !== rejected;
      shown += card.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${all} shown`;
  }
  for (const { marker, low, high, at } of plots) {
    marker.hidden = threshold === null || threshold < low || threshold > high;
    if (!marker.hidden) marker.style.left = `${100 * at(threshold)}%`;
  }
}

slider.addEventListener("input", () => show(Number(slider.value)));
document.getElementById("reset").addEventListener("click", () => {
  slider.value = data.start;
  show(data.start);
});
show(Number(slider.value));
