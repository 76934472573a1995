// All that is drawn as a table, made when it is opened: for keys and ears, the way to what is not on the front.

const LISTED = 500;
// the head that it is sorted by, at first the first objective's
let sorting = null;

function listed() {
  const means = filters.by === "means",
    onFront = new Set(data.fronts ? best(current) : []),
    setting = (one) => data.setting.names[data.setting.codes[one.own]];
  return [
    { head: means ? "trial nearest to the mean" : "trial", pin: true, text: (one) => data.trial[one.own] },
    ...(data.run.names.length > 1 ? [{ head: "run", text: (one) => valueOf.run(one.own) }] : []),
    { head: "model", text: (one) => valueOf.model(one.own) },
    { head: "setting", text: setting },
    means
      ? { head: "seeds", number: (one) => one.members.length, text: (one) => String(one.members.length) }
      : { head: "seed", number: (one) => Number(valueOf.seed(one.own)), text: (one) => valueOf.seed(one.own) },
    ...data.objectives.map(([key, way]) => ({
      head: data.axes[key].name,
      down: way === "max",
      number: (one) => one.value(key) ?? NaN,
      text: (one) => spread(one, key),
    })),
    ...(data.fronts ? [{ head: "on the front", text: (one) => (onFront.has(one) ? "yes" : "no") }] : []),
  ];
}

// What is missing is last, either way.
function ordered(column, up) {
  const sign = up ? 1 : -1;
  return [...current].sort((a, b) => {
    if (!column.number) return sign * column.text(a).localeCompare(column.text(b));
    const [x, y] = [column.number(a), column.number(b)];
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
  });
}

function list() {
  const box = document.getElementById("all");
  if (!box.open) return;
  const columns = listed(),
    first = columns.find((column) => column.head === data.axes[data.objectives[0][0]].name),
    by = columns.find((column) => column.head === sorting?.head) || first,
    up = by.head === sorting?.head ? sorting.up : !by.down,
    rows = ordered(by, up),
    table = box.querySelector("table");
  box.querySelector("p").textContent =
    rows.length > LISTED ? `The first ${LISTED} of ${rows.length.toLocaleString("en")}: sort or filter for others.` : "";
  table.replaceChildren();
  const heads = table.createTHead().insertRow(),
    body = table.createTBody();
  columns.forEach((column, at) => {
    const head = element("th", undefined, column.number && "number");
    head.scope = "col";
    if (column === by) head.setAttribute("aria-sort", up ? "ascending" : "descending");
    head.append(
      button(column.head, "", () => {
        sorting = { head: column.head, up: column === by ? !up : !column.down };
        list();
        table.tHead.rows[0].cells[at].firstChild.focus();
      }),
    );
    heads.append(head);
  });
  for (const one of rows.slice(0, LISTED)) {
    const row = body.insertRow();
    for (const column of columns) {
      const cell = element("td", column.pin ? undefined : column.text(one), column.number && "number");
      if (column.pin) {
        const pin = button(column.text(one), "pin", () => toggle(one.own));
        pin.dataset.point = data.indices[one.own];
        pin.setAttribute("aria-pressed", String(pinned.has(one.own)));
        cell.append(pin);
      }
      row.append(cell);
    }
  }
}

document.getElementById("all").addEventListener("toggle", list);
