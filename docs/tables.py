"""Tables of the pages in docs/, made from the declarations: ``python docs/tables.py`` writes them anew.

A region between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced; a test keeps regions and declarations equal.
Those of the reference that only the site shows are empty in the files, and filled as it is built.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# the declarations that stand beside this page, not those of an installed copy
sys.path.insert(0, str(ROOT))

import pandas as pd
from pydantic import BaseModel

from gimtune import register
from gimtune.algebra.critics import KINDS
from gimtune.algebra.encoders import ENCODERS
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.models import classes as models_of
from gimtune.algebra.priors import PRIORS, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.analysis.figures.gallery import FIGURES
from gimtune.parts import registries
from gimtune.study.composition import GROUPS, help_text, load, options
from gimtune.study.schema import SWEPT, all_fields
from gimtune.vocabulary import IDENTITY, LATE, METRICS, PROGRESS, PROTOCOL, Direction, Model

FILES = tuple(
    ROOT / "docs" / f"{page}.md" for page in ("reference/models", "howto/monitoring", "howto/export", "howto/search")
)

#: Pages whose regions the site alone has; in the checkout a line says what prints the same.
BUILT = tuple(
    ROOT / "docs" / f"{page}.md"
    for page in (
        "reference/command_line",
        "reference/metrics",
        "reference/parts",
        "theory/linear_gaussian",
    )
)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _restrictions(model: Model) -> str:
    return ", ".join(f"{r.match}/{r.divergence}" for r in model.restrictions) or "none"


def _weights(model: Model) -> str:
    if not model.restrictions:
        return ""
    values = model.weights(1.0, latent_dim=8, pixels=64)
    if values == model.weights(1.0, latent_dim=3, pixels=5):
        doubled = model.weights(1.0, latent_dim=8, pixels=64, cost=2.0)
        return ", ".join(f"{v:g}" if v == d else f"{v:g} x cost" for v, d in zip(values, doubled, strict=True))
    name, size = ("latent_dim", 8) if values == model.weights(1.0, latent_dim=8, pixels=5) else ("pixels", 64)
    return ", ".join(name if v == size else f"{name} x {v / size:g}" for v in values)


def models() -> str:
    """Every model: side, likelihood, restrictions, source."""
    return _table(
        ("name", "side", "likelihood", "restrictions", "source"),
        ((f"`{m.name}`", str(m.side), _likelihood(m), _restrictions(m), m.source) for m in MODELS.values()),
    )


def _likelihood(model: Model) -> str:
    x = {"features": "critic's features", "laplace": "L1"}.get(
        model.likelihood or "", model.likelihood or "the study's"
    )
    z = {"deterministic": "unit variance", "image": "L1"}.get(_encoder(model), _encoder(model))
    return {"q": f"p(x\\|z): {x}".replace("\\|", "|"), "p": f"q(z|x): {z}", "both": f"{x} and {z}"}[str(model.side)]


def _encoder(model: Model) -> str:
    return (PRIORS[model.prior].encoder if model.prior else None) or model.encoder


def weights() -> str:
    """How each model's published weight reads on our scale."""
    return _table(
        ("name", "encoder", "weights at `weight` 1", "from the paper's"),
        (
            (f"`{m.name}`", _encoder(m), _weights(m), m.note or "the paper's 1")
            for m in MODELS.values()
            if m.restrictions
        ),
    )


def costs() -> str:
    """What each likelihood takes for a unit of squared error, at least."""
    pixels = (kind for kind in LIKELIHOODS.values() if not kind.of_critic)
    return _table(("likelihood", "cost"), ((f"`{kind.name}`", f"{kind.cost:g}") for kind in pixels))


def classes() -> str:
    """Models of equal objectives, by what a study forces on all."""

    def row(what: str, **forced: str) -> tuple[str, str]:
        together = (" = ".join(f"`{name}`" for name in names) for names in models_of(**forced) if len(names) > 1)
        return what, "; ".join(together)

    return _table(
        ("a study's `likelihood` and `encoder`", "one curve"),
        (
            row("each model's own"),
            row("`likelihood=bernoulli`, as in `study=tradeoff`", likelihood="bernoulli"),
            row("`likelihood=bernoulli encoder=gaussian`", likelihood="bernoulli", encoder="gaussian"),
        ),
    )


