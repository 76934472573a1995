"""What a study shows of itself at the metrics endpoint of its node, for Prometheus: a few gauges, set by the driver."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from ray.util.metrics import Gauge

from gimtune.results.pareto import Front
from gimtune.results.tally import Tally, bests

#: Name, as Ray exports it with ``ray_`` before it: labels beside ``study`` and ``run``, and meaning.
GAUGES: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "gimtune_members": (("status",), "members, by planned, running, done, stopped, diverged, failed"),
        "gimtune_epochs": ((), "epochs trained, of all members"),
        "gimtune_seconds_left": ((), "seconds to the end, at the rate of epochs since the driver started"),
        "gimtune_front_size": ((), "members on the front of those that have ended"),
        "gimtune_hypervolume": ((), "of that front, from the reference point that the table of the front names"),
        "gimtune_best": (("objective",), "best value so far of each objective of the study"),
        "gimtune_latest": (
            ("model", "metric"),
            "fid, probe_codes, mi_noised, restriction, last reported by a member of the model: the median of its pack",
        ),
    }
)
LATEST = ("fid", "probe_codes", "mi_noised", "restriction")


class Gauges:
    """The gauges of one run. Ray has to be there; a value that is not finite is not shown.

    Args:
        study: its name.
        run: the name of its folder, which tells two runs of one study apart.
    """

    def __init__(self, study: str, run: str) -> None:
        self._gauges = {
            name: Gauge(name, description=meaning, tag_keys=("study", "run", *labels))
            for name, (labels, meaning) in GAUGES.items()
        }
        for gauge in self._gauges.values():
            gauge.set_default_tags({"study": study, "run": run})

    def show(
        self, tally: Tally, best: Front | None, left: float | None, latest: Mapping[tuple[str, str], float]
    ) -> None:
        """Set all of them.

        Args:
            latest: by model and metric.
        """
        for status, count in tally.counts.items():
            self._set("gimtune_members", count, status=str(status))
        self._set("gimtune_epochs", tally.trained)
        self._set("gimtune_seconds_left", math.nan if left is None else left)
        if best is not None:
            self._set("gimtune_front_size", len(best.rows))
            self._set("gimtune_hypervolume", best.hypervolume)
            for objective, value in bests(best).items():
                self._set("gimtune_best", value, objective=objective)
        for (model, metric), value in latest.items():
            self._set("gimtune_latest", value, model=model, metric=metric)

    def _set(self, name: str, value: float, **labels: str) -> None:
        if math.isfinite(value):
            self._gauges[name].set(float(value), tags=labels)
