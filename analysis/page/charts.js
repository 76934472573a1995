// What is drawn: single trials, or configurations by their means over seeds, of those that the filters leave.

const filters = {
  by: "means",
  bars: false,
  off: { model: new Set(), prior: new Set(), weight: new Set(), seed: new Set(), run: new Set() },
};
// How often it was asked that the axes of the picture reach all points; plotly keeps what one has zoomed to otherwise.
let wide = 0,
  marked = null,
  marks = 0,
  current = [];

const onScale = (axis, value) => (axis.distance ? Math.log1p(Math.max(value, 0)) : value);
const offScale = (axis, value) => (axis.distance ? Math.expm1(value) : value);
const weightOf = (i) => (data.weight[i] === null ? "none" : digits(data.weight[i]));
const valueOf = { weight: weightOf };
for (const key of ["model", "prior", "seed", "run"])
  valueOf[key] = (i) => data[key].names[data[key].codes[i]] ?? "none";

function left() {
  const keys = Object.keys(filters.off).filter((key) => filters.off[key].size);
  return [...data.trial.keys()].filter((i) => keys.every((key) => !filters.off[key].has(valueOf[key](i))));
}

// Each point: its members, values, and of the objectives how far its interval reaches to either side.
function points() {
  if (filters.by === "trials")
    return left().map((i) => ({
      members: [i],
      own: i,
      value: (key) => data.values[key][i],
      reach: (key) => {
        const error = (data.errors[key] || [])[i];
        return error === null || error === undefined ? [0, 0] : [error, error];
      },
    }));
  const groups = new Map();
  for (const i of left()) groups.set(data.configuration[i], [...(groups.get(data.configuration[i]) || []), i]);
  return [...groups].map(([number, members]) => {
    const means = new Map();
    const value = (key) => {
      if (!means.has(key)) {
        const axis = data.axes[key],
          known = members.map((i) => data.values[key][i]).filter((v) => v !== null);
        means.set(
          key,
          known.length ? offScale(axis, known.reduce((sum, v) => sum + onScale(axis, v), 0) / known.length) : null,
        );
      }
      return means.get(key);
    };
    // an interval is of all seeds: where a filter leaves some of them, there is none
    const whole = members.length === data.sizes.get(number);
    const reach = (key) => {
      const [low, high] = data.intervals[key] || [[], []],
        mean = value(key);
      return whole && low[number] != null && high[number] != null ? [mean - low[number], high[number] - mean] : [0, 0];
    };
    const far = (i) =>
      data.objectives.reduce((sum, [key]) => {
        const axis = data.axes[key],
          [low, high] = axis.range.map((end) => onScale(axis, end));
        return sum + ((onScale(axis, data.values[key][i]) - onScale(axis, value(key))) / (high - low)) ** 2;
      }, 0);
    const own = members.reduce((best, i) => (far(i) < far(best) ? i : best));
    return { members, own, value, reach };
  });
}

// Points that no other beats at both objectives; equal points are all kept.
function best(among) {
  const [[x, ways], [y, wayt]] = data.objectives;
  const sign = (way, value) => (way === "max" ? -value : value);
  const keyed = among
    .filter((p) => p.value(x) !== null && p.value(y) !== null)
    .map((p) => ({ p, a: sign(ways, p.value(x)), b: sign(wayt, p.value(y)) }))
    .sort((p, q) => p.a - q.a || p.b - q.b);
  const found = [];
  for (const one of keyed) {
    const last = found[found.length - 1];
    if (!last || one.b < last.b || (one.a === last.a && one.b === last.b)) found.push(one);
  }
  return found.map((one) => one.p);
}

const shade = (colour) => (palette.dark && colour === "#000000" ? "#f2f2f2" : colour);
const faint = (colour, share) =>
  colour +
  Math.round(255 * share)
    .toString(16)
    .padStart(2, "0");

// Traces of points in a plane, one for each model; in the picture itself those on the front apart, with their bars.
function traces(keys, among, onFront, bars) {
  const [x, y] = keys,
    rows = new Map();
  for (const one of among) {
    if (one.value(x) === null || one.value(y) === null) continue;
    const model = valueOf.model(one.own),
      group = `${model}\n${onFront.has(one) ? 1 : 0}`;
    rows.set(group, [...(rows.get(group) || []), one]);
  }
  const named = new Set();
  return [...rows]
    .sort(([a], [b]) => a.endsWith("1") - b.endsWith("1") || a.localeCompare(b))
    .map(([group, of]) => {
      const model = group.split("\n")[0],
        first = group.endsWith("1"),
        [plain, symbol] = data.looks[model],
        colour = shade(plain);
      const hollow = of.map((p) => p.members.some((i) => data.collapsed[i]));
      const bar = (key) => ({
        type: "data",
        symmetric: false,
        visible: bars && (first || filters.bars),
        width: 0,
        thickness: first ? 1.6 : 1,
        color: first ? colour : faint(colour, 0.45),
        array: of.map((p) => p.reach(key)[1]),
        arrayminus: of.map((p) => p.reach(key)[0]),
      });
      const shown = !named.has(model);
      named.add(model);
      return {
        ...entry(model),
        showlegend: shown,
        hoverinfo: "none",
        x: of.map((p) => p.value(x)),
        y: of.map((p) => p.value(y)),
        customdata: of.map((p) => p.own),
        error_x: bar(x),
        error_y: bar(y),
        marker: {
          symbol: hollow.map((open) => symbol + (open ? "-open" : "")),
          color: colour,
          size: first ? 13 : 8,
          opacity: 1,
          // pale colours are told from the paper by their outline
          line: {
            width: hollow.map((open) => (open ? 1.4 : first ? 1.2 : 0.8)),
            color: hollow.map((open) => (open ? colour : palette.ink)),
          },
        },
        unselected: { marker: { opacity: 0.12 } },
        points: of,
      };
    });
}

