"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const pinned = new Map();

function element(name, text, look) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (look) made.className = look;
  return made;
}

// Tables sort by a click on a head: numbers by value, text by itself, what is missing last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return { row, number: "key" in cell.dataset ? Number(cell.dataset.key) : NaN, text: cell.textContent };
    });
    const missing = (entry) => Number.isNaN(entry.number) && entry.text === "-";
    keyed.sort((a, b) => missing(a) - missing(b) || (up ? 1 : -1) * (
      Number.isNaN(a.number) || Number.isNaN(b.number) ? a.text.localeCompare(b.text) : a.number - b.number));
    body.append(...keyed.map((entry) => entry.row));
  }));
}

// The chart

const narrow = () => document.documentElement.clientWidth < 700;

function draw(id, figure) {
  const chart = document.getElementById(id);
  if (!chart) return chart;
  const legend = narrow()
    ? { orientation: "h", y: -0.14, yanchor: "top", x: 0, font: { size: 11 }, entrywidth: 82 }
    : { orientation: "v", y: 1, yanchor: "auto", x: 1.02, font: { size: 12 }, tracegroupgap: 2 };
  figure.layout.legend = { ...figure.layout.legend, ...legend };
  figure.layout.dragmode = narrow() ? false : "zoom";
  figure.layout.width = chart.clientWidth;
  figure.layout.height = chart.clientHeight;
  for (const axis of [figure.layout.xaxis, figure.layout.yaxis]) {
    axis.automargin = true;
    axis.title.font = { size: narrow() ? 11 : 13 };
  }
  Plotly.react(chart, figure.data, figure.layout, { displaylogo: false,
    displayModeBar: narrow() ? false : "hover", modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
  return chart;
}

const rings = { x: [], y: [], mode: "markers", hoverinfo: "skip", showlegend: false,
  marker: { size: 20, symbol: "circle-open", color: "#d6006c", line: { width: 2.5 } } };
data.front.data.push(rings);
const chart = draw("front", data.front);
draw("difference", data.difference);
let width = chart.clientWidth;
new ResizeObserver(() => {
  if (chart.clientWidth === width || chart.clientWidth < 200) return;
  width = chart.clientWidth;
  draw("front", data.front);
  draw("difference", data.difference);
}).observe(chart);

// Where a trial stands in the chart, in data units.
const places = new Map();
data.front.data.forEach((trace, curve) => (trace.customdata || []).forEach((id, i) => places.set(String(id), [curve, i])));
const place = (id, axis) => {
  const [curve, i] = places.get(id);
  return chart._fullData[curve][axis][i];
};

// Hover

const hover = document.getElementById("hover");

function metrics(point) {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const word of ["", "validation", "test"]) head.append(element("th", word, "number"));
  for (const [key, value, test, doubt] of point.metrics) {
    const row = table.insertRow();
    row.append(element("td", key), element("td", value, "number" + (doubt ? " doubt" : "")),
      element("td", test, "number" + (doubt ? " doubt" : "")));
  }
  return table;
}

function marks(point, where) {
  for (const word of point.marks) where.append(" ", element("span", word, "mark " + word));
}

function image(source, what, point) {
  const made = element("img");
  made.src = source;
  made.alt = `${what} of ${point.model} ${point.trial}`;
  return made;
}

chart.on("plotly_hover", (event) => {
  const point = data.points[event.points[0].customdata];
  if (!point) return;
  hover.replaceChildren();
  if (point.samples) hover.append(image(point.samples, "samples", point));
  const title = element("p");
  title.append(element("b", point.model), " " + point.trial);
  marks(point, title);
  hover.append(title, element("p", point.setting.map((pair) => pair.join(" ")).join(", ")), metrics(point));
  const doubts = new Set(point.metrics.map((metric) => metric[3]).filter(Boolean));
  for (const doubt of doubts) hover.append(element("p", doubt, "doubt"));
  if (point.config) hover.append(element("p", point.config.slice(0, 700), "config"));
  hover.hidden = false;
  const box = hover.getBoundingClientRect(), from = event.event;
  const left = from.clientX + 18 + box.width < window.innerWidth ? from.clientX + 18 : from.clientX - 18 - box.width;
  hover.style.left = Math.max(8, left) + "px";
  hover.style.top = Math.max(8, Math.min(from.clientY - box.height / 2, window.innerHeight - box.height - 8)) + "px";
});
chart.on("plotly_unhover", () => { hover.hidden = true; });
window.addEventListener("scroll", () => { hover.hidden = true; }, { passive: true });

// Pins

function toggle(id) {
  if (!data.points[id]) return;
  if (!pinned.delete(id)) pinned.set(id, data.points[id]);
  const ids = [...pinned.keys()];
  [rings.x, rings.y] = ["x", "y"].map((axis) => ids.map((i) => place(i, axis)));
  Plotly.restyle(chart, { x: [rings.x], y: [rings.y] }, [data.front.data.length - 1]);
  for (const button of document.querySelectorAll("button.pin"))
    button.setAttribute("aria-pressed", String(pinned.has(button.dataset.point)));
  compare();
}

function compare() {
  const points = [...pinned];
  const section = document.getElementById("pinned");
  section.hidden = !points.length;
  const table = section.querySelector("table");
  table.replaceChildren();
  const row = (name, cells) => {
    const made = table.insertRow();
    const head = element("th", name);
    head.scope = "row";
    made.append(head);
    const same = cells.length > 1 && new Set(cells.map((cell) => cell.textContent)).size === 1;
    for (const cell of cells) {
      if (same && !cell.querySelector("img")) cell.className = "same";
      made.append(cell);
    }
  };
  const cells = (fill) => points.map(([id, point]) => {
    const cell = element("td");
    fill(cell, point, id);
    return cell;
  });
  const some = (key) => points.some(([, point]) => point[key]);
  row("", cells((cell, point, id) => {
    const title = element("div", `${point.model} ${point.trial}`, "title");
    marks(point, title);
    const off = element("button", "unpin", "unpin");
    off.type = "button";
    off.addEventListener("click", () => toggle(id));
    cell.append(title, off);
  }));
  for (const [key, what] of [
    ["samples", "samples"], ["reconstructed", "test images, each above its reconstruction"],
    ["neighbours", "samples, each above its nearest training image"], ["traversals", "single codes, varied along a row"],
    ["interpolations", "from one test image to another, by their codes"],
  ])
    if (some(key)) row(what, cells((cell, point) =>
      cell.append(point[key] ? image(point[key], what, point) : point.on_front || !point.samples ? "none" : "of points on the front")));
  const union = (key) => [...new Set(points.flatMap(([, point]) => point[key].map((entry) => entry[0])))];
  for (const key of union("setting"))
    row(key, cells((cell, point) => cell.append((point.setting.find((entry) => entry[0] === key) || ["", "-"])[1])));
  for (const key of union("metrics"))
    row(key, cells((cell, point) => {
      const [, value, test, doubt] = point.metrics.find((entry) => entry[0] === key) || ["", "-", "-", ""];
      cell.append(test === "-" ? value : `${value}, test ${test}`);
      if (doubt) cell.append(element("div", doubt, "doubt"));
    }));
  if (points.some(([, point]) => point.undefined.length))
    row("not defined", cells((cell, point) => {
      for (const [key, why] of point.undefined) cell.append(element("div", `${key}: ${why}`));
    }));
  row("to train it anew", cells((cell, point) => {
    if (point.line) {
      const copy = element("button", "copy", "copy");
      copy.type = "button";
      copy.addEventListener("click", () => navigator.clipboard.writeText(point.line).then(() => { copy.textContent = "copied"; }));
      cell.append(copy, element("code", point.line));
    }
    if (point.why) cell.append(element("div", point.why));
  }));
}

chart.on("plotly_click", (event) => toggle(String(event.points[0].customdata)));
for (const button of document.querySelectorAll("button.pin")) {
  if (data.points[button.dataset.point]) button.addEventListener("click", () => toggle(button.dataset.point));
  else button.disabled = true;
}
document.documentElement.dataset.ready = "yes";
