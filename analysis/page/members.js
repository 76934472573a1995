// What is told of a point: on hover, pinned beside others, and its pictures at size.

const pinned = new Map();
const hover = document.getElementById("hover"),
  ring = document.getElementById("ring");
let under = null;

// Of what is not an objective, so much is told beside a point; all of it where it is pinned.
const CONTEXT = 5;
const CARD = new Set(["run", "prior", "weight", "latent_dim", "seed", "status", "epoch"]);

// A card's table: a mean's own numbers, or a trial's on both splits, the objectives first.
function metrics(one, told) {
  const table = element("table"),
    several = one.members.length > 1,
    chosen = data.objectives.map(([key]) => key),
    more = Object.keys(data.axes).filter((key) => !chosen.includes(key) && one.value(key) !== null),
    head = table.createTHead().insertRow();
  for (const word of ["", several ? "mean" : "validation", ...(several ? [] : ["test"])])
    head.append(element("th", word, "number"));
  for (const key of [...chosen, ...more.slice(0, CONTEXT)]) {
    const row = table.insertRow();
    row.append(element("td", data.axes[key].name));
    if (several) {
      row.append(element("td", spread(one, key), "number"));
      continue;
    }
    const of = (name) => told.metrics.find((metric) => metric[0] === name) || [name, "-", "-", ""],
      [, value, test, doubt] = of(key),
      [, error, testError] = of(`${key}_se`),
      look = "number" + (doubt ? " doubt" : "");
    const within = (number, by) => number + (chosen.includes(key) && by !== "-" ? ` ± ${rounded(by)}` : "");
    row.append(element("td", within(value, error), look), element("td", within(test, testError), look));
  }
  return table;
}

function labels(told, where) {
  for (const word of told.marks) where.append(" ", element("span", word, "mark " + word));
}

// One digit of a standard error.
const rounded = (error) => String(Number(Number(error).toPrecision(1)));

// A value with its interval over seeds in brackets; a trial's, with its standard error.
function spread(one, key, unit = "") {
  const [less, more] = one.reach(key),
    value = one.value(key);
  if (!less && !more) return digits(value);
  if (filters.by === "trials") return `${digits(value)} ± ${Number(less.toPrecision(2))}${unit}`;
  return `${digits(value)} [${digits(value - less)}, ${digits(value + more)}]`;
}

// A point in words: what it is, and its objectives.
function words(one) {
  const i = one.own,
    seeds = one.members.length;
  const setting = data.setting.names[data.setting.codes[i]];
  const reached = data.objectives.map(([key]) => `${data.axes[key].name} ${spread(one, key, " (standard error)")}`);
  return [
    `${valueOf.model(i)}, ${setting}`,
    (filters.by === "means" ? `mean of ${seeds} seed${seeds > 1 ? "s" : ""}: ` : "") + reached.join(", "),
  ];
}

async function describe(one, left, top) {
  under = one;
  const title = element("p"),
    told = await point(one.own);
  if (under !== one) return;
  hover.replaceChildren();
  const several = one.members.length > 1;
  if (pictured(one.own, "samples")) {
    const held = element("figure");
    held.append(image(one.own, "samples"));
    if (several) held.append(element("figcaption", `seed ${valueOf.seed(one.own)}, the nearest to the mean`));
    hover.append(held);
  }
  title.append(element("b", told.model), several ? ` mean of ${one.members.length} seeds` : ` ${told.trial}`);
  if (!several) labels(told, title);
  else
    for (const word of ["collapsed", "flagged"])
      if (one.members.some((i) => data[word][i])) title.append(" ", element("span", word, "mark " + word));
  const setting = several
    ? data.setting.names[data.setting.codes[one.own]]
    : told.setting
        .filter(([key]) => CARD.has(key) || key in data.settings)
        .map((pair) => pair.join(" "))
        .join(", ");
  hover.append(title, element("p", setting), metrics(one, told));
  if (!several)
    for (const doubt of new Set(told.metrics.map((metric) => metric[3]).filter(Boolean)))
      hover.append(element("p", doubt, "doubt"));
  hover.hidden = false;
  const box = hover.getBoundingClientRect();
  hover.style.left = Math.max(8, left + 18 + box.width < innerWidth ? left + 18 : left - 18 - box.width) + "px";
  hover.style.top = Math.max(8, Math.min(top - box.height / 2, innerHeight - box.height - 8)) + "px";
}

function conceal() {
  under = null;
  hover.hidden = true;
  ring.hidden = true;
}

const pointOf = (i) => current.find((one) => one.own === i);