// Models that the filter leaves out stay in the legend, where a click brings them back.
const absent = (models) =>
  [...filters.off.model]
    .filter((model) => data.looks[model] && !models.some((trace) => trace.legendgroup === model))
    .map((model) => {
      const [plain, symbol] = data.looks[model];
      return {
        ...entry(model),
        visible: "legendonly",
        x: [null],
        y: [null],
        marker: { symbol, color: shade(plain), size: 8 },
      };
    });

// A model's marks, by its name in the legend.
const entry = (model) => ({
  type: "scatter",
  mode: "markers",
  name: escaped(model),
  legendgroup: model,
  legendrank: data.looks[model][2] + 1,
});

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function axisOf(key, small) {
  const axis = data.axes[key],
    range = axis.log ? axis.range.map(Math.log10) : axis.range,
    label = escaped(axis.label);
  return {
    title: {
      text: small ? label.replace(" (", "<br>(") : label,
      font: { size: small || narrow() ? 11 : 13 },
      standoff: 10,
    },
    type: axis.log ? "log" : "linear",
    ...(axis.log ? { dtick: axis.range[1] < 300 * axis.range[0] ? "D2" : 1, minorloglabels: "complete" } : {}),
    range: [...range],
    automargin: true,
  };
}

function dressed(layout) {
  for (const axis of [layout.xaxis, layout.yaxis])
    Object.assign(axis, {
      gridcolor: palette.line,
      linecolor: palette.quiet,
      zeroline: false,
      tickcolor: palette.quiet,
    });
  const legend = narrow()
    ? { orientation: "h", y: -0.16, yanchor: "top", x: 0, font: { size: 11 }, entrywidth: 96 }
    : { orientation: "v", y: 1, x: 1.02, font: { size: 12 }, tracegroupgap: 0 };
  return Object.assign(layout, {
    paper_bgcolor: palette.paper,
    plot_bgcolor: palette.paper,
    font: { color: palette.ink },
    hovermode: "closest",
    legend: { itemsizing: "trace", ...legend },
    // above the legend: the tools, which are shown while one points at the chart
    margin: { l: 60, r: 12, t: narrow() ? 12 : 34, b: 60 },
  });
}

const line = (x, y, name, more) => ({
  type: "scatter",
  mode: "lines",
  x,
  y,
  name,
  hoverinfo: "skip",
  legendrank: 1500,
  line: { shape: "hv", color: palette.ink, width: 1.3, ...more },
});

function lines(onFront) {
  const [[x], [y]] = data.objectives,
    found = [],
    sorted = (of) => [of.map((p) => p.value(x)), of.map((p) => p.value(y))];
  if (!data.fronts) return found;
  const whole = left().length === data.trial.length,
    band = data.band;
  if (filters.by === "trials" && whole && band) {
    const steps = (key, name, more) => ({ ...line(band.x, band[key], name, { width: 0 }), ...more });
    found.push(
      steps("worst", "", { showlegend: false, legendgroup: "band" }),
      steps("best", `attained by some to all of ${band.seeds} seeds`, {
        legendgroup: "band",
        fill: "tonexty",
        fillcolor: faint(palette.quiet.slice(0, 7), 0.22),
      }),
    );
  }
  found.push(line(...sorted([...onFront]), "front"));
  const runs = data.run.names;
  if (runs.length > 1)
    runs.forEach((run, i) =>
      found.push(
        line(
          ...sorted(best(current.filter((p) => valueOf.run(p.own) === run))),
          escaped(`front of ${run}`.slice(0, 28)),
          { width: 1.1, color: palette.quiet, dash: ["dash", "dot", "dashdot", "longdash"][i % 4] },
        ),
      ),
    );
  return found;
}

function around(keys, ids, name, look) {
  const among = current.filter((p) => ids(p) && p.value(keys[0]) !== null && p.value(keys[1]) !== null);
  return {
    type: "scatter",
    mode: "markers",
    name,
    legendrank: 2000,
    x: among.map((p) => p.value(keys[0])),
    y: among.map((p) => p.value(keys[1])),
    hoverinfo: "skip",
    cliponaxis: false,
    showlegend: Boolean(name) && among.length > 0,
    marker: { symbol: "circle-open", ...look },
  };
}

