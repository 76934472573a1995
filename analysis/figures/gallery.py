"""Every figure of a study, by name: `export.report.export` writes them all, a page or a notebook shows some.

for name, kind in FIGURES.items():
    figure = kind.static(front, study.run)  # or kind.interactive; None where there is nothing to draw
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import plotly.graph_objects as go
from matplotlib.figure import Figure

from gimtune.analysis.figures import courses, fronts, members, planes, sizes, sweeps
from gimtune.analysis.figures.look import name
from gimtune.analysis.figures.views import band
from gimtune.results.pareto import Front


def _nothing(front: Front, run: Path) -> None:
    """There is no such version of a figure."""


class Kind(NamedTuple):
    """One kind of figure.

    Attributes:
        title: what it shows, in a few words.
        caption: how to read it, in one or two sentences.
        static: for paper (PNG, PDF), from the front (its ``points`` are all members considered) and the run folder.
        interactive: for the screen. Either gives ``None`` where the study has nothing to draw.
    """

    title: str
    caption: str
    static: Callable[[Front, Path], Figure | None] = _nothing
    interactive: Callable[[Front, Path], go.Figure | None] = _nothing


def _weights(metric: str, title: str) -> Kind:
    return Kind(
        title,
        "A panel is a model, a line a prior: mean over seeds and their middle 80 %. Hollow: some have collapsed.",
        partial(sweeps.static_weights, metric=metric),
        partial(sweeps.interactive_weights, metric=metric),
    )


#: In the order in which a reader wants them. Names are those of the files under ``figures/``.
FIGURES: Mapping[str, Kind] = MappingProxyType(
    {
        "front": Kind(
            "Pareto front",
            "A point is a trial; those on the line are not dominated. Grey: attained by some seeds but not by all. "
            "Hollow: collapsed posterior, no trade-off.",
            lambda front, run: fronts.static_front(front, band(front)),
            lambda front, run: fronts.interactive_front(front, band(front)),
        ),
        "information": Kind(
            "Both objectives, coloured by mutual information",
            "I_q by one Gaussian for q(z), with noise of a tenth of each dimension's deviation added to every code: "
            "neither a posterior of no width nor the scale of the codes counts as information.",
            planes.static_information,
            planes.interactive_information,
        ),
        "mi": Kind(
            "Mutual information against the objectives",
            "Three estimates of I_q: of noised codes, which compares all models; of the codes themselves, a bound from "
            "above and an estimate from below, by densities that are fitted to them.",
            planes.static_mi,
            planes.interactive_mi,
        ),
        "rate_distortion": Kind(
            "Rate and distortion",
            "Side q. Left the rate that a model restricts, KL(q(z|x) || p(z)); right I_q, estimated: the rate under "
            "the best prior, which models without such a restriction have too. Lower left is better.",
            planes.static_rate_distortion,
            planes.interactive_rate_distortion,
        ),
        "weights_fid": _weights("fid", "FID against the restriction's weight"),
        "weights_probe_codes": _weights("probe_codes", "Probe accuracy against the restriction's weight"),
        "weights_mi_noised": _weights("mi_noised", "Mutual information against the restriction's weight"),
        "weights_restriction": _weights("restriction", "What the restriction costs, against its weight"),
        "sizes": Kind(
            "What the size of the code changes",
            "A line is a model, for each size at the weight where the first objective is best on the validation split: "
            "means over seeds, of the test split where there is one, without collapsed members. Right: what the second "
            "objective loses from the weakest weight to that.",
            sizes.static_sizes,
            sizes.interactive_sizes,
        ),
        "courses": Kind(
            "The trade-off over training",
            "A panel is a model, a line a weight, from the first evaluation to the last: means over seeds and all "
            "else. An open end: not all of its members had levelled off, and further epochs may move it.",
            courses.static_courses,
            courses.interactive_courses,
        ),
        "parallel": Kind(
            "Parallel coordinates",
            "A line is a trial, its place on each axis the value; below the axis where there is none.",
            members.static_parallel,
            members.interactive_parallel,
        ),
        "samples": Kind(
            "Samples and reconstructions along the front",
            "Above, images from codes of the prior. Below, rows of test images and under each its reconstructions.",
            members.static_pictures,
        ),
        "codes": Kind(
            "What the codes mean, along the front",
            "Above, a row is a code, the most active first, which goes from its 2 % to its 98 % quantile while all "
            "others stay. Below, rows from one test image (left) to another (right), by the line between their codes.",
            partial(members.static_pictures, kinds=members.CODES),
        ),
        "neighbours": Kind(
            "Samples and their nearest training images",
            "Rows of generated images, and under each the training image that is nearest by its pixels: pairs that are "
            "the same are repeated, not generated.",
            partial(members.static_pictures, kinds=members.NEIGHBOURS),
        ),
        "latents": Kind(
            "Codes along the front",
            "Posterior means of validation images, in two dimensions or their first two principal components.",
            members.static_latents,
            members.interactive_latents,
        ),
    }
)


def figures_of(objectives: Mapping[str, object]) -> Mapping[str, Kind]:
    """`FIGURES`, and of each objective that has none its course over the weight."""
    own = {f"weights_{key}": _weights(key, f"{name(key)} against the restriction's weight") for key in objectives}
    return {**FIGURES} | {key: kind for key, kind in own.items() if key not in FIGURES}