def restrictions() -> str:
    """Every restriction that a study may name."""
    normal = make_prior("normal")
    return _table(
        ("restriction", "unit", "estimate (normal prior)", "source"),
        ((f"`{r.match}/{r.divergence}`", r.unit, r.estimated(normal), r.source) for r in RESTRICTIONS.values()),
    )


def priors() -> str:
    """Every prior, with the restrictions that it refuses to a Gaussian encoder."""

    def row(name: str) -> tuple[str, str, str, str]:
        prior = make_prior(name)
        encoder = ENCODERS["gaussian"]() if prior.encoder is None else ENCODERS[prior.encoder]()
        refused = [f"{r.match}/{r.divergence}" for r in RESTRICTIONS.values() if r.refuses(prior, encoder)]
        if len(refused) > len(RESTRICTIONS) / 2:
            kept = [f"{r.match}/{r.divergence}" for r in RESTRICTIONS.values() if not r.refuses(prior, encoder)]
            text = "all but " + ", ".join(kept)
        else:
            text = ", ".join(refused) or "none"
        summary = (PRIORS[name].__doc__ or "").splitlines()[0]
        return f"`{name}`", summary, prior.encoder or "any", text

    return _table(("prior", "", "encoder", "restrictions refused"), map(row, PRIORS))


def kinds() -> str:
    """What a critic's divergence is."""
    return _table(
        ("kind", "reported", "unit", "source"), ((f"`{n}`", k.estimator, k.unit, k.source) for n, k in KINDS.items())
    )


def gauges() -> str:
    """What a study's driver exports."""
    from gimtune.tuning.gauges import GAUGES  # it imports Ray, which no other table needs

    return _table(
        ("gauge", "labels beside `study` and `run`", "meaning"),
        (
            (f"`ray_{name}`", ", ".join(f"`{label}`" for label in labels) or "none", meaning)
            for name, (labels, meaning) in GAUGES.items()
        ),
    )


def usage() -> str:
    """The commands, as ``--help`` begins."""
    return f"```text\n{help_text().partition('completion:')[0].rstrip()}\n```"


def groups() -> str:
    """What ``group=option`` may say."""
    return _table(("group", "options"), ((f"`{g}`", ", ".join(f"`{name}`" for name in options(g))) for g in GROUPS))


def keys() -> str:
    """Every key with what it means, what it may be, and what it is in the main job."""
    main = load(["study=tradeoff"])

    def value(key: str) -> str:
        section, _, name = key.rpartition(".")
        found = getattr(getattr(main, section), name) if section else getattr(main, key)
        text = json.dumps(found.model_dump() if isinstance(found, BaseModel) else found, default=str)
        return f"`{text}`" if len(text) < 40 else "see its file"

    return _table(
        ("key", "meaning", "in `study=tradeoff`"),
        ((f"`{key}`", _linked(field.description or ""), value(key)) for key, field in all_fields()),
    )


def _linked(meaning: str) -> str:
    return re.sub(r"docs/([\w/]+\.md)", r"[\1](../\1)", meaning)


def swept() -> str:
    """What ``space`` takes beside the models' own parameters."""
    return _table(("key", "what is swept"), ((f"`space.{key}`", meaning) for key, meaning in SWEPT.items()))


def metrics() -> str:
    """Every column that is measured."""
    better = {Direction.MIN: "lower", Direction.MAX: "higher", Direction.NONE: ""}
    return _table(
        ("column", "what it is", "unit", "better", "error", "measured", "source"),
        (
            (
                f"`{m.key}`",
                m.meaning,
                m.unit,
                better[m.direction],
                f"`{m.key}_se`" if m.error else "",
                "at the end" if m.key in LATE else "always",
                m.source,
            )
            for m in METRICS.values()
        ),
    )


def columns() -> str:
    """The columns of a row that are no metrics."""
    named = {"what was run": IDENTITY, "how far it came": PROGRESS, "how it was measured": PROTOCOL}
    return _table(("columns", "names"), ((what, ", ".join(f"`{c}`" for c in cs)) for what, cs in named.items()))