// A figure, for the screen or for a file.
function figure(id) {
  if (id === "difference") return { data: data.difference.data, layout: dressed(data.difference.layout) };
  const front = id === "front",
    [x, y] = front ? data.objectives.map(([key]) => key) : planeOf(id);
  const onFront = new Set(data.fronts ? best(current) : current.filter((p) => p.members.some((i) => data.front[i])));
  const models = traces([x, y], current, front ? onFront : new Set(), front);
  const drawn = front
    ? [
        ...lines(onFront),
        ...models,
        around([x, y], (p) => p.members.some((i) => data.flagged[i]), "flagged: not to be trusted", {
          size: 17,
          color: palette.ink,
          line: { width: 1 },
        }),
      ]
    : [...models];
  drawn.push(
    around([x, y], (p) => p.members.some((i) => pinned.has(i)), "", {
      size: 20,
      color: "#d6006c",
      line: { width: 2.5 },
    }),
  );
  if (front) drawn.push(...absent(models));
  if (marked)
    for (const trace of models)
      trace.selectedpoints = trace.points.flatMap((p, i) => (p.members.some((m) => marked.has(m)) ? [i] : []));
  const reaching = front && wide ? { autorange: true, range: undefined } : {};
  const layout = dressed({
    xaxis: { ...axisOf(x, !front), ...reaching },
    yaxis: { ...axisOf(y, !front), ...reaching },
    showlegend: front,
    uirevision: `${id} ${x} ${y} ${front ? wide : ""}`,
    selectionrevision: marks,
  });
  return { data: drawn, layout: Object.assign(layout, { dragmode: narrow() ? false : front ? "zoom" : "select" }) };
}

const planeOf = (id) => ["x", "y"].map((axis) => document.getElementById(`${id}-${axis}`).value);
const visible = new Set();

function draw(id) {
  const chart = document.getElementById(id);
  if (!visible.has(id) || !chart || (id === "difference" && !data.difference)) return;
  const { data: drawn, layout } = figure(id),
    fresh = !chart.layout;
  [layout.width, layout.height] = [chart.clientWidth, chart.clientHeight];
  Plotly.react(chart, drawn, layout, {
    displaylogo: false,
    displayModeBar: narrow() ? false : "hover",
    modeBarButtons: [["zoom2d", "pan2d", "select2d", "lasso2d", "resetScale2d"]],
  }).then(() => {
    if (id === "front") tellBeyond();
  });
  if (fresh && id !== "difference") listen(chart);
}

const drawAll = () => {
  current = points();
  const onFront = data.fronts ? best(current).length : 0,
    what = filters.by === "means" ? "configurations" : "trials";
  document.getElementById("shown").textContent =
    `${current.length.toLocaleString("en")} ${what} drawn` + (data.fronts ? `, ${onFront} on their front.` : ".");
  for (const chart of document.querySelectorAll("#planes .chart")) {
    const [x, y] = planeOf(chart.id).map((key) => data.axes[key].name);
    chart.setAttribute("aria-label", `${y} against ${x}. Arrow keys go from point to point, Enter pins.`);
  }
  for (const id of visible) draw(id);
  list();
};

// Of the points, how many the axes of the picture do not reach, as they stand.
function tellBeyond() {
  const stands = document.getElementById("front")._fullLayout;
  if (!stands) return;
  const outside = (one, key, axis) => {
    const ends = axis.range.map(Number),
      at = axis.type === "log" ? Math.log10(one.value(key)) : one.value(key);
    return one.value(key) !== null && (at < Math.min(...ends) || at > Math.max(...ends));
  };
  const [[x], [y]] = data.objectives,
    count = current.filter((p) => outside(p, x, stands.xaxis) || outside(p, y, stands.yaxis)).length,
    more = document.getElementById("beyond");
  more.hidden = !count;
  more.querySelector("span").textContent = `${count.toLocaleString("en")} beyond the axes.`;
  more.querySelector("button").textContent = `show ${count === 1 ? "it" : "them"}`;
}

// Charts are drawn as they come into view, and anew as their width changes.
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries)
      if (entry.isIntersecting && !visible.has(entry.target.id)) {
        visible.add(entry.target.id);
        draw(entry.target.id);
      }
  },
  { rootMargin: "200px" },
);

function mark(members) {
  if (!marked && !members?.size) return;
  marked = members?.size ? members : null;
  // plotly keeps what was dragged over until it is told otherwise
  if (!marked) marks += 1;
  const said = document.getElementById("marked");
  if (said) said.textContent = marked ? `${marked.size} trials are marked.` : "";
  if (said) document.getElementById("unmark").hidden = !marked;
  // when plotly is done with the event
  setTimeout(() => visible.forEach(draw));
}
