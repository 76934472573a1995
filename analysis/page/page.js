"use strict";
// What the page holds is packed: base64 of gzip, unpacked when it is wanted.
let data, palette;
const colours = [];

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

function element(name, text, look) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (look) made.className = look;
  return made;
}

function button(text, look, act) {
  const made = element("button", text, look);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

const narrow = () => document.documentElement.clientWidth < 700;
const say = (text) => {
  document.getElementById("said").textContent = text;
};
const digits = (value) => (value === null || !Number.isFinite(value) ? "-" : String(Number(value.toPrecision(4))));

// Details of points, a chunk of them at a time; pictures, cut out of their strips.

const details = new Map(),
  strips = new Map();

async function point(i) {
  const chunk = Math.floor(i / data.chunk);
  if (!details.has(chunk))
    details.set(chunk, unpack(document.querySelectorAll("script.details")[chunk].textContent).then(JSON.parse));
  return (await details.get(chunk))[i % data.chunk];
}

const pictured = (i, kind) => (data.pictures[i] || {})[kind];

async function strip(number) {
  if (!strips.has(number)) {
    const whole = new Image();
    whole.src = "data:image/webp;base64," + document.querySelectorAll("script.strip")[number].textContent;
    strips.set(
      number,
      whole.decode().then(() => whole),
    );
  }
  return strips.get(number);
}

function image(i, kind) {
  const made = element("img"),
    [number, top, width, height] = pictured(i, kind);
  made.alt = `${data.kinds[kind]}, of ${data.model.names[data.model.codes[i]]} ${data.trial[i]}`;
  made.width = width;
  made.height = height;
  strip(number).then((whole) => {
    const cut = element("canvas");
    [cut.width, cut.height] = [width, height];
    cut.getContext("2d").drawImage(whole, 0, top, width, height, 0, 0, width, height);
    made.src = cut.toDataURL();
  });
  return made;
}

// Colours: the system's, or the reader's choice, which the browser keeps where it may.

const themes = ["as the system", "light", "dark"];
const kept = {
  get: () => {
    try {
      return localStorage.getItem("gimtune-colours");
    } catch {
      return null;
    }
  },
  set: (value) => {
    try {
      localStorage.setItem("gimtune-colours", value);
    } catch {
      /* not kept */
    }
  },
};

function paint(theme) {
  const chosen = themes.includes(theme) ? theme : themes[0];
  if (chosen === themes[0]) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  document.getElementById("theme").textContent = "colours: " + chosen;
  const style = getComputedStyle(document.documentElement),
    of = (name) => style.getPropertyValue(name).trim();
  palette = {
    ink: of("--ink"),
    quiet: of("--quiet"),
    line: of("--line"),
    paper: of("--sheet"),
    dark: of("--dark") === "1",
  };
  for (const act of colours) act();
}

document.getElementById("theme").addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || themes[0]) + 1) % themes.length];
  kept.set(next);
  paint(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint(kept.get()));
paint(kept.get());

// Tables sort by a click on a head: numbers by value, text by itself, what is missing last.

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[column];
        return { row, number: "key" in cell.dataset ? Number(cell.dataset.key) : NaN, text: cell.textContent };
      });
      const missing = (entry) => Number.isNaN(entry.number) && entry.text === "-";
      keyed.sort(
        (a, b) =>
          missing(a) - missing(b) ||
          (up ? 1 : -1) *
            (Number.isNaN(a.number) || Number.isNaN(b.number) ? a.text.localeCompare(b.text) : a.number - b.number),
      );
      body.append(...keyed.map((entry) => entry.row));
    }),
  );
}

// Plotly is a script of its own, which the page's policy names by its digest.

async function start() {
  const script = element("script", await unpack(document.getElementById("plotly").textContent));
  document.head.append(script);
  data = JSON.parse(await unpack(document.getElementById("data").textContent));
  choose();
  drawAll();
  members();
  document.documentElement.dataset.ready = "yes";
}
addEventListener("DOMContentLoaded", start);
