"""A study, or several side by side, as one HTML page that needs nothing but itself: no network, no other file.

All that comes from a run folder is text: the template escapes it, the script sets it as text, and the page's content
security policy lets no script run but its own two and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gimtune.analysis.figures.fronts import interactive_front
from gimtune.analysis.figures.views import Band, band
from gimtune.analysis.page.comparison import attained, compared
from gimtune.analysis.page.points import LONGEST, drawn_of, thinned, told
from gimtune.analysis.statistics.attainment import AttainmentDifference, with_shares
from gimtune.analysis.statistics.measures import ASSOCIATION
from gimtune.analysis.statistics.verdicts import Claim, Verdicts, between, corrected
from gimtune.analysis.tables import CONTEXT, Table, failure_table, front_table, group_tables
from gimtune.analysis.text import number, plain, short
from gimtune.results.environment import mixed
from gimtune.results.load import Study, once, pooled, text_file
from gimtune.results.pareto import OBJECTIVES, Front, front, fronts_by
from gimtune.results.tally import levelling
from gimtune.vocabulary import Status

#: Rows of a table.
ROWS = 500
_FAILURES = 200
_ASSETS = Path(__file__).parent


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
    runs_apart = fronts_by(every, "run", best.objectives, only=only) if several else {}
    seeds = None if several else band(best)
    chart = _chart(best._replace(points=drawn), runs_apart, seeds)
    data = {
        "front": _figure(chart),
        "difference": None,
        "points": told(drawn, dict(zip(labels, runs, strict=True))),
    }
    differences: list[tuple[AttainmentDifference | None, str]] = []
    if several:
        differences = compared(runs, labels, best.objectives, only)
        shown = next((found for found, _ in differences if found is not None and len(found.rectangles)), None)
        data["difference"] = None if shown is None else _figure(attained(shown, chart.layout))
    first = ("trial", "run") if several else ("trial",)
    failures = trials[trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    scripts = [Markup(get_plotlyjs()), Markup((_ASSETS / "page.js").read_text(encoding="utf-8"))]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["shortened"] = partial(short, width=LONGEST)
    template = environment.from_string((_ASSETS / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=" and ".join(labels) if several else _name(runs[0], trials),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((_ASSETS / "page.css").read_text(encoding="utf-8")),
        scripts=scripts,
        policy=" ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts),
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        facts=[*_facts(best, trials, runs), *([twice] if twice else [])],
        verdicts=[
            (label, found, [_answer(claim, found) for claim in found.claims])
            for label, found in zip(labels, verdicts, strict=True)
        ],
        shared=corrected,
        several=several,
        has_areas=data["difference"] is not None,
        drawn=drawn_of(best, drawn),
        front_table=_titled(
            front_table(
                with_shares(best, np.random.default_rng(0)), CONTEXT, first, most=ROWS, contribution=True, shares=True
            )
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
    facts += filter(None, (levelling(trials), mixed(best.points, meta)))
    for study in runs:
        if study.older:
            facts.append(f"{study.run.name}: {study.older}")
        if accuracy := study.meta.get("classifier_test_accuracy"):
            facts.append(f"FID features: {study.meta.get('fid_features')}, of test accuracy {accuracy}")
    return [plain(fact) for fact in dict.fromkeys(facts)]


def _chart(drawn: Front, runs: Mapping[str, Front], seeds: Band | None) -> go.Figure:
    figure = interactive_front(drawn, seeds)
    figure.update_traces(hovertext=None, hoverinfo="none", selector={"mode": "markers"})
    x, y = [*drawn.objectives][:2]
    if runs and len(drawn.objectives) == 2:
        figure.update_traces(name="common front", selector={"mode": "lines"})
        for dash, (name, own) in zip(("dash", "dot", "dashdot", "longdash") * len(runs), runs.items(), strict=False):
            line = {"shape": "hv", "color": "#555", "width": 1.2, "dash": dash}
            label = f"front of {short(name, 20)}".replace("<", "&lt;")
            rows = own.rows.head(ROWS)
            figure.add_scatter(x=rows[x], y=rows[y], mode="lines", line=line, name=label, hoverinfo="skip")
    figure.update_layout(title=None, margin={"l": 60, "r": 10, "t": 10, "b": 50}, hovermode="closest")
    return figure


def _figure(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


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
        "effect": f"{claim.value:+.2f}" if known else "",
        "unit": "" if bounded else claim.unit,
        "interval": between(claim.low, claim.high) if known else "",
        "seeds": between(claim.seeds_low, claim.seeds_high) if known else "",
        "value": at(claim.value) if known else None,
        "bar": bar(claim.low, claim.high) if known else None,
        "seeds_bar": bar(claim.seeds_low, claim.seeds_high) if known else None,
        "measured": _sentence(claim.effect),
        "note": _sentence(short(plain(claim.note), 600)),
        "look": claim.verdict.replace(" ", "-"),
        "beside": _beside(claim) if known else "",
    }


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
