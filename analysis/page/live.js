"use strict";
// How the study stands, every two seconds; the report, when there is a new one.
const of = (id) => document.getElementById(id);
let loaded = 0, latest = 0, standing = "";

function load() {
  loaded = latest;
  of("report").hidden = false;
  of("report").src = `report?${loaded}`;
  of("load").hidden = true;
  of("fresh").textContent = "";
}

// What is read aloud as it changes has to stay the element that it is; and what one reads, open.
function show(text) {
  standing = text;
  const open = new Set([...document.querySelectorAll("#standing details[open]")].map((part) => part.id));
  const made = document.createElement("template"),
    kept = of("standing").querySelector("[role=status]");
  // escaped where it was made
  made.innerHTML = text;
  const fresh = made.content.querySelector("[role=status]");
  if (!kept || !fresh) of("standing").replaceChildren(made.content);
  else {
    const parts = [...made.content.childNodes],
      at = parts.indexOf(fresh);
    for (const part of [...of("standing").childNodes]) if (part !== kept) part.remove();
    kept.before(...parts.slice(0, at));
    kept.after(...parts.slice(at + 1));
    if (kept.innerHTML !== fresh.innerHTML) kept.replaceChildren(...fresh.childNodes);
  }
  for (const part of document.querySelectorAll("#standing details")) part.open = open.has(part.id);
}

async function look() {
  try {
    const answer = await fetch("standing", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const told = await answer.json();
    if (told.standing !== standing) show(told.standing);
    latest = told.report;
    if (latest > loaded && (of("follow").checked || !loaded)) load();
    else if (latest > loaded) {
      of("fresh").textContent = "There is a newer report.";
      of("load").hidden = false;
    }
    document.documentElement.dataset.ready = "yes";
  } catch {
    of("fresh").textContent = "The server has ended; what is shown is how the study stood then.";
  }
  setTimeout(look, 2000);
}

of("load").addEventListener("click", load);
look();
