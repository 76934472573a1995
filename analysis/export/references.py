"""What a study owes to whom: BibTeX entries of its models, restrictions, priors, metrics, data, search and tools.

A citation's key is its first author and year. Declarations name their sources ("Kingma & Welling 2014"), so the entries
follow from what a study used; ``references.bib`` beside this file has them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gimtune.algebra.models import MODELS
from gimtune.results.load import Study, settings
from gimtune.vocabulary import METRICS

#: Sources of restrictions, which are declared where torch is needed; a test compares.
RESTRICTIONS = {
    "posterior_kl": "Kingma & Welling 2014",
    "posterior_js": "Lin 1991",
    "posterior_js_joint": "Lin 1991",
    "posterior_js_geometric": "Deasy et al. 2020",
    "posterior_kl_contrast": "Mescheder et al. 2017",
    "latent_mmd": "Tolstikhin et al. 2018",
    "latent_mmd_rbf": "Gretton et al. 2012",
    "latent_sliced_wasserstein": "Kolouri et al. 2018",
}
#: Those of critics, by divergence.
CRITICS = {
    **dict.fromkeys(("js", "js_critic", "js_saturating"), "Goodfellow et al. 2014"),
    **dict.fromkeys(("kl", "kl_critic", "kl_reverse"), "Mescheder et al. 2017"),
    "wgan_gp": "Gulrajani et al. 2017",
    "lsgan": "Mao et al. 2017",
}
PRIORS = {"vamp": "Tomczak & Welling 2018", "infogan_code": "Chen et al. 2016", "domain": "Zhu et al. 2017"}
DATA = {"digits": "Alpaydin & Kaynak 1998", "mnist": "LeCun et al. 1998", "fashion_mnist": "Xiao et al. 2017"}
SEARCH = {
    "tpe": "Ozaki et al. 2022; Akiba et al. 2019",
    "nsga2": "Deb et al. 2002; Akiba et al. 2019",
    "gp": "Akiba et al. 2019",
    "mo_asha": "Schmucker et al. 2021",
}
#: The theory, the engine, and the hypervolume that every study reports.
ALWAYS = "Astorga 2022; Liaw et al. 2018; Fonseca et al. 2006"


def keys(sources: str) -> list[str]:
    """Citation keys in a text.

    >>> keys("Hoffman & Johnson 2016; van den Oord 2018, eq. 4")
    ['hoffman2016', 'oord2018']
    """
    found = re.findall(r"([A-Z][A-Za-z]+)(?: & [A-Z][a-z]+| et al\.)? ((?:19|20)\d\d)", sources)
    return [f"{name.lower()}{year}" for name, year in found]


def entries() -> dict[str, str]:
    """Every BibTeX entry, by key."""
    text = (Path(__file__).parent / "references.bib").read_text(encoding="utf-8")
    return {entry.partition("{")[2].partition(",")[0]: entry.strip() for entry in text.split("\n\n") if entry.strip()}


def bibliography(study: Study) -> str:
    """BibTeX of what the study used, by key; names that it does not know have no entry."""
    known = entries()
    used = {key for source in _sources(study) for key in keys(source)}
    return "\n\n".join(known[key] for key in sorted(used & set(known))) + "\n"


def _sources(study: Study) -> Iterator[str]:
    yield ALWAYS
    trials, stated = study.trials, settings(study.run)
    yield from (MODELS[name].source for name in _names(trials, "model") if name in MODELS)
    yield from map(source, sorted({term for text in _names(trials, "restrictions") for term in _terms(text)}))
    for column, table in (("prior", PRIORS), ("data", DATA)):
        yield from (table.get(name, "") for name in _names(trials, column))
    yield from (metric.source for key, metric in METRICS.items() if key in trials and trials[key].notna().any())
    yield from (SEARCH.get(str(_name(stated.get(group), key)), "") for group, key in _CHOICES)


_CHOICES = (("search", "sampler"), ("scheduler", "name"))


def source(restriction: str) -> str:
    """Source of a restriction, as ``latent_mmd``; empty for one that has none."""
    return RESTRICTIONS.get(restriction) or CRITICS.get(restriction.partition("_")[2], "")


def _names(trials: pd.DataFrame, column: str) -> Iterable[str]:
    return map(str, trials[column].dropna().unique()) if column in trials else ()


def _terms(text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [str(term) for term in found] if isinstance(found, list) else []


def _name(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else None