def parts() -> str:
    """Every registered part, kind by kind, with the contract of its kind."""

    def section(kind: str) -> str:
        registry = registries()[kind]
        rows = ((registry.label(key), registry.facts(key)) for key in registry)
        table = _table(
            ("name", "what it is", "columns" if kind == "metric" else "options", "source"),
            (
                (
                    f"`{label}`",
                    facts.summary,
                    ", ".join(f"`{o}`" for o in facts.options if not o.startswith("critic.")),
                    facts.source,
                )
                for label, facts in rows
            ),
        )
        return f"## {kind}\n\nContract: {registry.contract}\n\n{table}"

    order = ("model", "restriction", "prior", "encoder", "likelihood", "network", "data", "metric", "features")
    assert {*order} == {*register.__all__}, "a kind of part has no place on the page"
    return "\n\n".join(map(section, order))


def figures() -> str:
    """What ``gimtune analysis`` draws."""
    return _table(
        ("figure", "what it shows", "how to read it"),
        ((f"`{name}`", kind.title, kind.caption) for name, kind in FIGURES.items()),
    )


def world() -> str:
    """The best beta-VAE of a pixel N(0, 1) and one code, at the decoder's variance .1: `docs/theory`."""
    variance = 0.1

    def row(beta: float) -> tuple[float, ...]:
        noise = min(beta * variance, 1.0)
        rate = information = 0.5 * math.log(1 / noise)
        loss = 0.5 * (noise / variance + math.log(2 * math.pi * variance)) + beta * rate
        inversion = 0.5 * (noise / variance - 1 - math.log(noise / variance))
        difference = beta * rate + 0.5 * math.log(2 * math.pi * math.e) + inversion
        noised = 0.5 * math.log(1.01 / (noise + 0.01))
        means, drawn = ((1 - math.sqrt(1 - noise + more)) ** 2 for more in (0.0, variance))
        return beta, noise, information, rate, loss, inversion, difference - loss, noised, means, drawn

    head = ("beta", "r", "I_q", "rate", "L_q", "KL(q(x|z) || p(x|z))", "-L + dI", "mi_noised", "FID of means")
    betas = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    return _table((*head, "FID of draws"), ([f"{round(v, 9):.3g}" for v in row(beta)] for beta in betas))


def searches() -> str:
    """How far searches came on MNIST: mean and standard deviation over their seeds, as `search_on_study` kept them."""
    found = pd.read_csv(ROOT / "docs" / "images" / "search-mnist.csv")
    ends = found.groupby(["scheduler", "sampler", "seed"], sort=False).last()
    shares = (ends["hypervolume"] / ends["ceiling"]).groupby(["scheduler", "sampler"], sort=False)
    told = {way: f"{share.mean():.2f} ± {share.std():.2f}" for way, share in shares}
    samplers = [*dict.fromkeys(sampler for _, sampler in told)]
    rows = (("fifo", "every member to the end"), ("mo_asha", "`scheduler=mo_asha`"))
    return _table(
        ("share of the grid's hypervolume", *samplers),
        ((name, *(told[scheduler, sampler] for sampler in samplers)) for scheduler, name in rows),
    )


TABLES = {
    "models": models,
    "weights": weights,
    "costs": costs,
    "classes": classes,
    "restrictions": restrictions,
    "priors": priors,
    "kinds": kinds,
    "gauges": gauges,
    "usage": usage,
    "groups": groups,
    "keys": keys,
    "swept": swept,
    "metrics": metrics,
    "columns": columns,
    "parts": parts,
    "figures": figures,
    "world": world,
    "searches": searches,
}


def filled(text: str) -> str:
    """A page with its regions made anew."""
    pattern = r"<!-- (" + "|".join(TABLES) + r") -->\n.*?<!-- end -->"
    return re.sub(pattern, lambda m: f"<!-- {m[1]} -->\n{TABLES[m[1]]()}\n<!-- end -->", text, flags=re.DOTALL)


if __name__ == "__main__":
    for path in FILES:
        path.write_text(filled(path.read_text()))
