"use strict";
document.documentElement.classList.add("scripted");

// Theme: the system's, until the button is used. Nothing is stored: a sandboxed frame may not.
const theme = document.querySelector(".theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// Tables: numbers first large to small, words from A on; what has no value stays last.
function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  return order * direction;
}
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const body = table.tBodies[0];
      const rows = [...body.rows];
      const key = (row) => row.cells[column].dataset.value;
      const words = rows.some((row) => key(row) !== "" && Number.isNaN(Number(key(row))));
      const before = head.ariaSort;
      const ascending = before === "none" ? words : before === "descending";
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = ascending ? "ascending" : "descending";
      rows.sort((a, b) => compare(key(a), key(b), ascending ? 1 : -1));
      body.append(...rows);
    });
  });
}

// Samples.
const SVG = document.querySelector("svg").namespaceURI;
function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function cells(tokens, columns) {
  return tokens.map((t) => `M${t % columns} ${Math.floor(t / columns)}h1v1h-1z`).join("");
}
function edges(alive, rows, columns) {
  const on = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && alive[y * columns + x];
  let path = "";
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!on(x, y)) continue;
      if (!on(x - 1, y)) path += `M${x} ${y}v1`;
      if (!on(x + 1, y)) path += `M${x + 1} ${y}v1`;
      if (!on(x, y - 1)) path += `M${x} ${y}h1`;
      if (!on(x, y + 1)) path += `M${x} ${y + 1}h1`;
    }
  }
  return path;
}
function mark(score) {
  return score >= 1 ? "✓" : score <= 0 ? "✗" : `(${score.toFixed(2)})`;
}
function verdict(score) {
  return score >= 1 ? "✓ right" : score <= 0 ? "✗ wrong" : `score ${score.toFixed(2)}`;
}
for (const viewer of document.querySelectorAll(".viewer")) {
  const samples = JSON.parse(viewer.querySelector("script").textContent);
  const at = (name) => viewer.querySelector(name);
  const slider = at("input");
  const select = at(".strategy");
  const say = (name, text) => { at(name).textContent = text; };
  let current = 0;
  let wanted = viewer.dataset.first;
  let moved = false;

  function draw() {
    const sample = samples[current];
    const strategy = sample.strategies[select.value];
    const layer = Number(slider.value);
    const alive = strategy.last.map((last) => last >= layer);
    const gone = [...alive.keys()].filter((token) => !alive[token]);
    const { rows, columns } = sample;
    const [width, height] = sample.size;
    const image = shape("use", { href: sample.image, width, height });
    const small = width < 300 ? "small-image" : "";
    const count = sample.tokens - gone.length;
    const label = `${count} of ${sample.tokens} vision tokens alive at layer ${layer}`;
    const box = { viewBox: `0 0 ${width} ${height}`, role: "img", class: small };
    const veil = shape("path", { class: "veil", d: cells(gone, columns) });
    const edge = shape("path", { class: "edge", d: edges(alive, rows, columns) });
    const picture = at(".picture");
    if (sample.overlaid) {
      const scale = `scale(${width / columns} ${height / rows})`;
      const over = shape("g", { transform: scale }, veil, edge);
      picture.replaceChildren(shape("svg", { ...box, "aria-label": label, "data-lit": count }, image, over));
    } else {
      const all = shape("path", { class: "cells", d: cells([...alive.keys()], columns) });
      const strip = { viewBox: `0 0 ${columns} ${rows}`, class: "strip", role: "img", "aria-label": label };
      const note = document.createElement("p");
      note.className = "note";
      note.textContent = "These tokens come from several tiles of the image: one cell each, in reading order.";
      picture.replaceChildren(
        shape("svg", { ...box, "aria-label": "the image" }, image),
        shape("svg", { ...strip, "data-lit": count }, all, veil), note);
    }
    const lines = Object.entries(sample.strategies).map(([name, one]) => {
      const row = document.createElement("tr");
      row.append(document.createElement("th"), document.createElement("td"), document.createElement("td"));
      row.cells[0].scope = "row";
      row.cells[0].textContent = name;
      row.cells[1].textContent = one.last.filter((last) => last >= layer).length;
      row.cells[2].textContent = `${one.answer} ${mark(one.score)}`;
      return row;
    });
    at("tbody").replaceChildren(...lines);
    say(".heading", `tokens at layer ${layer}`);
    say(".layer", `layer ${layer}`);
    slider.ariaValueText = `layer ${layer}, ${count} tokens`;
    say(".kept", `${count} of ${sample.tokens} (${Math.round((100 * count) / sample.tokens)} %)`);
    say(".answer", strategy.answer);
    say(".verdict", verdict(strategy.score));
    at(".verdict").className = `verdict ${strategy.score >= 1 ? "better" : "worse"}`;
  }

  function open(number) {
    current = (number + samples.length) % samples.length;
    const sample = samples[current];
    const names = Object.keys(sample.strategies);
    select.replaceChildren(...names.map((name) => {
      return new Option(`${name} ${mark(sample.strategies[name].score)}`, name);
    }));
    select.value = names.includes(wanted) ? wanted : names[0];
    const { layers, last } = sample.strategies[select.value];
    slider.max = layers;
    if (!moved) slider.value = Math.min(...last, layers - 1) + 1; // the first layer that lacks tokens
    say(".which", `sample ${current + 1} of ${samples.length} (${sample.task} ${sample.document})`);
    say(".question", sample.question);
    say(".target", sample.target);
    draw();
  }

  at(".previous").addEventListener("click", () => open(current - 1));
  at(".next").addEventListener("click", () => open(current + 1));
  slider.addEventListener("input", () => { moved = true; draw(); });
  select.addEventListener("change", () => { wanted = select.value; draw(); });
  open(0);
}
