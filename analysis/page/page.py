"""A study, or several side by side, as one HTML page that needs nothing but itself: no network, no other file.

All that comes from a run folder is text: the template escapes it, the script sets it as text, and the page's content
security policy lets no script run but its own two and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from gimtune.analysis.figures.look import axis
from gimtune.analysis.figures.screen import scales
from gimtune.analysis.figures.views import band
from gimtune.analysis.page.comparison import attained, compared
from gimtune.analysis.page.pictures import KINDS
from gimtune.analysis.page.plane import means_of, picture, sentence, with_shares
from gimtune.analysis.page.points import CHUNK, LONGEST, drawn_of, pictured, thinned, told
from gimtune.analysis.statistics.attainment import AttainmentDifference
from gimtune.analysis.statistics.evidence import ASSOCIATION
from gimtune.analysis.statistics.verdicts import Claim, Verdicts, between, corrected
from gimtune.analysis.tables import CONTEXT, Table, failure_table, front_table, group_tables
from gimtune.analysis.text import distances, number, plain, plural, short
from gimtune.results.environment import mixed
from gimtune.results.load import Study, once, pooled, text_file
from gimtune.results.pareto import OBJECTIVES, Front, front, fronts_by
from gimtune.results.tally import edges, levelling
from gimtune.vocabulary import Status

#: Rows of a table.
ROWS = 500
_FAILURES = 200
ASSETS = Path(__file__).parent
#: Parts of the page's script, one after the other.
_SCRIPT = ("page", "charts", "filters", "members", "listing")


def page(
    runs: Sequence[Study],
    verdicts: Sequence[Verdicts],
    objectives: Mapping[str, str] | Iterable[str] = OBJECTIVES,
    *,
    only: Mapping[str, str] | None = None,
) -> str:
    """The report of one run, or of several on one front.

    Args:
        runs: one or more.
        verdicts: on the claims, of each run.
        objectives, only: as of `front`, over the members of all runs.

    Raises:
        ValueError: as `front`; in particular, runs on different data sets or FID features do not compare.
    """
    labels, every = pooled(runs)
    trials, twice = once(every)
    best = front(trials, objectives, only=only)
    several = len(runs) > 1
    models = fronts_by(trials, "model", best.objectives, only=only)
    drawn = thinned(best, models)
    by_label = dict(zip(labels, runs, strict=True))
    means = means_of(best)
    strips = pictured(drawn, models, {label: study.run for label, study in by_label.items()})
    data: dict[str, Any] = picture(best, drawn, means, None if several else band(best))
    data |= {"difference": None, "pictures": strips.places, "kinds": KINDS, "chunk": CHUNK, "rows": len(drawn)}
    differences: list[tuple[AttainmentDifference | None, str]] = []
    if several:
        differences = compared(runs, labels, best.objectives, only)
        shown = next((found for found, _ in differences if found is not None and len(found.rectangles)), None)
        if shown is not None:
            x, y = (scales(axis(best.points, key, direction=best.objectives[key])) for key in shown.objectives)
            layout = go.Layout(xaxis=x, yaxis=y, template="none")
            data["difference"] = json.loads(attained(shown, layout).to_json())
    first = ("trial", "run") if several else ("trial",)
    failures = trials[trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    plotly = (ASSETS / "plotly" / "plotly-basic.min.js").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / f"{part}.js").read_text(encoding="utf-8") for part in _SCRIPT)
    return template("page.html").render(
        title=" and ".join(labels) if several else _name(runs[0], trials),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=" ".join(f"'sha256-{digest(text)}'" for text in (plotly, script)),
        plotly=packed(plotly),
        data=packed(json.dumps(data, allow_nan=False, separators=(",", ":"))),
        details=[packed(json.dumps(part, allow_nan=False)) for part in told(drawn, by_label)],
        strips=strips.strips,
        sentence=sentence(means, best.objectives),
        counted=f"{len(best.points):,} trials" + ("" if means is None else f", {len(means.table):,} configurations"),
        facts=[*_facts(best, trials, runs), *([twice] if twice else [])],
        verdicts=[
            (label, found, [_answer(claim, found) for claim in found.claims])
            for label, found in zip(labels, verdicts, strict=True)
        ],
        shared=corrected,
        several=several,
        has_areas=data["difference"] is not None,
        drawn=drawn_of(best, drawn)
        + (
            f" For {strips.left_out:,} of their pictures there is no room here; samples/ of the run folder has them."
            if strips.left_out
            else ""
        ),
        axes=[(key, told_axis["name"]) for key, told_axis in data["axes"].items()],
        planes=data["planes"],
        gallery=any("traversals" in kinds or "samples" in kinds for kinds in strips.places.values()),
        kinds=KINDS,
        usual=[*best.objectives] == [*OBJECTIVES],
        front_table=_titled(
            front_table(with_shares(best, means), CONTEXT, first, most=ROWS, contribution=True, shares=True)
        ),
        groups=[*group_tables(trials, best, only, *(first[1:]), most=ROWS)],
        differences=[words for _, words in differences],
        failures=failure_table(failures, first[::-1], most=_FAILURES) if len(failures) else None,
        environments=[(label, *_environment(study)) for label, study in zip(labels, runs, strict=True)],
    )


def _titled(table: Table) -> Table:
    return table._replace(caption=f"Front: {table.caption}")


def _name(study: Study, trials: pd.DataFrame) -> str:
    name = study.meta.get("name") or next(iter(trials["study"].dropna()), "a study")
    data = ", ".join(sorted({str(d) for d in trials["data"].dropna().unique()[:5]}))
    return short(plain(f"{name} on {data}" if data else name), 80)


def _facts(best: Front, trials: pd.DataFrame, runs: Sequence[Study]) -> list[str]:
    left = ", ".join(f"{count} {short(reason, 80)}" for reason, count in best.left_out.items())
    reference = ", ".join(f"{key} {number(value)}" for key, value in best.reference.items())
    facts = [
        f"{len(best.points):,} of {len(trials):,} trials considered" + (f"; left out: {left}" if left else ""),
        f"{len(best.rows):,} on the front, chosen on the validation split by "
        + " and ".join(f"{key} ({way})" for key, way in best.objectives.items()),
        f"hypervolume {number(best.hypervolume)} from the reference point {reference}",
    ]
    if collapsed := int(best.points["collapsed"].sum()):
        facts.append(f"{collapsed:,} with a collapsed posterior (I below .5 nats): no trade-off, whatever the numbers")
    meta = {key: value for study in runs for key, value in study.meta.items()}
    facts += filter(None, (levelling(trials), edges(best.points), mixed(best.points, meta)))
    for study in runs:
        if study.older:
            facts.append(f"{study.run.name}: {study.older}")
        facts += filter(None, (study.meta.get("dataset"), distances(study.meta, study.trials)))
    return [plain(fact) for fact in dict.fromkeys(facts)]


def template(name: str) -> jinja2.Template:
    """A template of this folder; what it is given is escaped."""
    loader = jinja2.FileSystemLoader(ASSETS)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=loader)
    environment.globals["plural"] = plural
    environment.filters["shortened"] = partial(short, width=LONGEST)
    return environment.get_template(name)


def packed(text: str) -> str:
    """Text as the page's script unpacks it: base64 of gzip."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def digest(script: str) -> str:
    """Of a script, as a page's policy has it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _answer(claim: Claim, verdicts: Verdicts) -> dict[str, Any]:
    """A claim with its effect as text, and its two intervals as bars from 0 to 100 with nothing at 50."""
    known = not pd.isna(claim.value)
    bounded = claim.unit == ASSOCIATION
    alike = [c for c in verdicts.claims if c.unit == claim.unit]
    ends = [abs(end) for c in alike for end in (c.low, c.high, c.seeds_low, c.seeds_high) if math.isfinite(end)]
    scale = 1.0 if bounded else max(ends, default=1.0)

    def at(value: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, value / (scale or 1.0))), 2)

    def bar(low: float, high: float) -> tuple[float, float] | None:
        return None if pd.isna(low) or pd.isna(high) else (at(low), at(high))

    return {
        "claim": claim,
        "effect": _unsigned(f"{claim.value:+.2f}") if known else "",
        "unit": "" if bounded else claim.unit,
        "interval": _unsigned(between(claim.low, claim.high)) if known else "",
        "value": at(claim.value) if known else None,
        "bar": bar(claim.low, claim.high) if known else None,
        "seeds_bar": bar(claim.seeds_low, claim.seeds_high) if known else None,
        "measured": _sentence(claim.effect),
        "note": _sentence(short(plain(claim.note), 600)),
        "look": claim.verdict.replace(" ", "-"),
        "beside": _beside(claim) if known else "",
    }


def _unsigned(text: str) -> str:
    """Nothing has no sign."""
    return re.sub(r"[+-]0\.00\b", "0.00", text)


def _beside(claim: Claim) -> str:
    """The claim's other verdicts: which are the same, and which are not."""
    others = {
        "by the probe on means": claim.with_means,
        "with collapsed, stopped and diverged members": claim.with_left_out,
        "on the validation split at half of the budget": claim.at_half,
        "on the validation split at the whole budget": claim.at_whole,
    }
    same = [how for how, verdict in others.items() if verdict == claim.verdict]
    told = [f"The same {', '.join(same)}."] if same else []
    told += [f"{_sentence(how.removeprefix('and '))}: {v}." for how, v in others.items() if v and how not in same]
    return (
        " ".join(told).replace("The same and there", "The same on the validation split").replace(", and there", " and")
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _environment(study: Study) -> tuple[list[tuple[str, str]], str]:
    """Rows of ``environment.json``, or why there are none."""
    text = text_file(study.run, "environment.json")
    if text is None:
        return [], "The run folder has no environment.json."
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return [], "environment.json cannot be read: it is no JSON object."
    rows: list[tuple[str, str]] = []
    for key, value in [*found.items()][:50]:
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in [*value.items()][:50])
        elif isinstance(value, list):
            value = " ".join(map(str, value[:100]))
        rows.append((short(plain(key), 80), short(plain("-" if value is None else value), 1000)))
    return rows, ""