function listen(chart) {
  chart.on("plotly_hover", (event) => {
    const one = pointOf(event.points[0].customdata);
    if (one) describe(one, event.event.clientX, event.event.clientY);
  });
  chart.on("plotly_unhover", conceal);
  chart.on("plotly_click", (event) => {
    if (event.points[0].customdata !== undefined) toggle(event.points[0].customdata);
  });
  chart.on("plotly_selected", (event) => {
    if (!event?.points.length) return;
    const own = new Set(event.points.map((p) => p.customdata));
    mark(new Set(current.filter((one) => own.has(one.own)).flatMap((one) => one.members)));
  });
  chart.on("plotly_doubleclick", () => mark(null));
  if (chart.id === "front") chart.on("plotly_relayout", tellBeyond);
  chart.on("plotly_legendclick", (event) => byLegend(event, false));
  chart.on("plotly_legenddoubleclick", (event) => byLegend(event, true));
  // by keys: left and right along the horizontal axis, up and down along the other
  chart.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return conceal();
    const keys = chart.id === "front" ? data.objectives.map(([key]) => key) : planeOf(chart.id);
    if (event.key === "Enter" && under) {
      event.preventDefault();
      return toggle(under.own);
    }
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowDown: [1, -1], ArrowUp: [1, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const ordered = current
      .filter((one) => keys.every((key) => one.value(key) !== null))
      .sort((a, b) => a.value(keys[step[0]]) - b.value(keys[step[0]]));
    if (!ordered.length) return;
    const at = under ? ordered.findIndex((one) => one.own === under.own) : -1;
    const next = ordered[Math.max(0, Math.min(ordered.length - 1, at < 0 ? 0 : at + step[1]))];
    const { xaxis, yaxis } = chart._fullLayout,
      box = chart.getBoundingClientRect(),
      left = box.left + xaxis.d2p(next.value(keys[0])) + xaxis._offset,
      top = box.top + yaxis.d2p(next.value(keys[1])) + yaxis._offset;
    [ring.style.left, ring.style.top, ring.hidden] = [`${left}px`, `${top}px`, false];
    describe(next, left, top);
    say(
      words(next).join("; ") +
        (pinned.has(next.own) ? "; pinned" : "") +
        (next.members.some((i) => data.collapsed[i]) ? "; collapsed" : ""),
    );
  });
  chart.addEventListener("blur", conceal);
}
addEventListener("scroll", conceal, { passive: true });

// Pins

async function toggle(i) {
  if (!pinned.delete(i)) pinned.set(i, await point(i));
  for (const pin of document.querySelectorAll("button.pin"))
    pin.setAttribute("aria-pressed", String(pinned.has(positions.get(Number(pin.dataset.point)))));
  say(`${data.trial[i]} ${pinned.has(i) ? "pinned" : "unpinned"}`);
  for (const id of visible) draw(id);
  compare();
}

function compare() {
  const points = [...pinned],
    section = document.getElementById("pinned"),
    table = section.querySelector("table");
  section.hidden = !points.length;
  const bar = document.getElementById("bar");
  bar.hidden = !points.length;
  bar.firstChild.textContent = `${points.length} pinned: ${points.length > 1 ? "compare side by side" : "look at it"}`;
  table.replaceChildren();
  const body = table.createTBody();
  const row = (name, cells) => {
    const made = body.insertRow(),
      head = element("th", name);
    head.scope = "row";
    made.append(head);
    const same = cells.length > 1 && new Set(cells.map((cell) => cell.textContent)).size === 1;
    for (const cell of cells) {
      if (same && !cell.querySelector("img")) cell.className = "same";
      made.append(cell);
    }
  };
  const cells = (fill) =>
    points.map(([i, told]) => {
      const cell = element("td");
      fill(cell, told, i);
      return cell;
    });
  const heads = table.createTHead().insertRow();
  heads.insertCell();
  for (const [i, told] of points) {
    const head = element("th"),
      title = element("div", `${told.model} ${told.trial}`, "title");
    head.scope = "col";
    labels(told, title);
    head.append(
      title,
      button("unpin", "unpin", () => toggle(i)),
    );
    heads.append(head);
  }
  for (const [kind, what] of Object.entries(data.kinds))
    if (points.some(([i]) => pictured(i, kind)))
      row(
        what,
        cells((cell, told, i) => {
          if (!pictured(i, kind)) return cell.append("none");
          const opener = button("", "opener", () => enlarge([...pinned.keys()], kind));
          opener.append(image(i, kind));
          return cell.append(opener);
        }),
      );
  const union = (key) => [...new Set(points.flatMap(([, told]) => told[key].map((entry) => entry[0])))];
  for (const key of union("setting"))
    row(
      key,
      cells((cell, told) => cell.append((told.setting.find((entry) => entry[0] === key) || ["", "-"])[1])),
    );
  for (const key of union("metrics"))
    row(
      key,
      cells((cell, told) => {
        const [, value, test, doubt] = told.metrics.find((entry) => entry[0] === key) || ["", "-", "-", ""];
        cell.append(test === "-" ? value : `${value}, test ${test}`);
        if (doubt) cell.append(element("div", doubt, "doubt"));
      }),
    );
  if (points.some(([, told]) => told.undefined.length))
    row(
      "not defined",
      cells((cell, told) => {
        for (const [key, why] of told.undefined) cell.append(element("div", `${key}: ${why}`));
      }),
    );
  row(
    "configuration",
    cells((cell, told) => cell.append(told.config ? element("code", told.config, "config") : "-")),
  );
  row(
    "to train it anew",
    cells((cell, told) => {
      if (told.line) {
        const copy = button("copy", "copy", () =>
          navigator.clipboard.writeText(told.line).then(() => {
            copy.textContent = "copied";
          }),
        );
        cell.append(copy, element("code", told.line, "line"));
      }
      if (told.why) cell.append(element("div", told.why));
    }),
  );
}

