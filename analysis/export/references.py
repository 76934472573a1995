"""What a study owes to whom: BibTeX entries of its models, restrictions, priors, metrics, data, search and tools.

A citation's key is its first author and year. Parts name their sources ("Kingma & Welling 2014"), which the driver
writes into the run, so the entries follow from what a study used; ``references.bib`` beside this file has them all.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gimtune.results.load import Study, settings
from gimtune.vocabulary import METRICS

#: What is no registered part: samplers and schedulers.
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
    found = re.findall(r"([A-Z][A-Za-z-]+)(?: & [A-Z][a-z]+| et al\.)? ((?:19|20)\d\d)", sources)
    return [f"{name.lower().replace('-', '')}{year}" for name, year in found]


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
    """Those of the parts that the study used, as the driver wrote them down."""
    yield ALWAYS
    trials, stated = study.trials, settings(study.run)
    told = _json(study.meta.get("sources"))

    def of(kind: str, names: Iterable[str]) -> Iterator[str]:
        known = told.get(kind)
        yield from (str(known.get(name, "")) for name in names) if isinstance(known, dict) else ()

    for kind, column in _COLUMNS.items():
        # images of one's own have a name that says which
        yield from of(kind, {name.partition(":")[0] for name in _names(trials, column)})
    yield from of("restriction", {"/".join(term.split("_", 1)) for term in _terms(_names(trials, "restrictions"))})
    yield from of("features", {name.partition(":")[0] for name in _names(trials, "fid_features")})
    measured = [key for key in METRICS if told and key in trials and trials[key].notna().any()]
    yield from (METRICS[key].source for key in measured)
    yield from (SEARCH.get(str(_name(stated.get(group), key)), "") for group, key in _CHOICES)


#: Columns that name parts, by the parts' kind.
_COLUMNS = {
    "model": "model",
    "prior": "prior",
    "data": "data",
    "likelihood": "likelihood_name",
    "encoder": "encoder",
    "network": "network",
}
_CHOICES = (("search", "sampler"), ("scheduler", "name"))


def _names(trials: pd.DataFrame, column: str) -> Iterable[str]:
    return map(str, trials[column].dropna().unique()) if column in trials else ()


def _terms(texts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in texts:
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            found.update(map(str, json.loads(text)))
    return found


def _json(text: object) -> dict[str, Any]:
    try:
        found = json.loads(str(text))
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _name(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else None
