"""Members counted row by row, at a cost that does not grow with the study.

The driver's live table keeps a `Tally`, and whoever asks how a study stands fills one from the store, so that both say
the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import pandas as pd

from gimtune.results.course import enough
from gimtune.results.pareto import Front, log_distance
from gimtune.vocabulary import ENDED, Direction, Status


class Tally:
    """Members by status and epochs trained, kept up member by member.

    Args:
        total: members of the whole study, planned or not yet suggested.
        epochs: of a member that runs to its end.
        members: trial, status and epoch of those that are planned.
    """

    def __init__(self, total: int, epochs: int, members: Iterable[tuple[str, Status, int]] = ()) -> None:
        self.total, self.epochs = total, epochs
        self._members: dict[str, tuple[Status, int]] = {}
        self._counts = dict.fromkeys(Status, 0)
        self._trained = dict.fromkeys(Status, 0)
        for trial, status, epoch in members:
            self.take(trial, status, epoch)

    def take(self, trial: str, status: Status, epoch: int = 0) -> bool:
        """A member stands so now; returns whether that ended it. One that has ended stays as it was."""
        before, done = self._members.get(trial, (None, 0))
        if before in ENDED:
            return False
        if before is not None:
            self._counts[before] -= 1
            self._trained[before] -= done
        epoch = max(epoch, done)
        self._members[trial] = status, epoch
        self._counts[status] += 1
        self._trained[status] += epoch
        return status in ENDED

    def status(self, trial: str) -> Status:
        """Where a member stands.

        Raises:
            KeyError: it is not among the planned.
        """
        return self._members[trial][0]

    @property
    def counts(self) -> dict[Status, int]:
        """Members by status; those not yet suggested are planned."""
        later = max(0, self.total - len(self._members))
        return {**self._counts, Status.PLANNED: self._counts[Status.PLANNED] + later}

    @property
    def ended(self) -> int:
        """Members that have ended."""
        return sum(self._counts[status] for status in ENDED)

    @property
    def trained(self) -> int:
        """Epochs, of all members."""
        return sum(self._trained.values())

    @property
    def left(self) -> float:
        """Epochs to go. A member not begun counts as long as those that ended did: a scheduler stops many early."""
        counts, whole = self.counts, (Status.DONE, Status.STOPPED)
        good = sum(counts[status] for status in whole)
        mean = sum(self._trained[status] for status in whole) / good if good else self.epochs
        planned = counts[Status.PLANNED] * mean - self._trained[Status.PLANNED]
        running = counts[Status.RUNNING] * self.epochs - self._trained[Status.RUNNING]
        return max(0.0, planned) + max(0.0, running)

    def seconds_left(self, before: int, elapsed: float, since: float = 0.0) -> float | None:
        """Seconds to the end at the rate so far, or ``None`` while there is none.

        What runs has gone on since it reported, at that rate and no further than to its end: else the time left would
        grow until the next report.

        Args:
            before: epochs that were trained when the driver started.
            elapsed: seconds since then.
            since: of these, seconds since the last report.
        """
        gained, known = self.trained - before, elapsed - since
        if gained <= 0 or known <= 0:
            return None
        running = self.counts[Status.RUNNING] * self.epochs - self._trained[Status.RUNNING]
        ahead = min(since * gained / known, max(0.0, running))
        return elapsed * max(0.0, self.left - ahead) / (gained + ahead)


def essential(best: Front) -> pd.DataFrame:
    """The few points that stand for all: the front's, and the worst of each objective, which set the reference.

    ``front`` of these and further points has the rows, reference and hypervolume of ``front`` of all of them.
    """
    kept = best.points["on_front"].to_numpy(dtype=bool).copy()
    for key, direction in best.objectives.items():
        if len(best.points):
            values = best.points[key].to_numpy(dtype=float)
            kept[values.argmin() if direction is Direction.MAX else values.argmax()] = True
    return best.points[kept].drop(columns=["on_front", "collapsed"])


def summary(tally: Tally, best: Front | None, left: float | None) -> dict[str, str]:
    """A study in one line, by title.

    Args:
        left: seconds to the end.
    """
    counts = tally.counts
    shown = {
        "done": f"{counts[Status.DONE] + counts[Status.STOPPED]} of {tally.total}",
        "running": str(counts[Status.RUNNING]),
        "failed": str(counts[Status.FAILED] + counts[Status.DIVERGED]),
        "time left": "?" if left is None else time_left(left),
    }
    if best is not None and len(best.rows):
        shown |= {"front": str(len(best.rows)), "hypervolume": f"{best.hypervolume:.4g}"}
        shown |= {f"best {key}": f"{value:.4g}" for key, value in bests(best).items()}
    return shown


def bests(best: Front) -> dict[str, float]:
    """The best value of each objective; none without a point."""
    if best.rows.empty:
        return {}
    ways = best.objectives.items()
    return {k: float(best.rows[k].min() if way is Direction.MIN else best.rows[k].max()) for k, way in ways}


def unlevelled(trials: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Of each model, members that had not levelled off when they ended, and all that ended with numbers.

    Models of which all had are left out, and so are members of runs that did not note it.
    """
    trials = trials.reindex(columns=["model", "status", "levelled"])
    ended = trials[trials["status"].isin([Status.DONE, Status.STOPPED]) & trials["levelled"].notna()]
    found = {}
    for model, rows in ended.groupby(ended["model"].astype(str)):
        if missing := int((rows["levelled"] == 0).sum()):
            found[str(model)] = missing, len(rows)
    return found


