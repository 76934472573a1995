// Choices of the filters, from what the trials have.

function choose() {
  for (const [key, values] of Object.entries(data.settings))
    valueOf[key] = (i) => values.names[values.codes[i]] ?? "none";
  data.sizes = new Map();
  for (const number of data.configuration) data.sizes.set(number, (data.sizes.get(number) || 0) + 1);
  const form = document.getElementById("filters"),
    several = data.configuration.length > data.sizes.size;
  if (!several) filters.by = "trials";
  form.elements.by.value = filters.by;
  form.querySelector(".by").hidden = !several;
  for (const [key, title] of [
    ["run", "run"],
    ["model", "model"],
    ["prior", "prior"],
    ["weight", "weight"],
    ...Object.keys(data.settings).map((key) => [key, key.replaceAll("_", " ")]),
    ["seed", "seed"],
  ]) {
    const values = [...new Set(data.trial.map((_, i) => valueOf[key](i)))];
    if (values.length < 2) continue;
    values.sort((a, b) => (Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? a.localeCompare(b) : a - b));
    const box = element("details"),
      head = element("summary", `${title}: all`),
      list = element("fieldset");
    list.append(
      element("legend", title, "unseen"),
      button("none", "none", () => set(false)),
      button("all", "none", () => set(true)),
    );
    const inputs = values.map((value) => {
      const label = element("label"),
        input = element("input");
      [input.type, input.checked, input.name, input.value] = ["checkbox", true, key, value];
      input.defaultChecked = true;
      label.append(input, " " + value);
      list.append(label);
      return input;
    });
    const told = () => {
      filters.off[key] = new Set(inputs.filter((input) => !input.checked).map((input) => input.value));
      const few = inputs.filter((input) => input.checked).map((input) => input.value);
      const some = few.length > 2 ? `${few.length} of ${inputs.length}` : few.join(", ") || "none";
      head.textContent = `${title}: ${few.length === inputs.length ? "all" : some}`;
    };
    const set = (on) => {
      for (const input of inputs) input.checked = on;
      told();
      drawAll();
    };
    box.append(head, list);
    box.addEventListener("change", () => {
      told();
      drawAll();
    });
    form.addEventListener("reset", () => setTimeout(told));
    document.getElementById("choices").append(box);
  }
  // one menu at a time, and Escape closes it
  const menus = [...form.querySelectorAll("details")];
  for (const menu of menus)
    menu.addEventListener("toggle", () => {
      if (menu.open)
        menus.forEach((other) => {
          other.open = other === menu;
        });
    });
  addEventListener("click", (event) =>
    menus.forEach((menu) => {
      if (!menu.contains(event.target)) menu.open = false;
    }),
  );
  form.addEventListener("keydown", (event) => {
    const open = menus.find((menu) => menu.open);
    if (event.key !== "Escape" || !open) return;
    open.open = false;
    open.querySelector("summary").focus();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () =>
    setTimeout(() => {
      filters.by = several ? "means" : "trials";
      filters.bars = false;
      wide = 0;
      form.elements.by.value = filters.by;
      drawAll();
    }),
  );
  for (const radio of form.elements.by)
    radio.addEventListener("change", () => {
      filters.by = form.elements.by.value;
      drawAll();
    });
  document.getElementById("bars").addEventListener("change", (event) => {
    filters.bars = event.target.checked;
    drawAll();
  });
  document.querySelector("#beyond button").addEventListener("click", () => {
    wide += 1;
    draw("front");
    // the button goes
    document.getElementById("front").focus({ preventScroll: true });
  });
  document.getElementById("unmark")?.addEventListener("click", () => mark(null));
  for (const select of document.querySelectorAll("#planes select")) select.addEventListener("change", () => drawAll());
  const widths = new Map();
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.clientWidth > 200 && widths.has(target.id) && widths.get(target.id) !== target.clientWidth)
        draw(target.id);
      widths.set(target.id, target.clientWidth);
    }
  });
  for (const chart of document.querySelectorAll(".chart")) {
    seen.observe(chart);
    resized.observe(chart);
  }
  visible.add("front");
  colours.push(() => {
    for (const id of visible) draw(id);
  });
}

// A click in the legend is one in the menu of models; a double click leaves one alone, or brings all back.
let clicked;
function byLegend(event, alone) {
  const inputs = [...document.querySelectorAll("#filters input[name=model]")],
    own = inputs.find((input) => input.value === event.data[event.curveNumber].legendgroup);
  clearTimeout(clicked);
  if (!own) return !alone;
  const back = own.checked && inputs.every((input) => input === own || !input.checked);
  // a double click begins with clicks
  clicked = setTimeout(
    () => {
      if (!alone) own.checked = !own.checked;
      else for (const input of inputs) input.checked = input === own || back;
      own.dispatchEvent(new Event("change", { bubbles: true }));
    },
    alone ? 0 : 300,
  );
  return false;
}

// Any figure as a file, on white paper.

async function save(id, format) {
  const chart = document.getElementById(id),
    before = palette,
    size = { width: chart.clientWidth, height: chart.clientHeight };
  palette = { ink: "#1c2024", quiet: "#5c656d", line: "#d9dde1", paper: "#ffffff", dark: false };
  const { data: drawn, layout } = structuredClone(
    (({ data, layout }) => ({
      data: data.filter((trace) => trace.visible !== "legendonly").map(({ points, ...trace }) => trace),
      layout,
    }))(figure(id)),
  );
  palette = before;
  const axes = chart._fullLayout;
  for (const axis of ["xaxis", "yaxis"]) Object.assign(layout[axis], { range: [...axes[axis].range], autorange: false });
  const svg = await Plotly.toImage({ data: drawn, layout: { ...layout, ...size } }, { format: "svg", ...size });
  if (format === "svg") {
    const link = element("a");
    [link.href, link.download] = [svg, `${id}.svg`];
    link.click();
    return;
  }
  // the browser prints it, as a page of its size
  const sheet = document.getElementById("print"),
    shown = element("img"),
    style = element("style", `@page { size: ${size.width}px ${size.height}px; margin: 0; }`);
  [shown.src, shown.alt] = [svg, "the figure"];
  sheet.replaceChildren(style, shown);
  await shown.decode();
  document.documentElement.classList.add("printing");
  addEventListener(
    "afterprint",
    () => {
      document.documentElement.classList.remove("printing");
      sheet.replaceChildren();
    },
    { once: true },
  );
  print();
}
for (const tool of document.querySelectorAll("button[data-save]"))
  tool.addEventListener("click", () => save(tool.dataset.figure, tool.dataset.save));