// Pictures at size, side by side. A dialogue of the browser's: Escape closes it, and the focus goes back.

function enlarge(ids, kind) {
  const dialog = document.getElementById("large"),
    shown = element("div", undefined, "side"),
    bar = element("form");
  const select = element("select");
  select.setAttribute("aria-label", "what is shown");
  for (const [key, what] of Object.entries(data.kinds))
    if (ids.some((i) => pictured(i, key))) {
      const option = element("option", what);
      [option.value, option.selected] = [key, key === kind];
      select.append(option);
    }
  const fill = () =>
    shown.replaceChildren(
      ...ids.map((i) => {
        const held = element("figure"),
          said = element("figcaption", `${valueOf.model(i)} ${data.trial[i]}`);
        said.append(element("div", data.setting.names[data.setting.codes[i]] + `, seed ${valueOf.seed(i)}`, "quiet"));
        said.append(
          element(
            "div",
            data.objectives.map(([key]) => `${data.axes[key].name} ${digits(data.values[key][i])}`).join(", "),
            "quiet",
          ),
        );
        held.append(said, pictured(i, select.value) ? image(i, select.value) : element("p", "none"));
        return held;
      }),
    );
  select.addEventListener("change", fill);
  bar.method = "dialog";
  const numbers = button("numbers", "", () => {
    dialog.close();
    document.getElementById("pinned").scrollIntoView();
  });
  numbers.hidden = !pinned.size;
  bar.append(select, numbers, element("button", "close"));
  fill();
  dialog.replaceChildren(bar, shown);
  dialog.showModal();
}

const UNPICTURED = "no picture: its run was taken over without it";

function gallery() {
  const where = document.getElementById("gallery"),
    select = document.getElementById("kind");
  if (!where) return;
  const whole = [...data.trial.keys()].filter((i) => data.front[i]).slice(0, 24);
  for (const option of [...select.options]) option.disabled = !whole.some((i) => pictured(i, option.value));
  if (select.selectedOptions[0].disabled) select.value = "samples";
  const fill = () =>
    where.replaceChildren(
      ...whole.map((i) => {
        const held = element("figure"),
          opener = pictured(i, select.value)
            ? button("", "opener", () => enlarge([...new Set([i, ...pinned.keys()])], select.value))
            : element("p", data.pictures[i] ? "no picture of this kind" : UNPICTURED, "none");
        if (pictured(i, select.value)) opener.append(image(i, select.value));
        const said = element("figcaption");
        said.append(
          button(`${valueOf.model(i)} ${data.trial[i]}`, "pin", () => toggle(i)),
          element(
            "div",
            data.objectives.map(([key]) => `${data.axes[key].name} ${digits(data.values[key][i])}`).join(", "),
            "quiet",
          ),
        );
        said.firstChild.dataset.point = data.indices[i];
        said.firstChild.setAttribute("aria-pressed", String(pinned.has(i)));
        held.append(opener, said);
        return held;
      }),
    );
  select.addEventListener("change", fill);
  fill();
}

let positions = new Map();

function members() {
  document
    .querySelector("#bar button")
    .addEventListener("click", () => enlarge([...pinned.keys()], "samples"));
  positions = new Map(data.indices.map((index, i) => [index, i]));
  for (const pin of document.querySelectorAll("table button.pin")) {
    const i = positions.get(Number(pin.dataset.point));
    if (i === undefined) pin.disabled = true;
    else pin.addEventListener("click", () => toggle(i));
  }
  gallery();
}