def levelling(trials: pd.DataFrame) -> str:
    """The same in a sentence, the models with the largest share first; empty where all had levelled off."""
    found = sorted(unlevelled(trials).items(), key=lambda item: (-item[1][0] / item[1][1], item[0]))
    if not found:
        return ""
    told = ", ".join(f"{model} {missing} of {total}" for model, (missing, total) in found)
    needed = _seldom(trials)
    seldom = f" (none could be seen to, since that takes {needed} evaluations)" if needed else ""
    return f"had not levelled off when their budget ended, so that more epochs may move them{seldom}: {told}"


def _seldom(trials: pd.DataFrame) -> int:
    """Evaluations that it takes to see whether a member has levelled off, where no member had as many; else 0."""
    needed = 0
    for epoch, text in trials.reindex(columns=["epoch", "config"]).dropna().itertuples(index=False):
        told = json.loads(text)
        needed = enough(told.get("patience"))
        if math.ceil(epoch / told.get("evaluate_every", 1)) >= needed:
            return 0
    return needed


def edges(points: pd.DataFrame) -> str:
    """Models that generate best at the end of the weights that were tried, in a sentence; empty where there are none.

    Of three weights or more, by the FID on the validation split, a mean of logarithms over seeds, as claims take it: of
    each model, prior and size of the code.
    """
    apart = ["prior", "latent_dim"]
    keys = ["model", *apart, "weight"]
    points = points.reindex(columns=[*keys, "fid"])
    points = points.assign(fid=log_distance(points["fid"]))
    means = points.groupby(keys, observed=True, dropna=False)["fid"].mean().dropna().reset_index()
    several = [key for key in apart if len(means[key].unique()) > 1]
    found = []
    for _, along in means.groupby(["model", *apart], observed=True, dropna=False):
        best, weights = along.sort_values("fid").iloc[0], along["weight"]
        if len(along) > 2 and best["weight"] in (weights.min(), weights.max()):
            which = "smallest" if best["weight"] == weights.min() else "largest"
            words = {"prior": f" with {best['prior']}", "latent_dim": f" with {best['latent_dim']} dimensions"}
            of = "".join(words[key] for key in several)
            found.append(f"{best['model']}{of} at {best['weight']:g}, the {which}")
    told = "; ".join(found)
    head = "generate best at the end of their weights, so that others may be better (`gimtune sweep` looks for them)"
    return f"{head}: {told}" if found else ""


def time_left(seconds: float) -> str:
    """The same duration as `span` has it, or ``soon`` when all epochs are trained and the last members are measured."""
    return span(seconds) if round(seconds) else "soon"


def span(seconds: float) -> str:
    """A duration for people.

    >>> span(7), span(75), span(3 * 3600 + 59), span(200_000)
    ('7 s', '1:15 min', '3 h 00 min', '2 d 7 h')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours and not minutes:
        return f"{rest} s"
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{rest:02d} min"
