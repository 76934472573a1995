"use strict";
// How the study stands, every two seconds; the report, when there is a new one.
const of = (id) => document.getElementById(id);
let loaded = 0, latest = 0;

function load() {
  loaded = latest;
  of("report").hidden = false;
  of("report").src = `report?${loaded}`;
  of("load").hidden = true;
  of("fresh").textContent = "";
}

async function look() {
  try {
    const answer = await fetch("standing", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const told = await answer.json();
    const open = new Set([...document.querySelectorAll("#standing details[open]")].map((part) => part.id));
    // escaped where it was made
    of("standing").innerHTML = told.standing;
    for (const part of document.querySelectorAll("#standing details")) part.open = open.has(part.id);
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
