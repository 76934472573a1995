"""All metrics of one member: on the validation split for selection, and once more on the test split at its end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gimtune.algebra.objective import Objective, Parameters
from gimtune.data import Dataset
from gimtune.metrics import features
from gimtune.metrics.features import Features
from gimtune.metrics.measures import columns, find
from gimtune.metrics.pictures import pictures
from gimtune.metrics.view import Estimate, Memory, View, undefined
from gimtune.training import Fellow, Pack, Resident
from gimtune.vocabulary import LATE, METRICS, Member

#: Why a metric is not measured before a member's end, where its study says so.
_LATER = "measured when a member ends (budget.measure)"
#: Beside the objectives: what levelling off and the way back to the best weights look at, and a front's corner.
_ALWAYS = ("loss", "fid_worst", "probe_chance")


def early(member: Member) -> list[str]:
    """Columns that are measured at evaluations before a member's end."""
    every = columns(member)
    if member.metrics.get("measure", "all") == "all":
        return every
    wanted = {find(key, member).name for key in (*member.watched, *_ALWAYS) if key in every}
    return [key for key in every if find(key, member).name in wanted]


class Evaluation:
    """Measures members on a data set; what does not depend on the member is computed once and kept.

    Args:
        data: its arrays are moved to ``device`` once.
        network: features for the Frechet distances.
    """

    def __init__(self, data: Dataset, network: Features, device: torch.device) -> None:
        self.data, self.network = Resident(data, device), network
        self._kept: Memory = {}

    def view(
        self, objective: Objective, parameters: Parameters, member: Member, split: str, once: Memory | None = None
    ) -> View:
        """A member on a split, to be looked at; ``once`` is shared by the views of one member."""
        once = {} if once is None else once
        return View(objective, parameters, member, split, self.data, self.network, once, self._kept, find)

    @torch.no_grad()
    def measure(
        self,
        objective: Objective,
        parameters: Parameters,
        member: Member,
        splits: tuple[str, ...],
        once: Memory | None = None,
        fellows: Sequence[Fellow] = (),
    ) -> dict[str, Any]:
        """Every registered metric on the splits, with ``test_`` before the test split's keys.

        ``reasons`` says of each value that is NaN why it is, and ``flags`` of each that is not to be trusted. The draws
        depend on the member's seed and on nothing else, so the same weights give the same numbers at any time. What is
        fitted to training images is kept in ``once``, for the same weights on another split. Without the test split the
        member is taken to go on, and what takes long is left out.

        Args:
            fellows: members that are measured with it, itself among them: what is fitted is fitted for all at once.
        """
        row: dict[str, Any] = {"estimators": {}, "reasons": {}, "flags": {}}
        once, kept, final = {} if once is None else once, self._kept, "test" in splits
        for split in splits:
            whose = objective, parameters, member, split, self.data, self.network, once, kept, find
            view = View(*whose, fellows=fellows, final=final)
            now = columns(member) if final else early(member)
            for key in columns(member):
                _enter(row, split, key, view.estimate(key) if key in now else undefined(_LATER))
        row["fid_features"] = self.network.name
        row["fid_samples"], row["fid_reference_samples"] = view.count, len(self.data.images[splits[0]])
        row["fid_reference"] = self.data.dataset.reference
        # those that a code's own image is told from, and it itself
        row["mi_images"] = min(member.metrics["probe_samples"], len(self.data.images["train"])) + 1
        return row

    @torch.no_grad()
    def completed(
        self,
        row: dict[str, Any],
        objective: Objective,
        parameters: Parameters,
        member: Member,
        once: Memory | None = None,
        fellows: Sequence[Fellow] = (),
    ) -> dict[str, Any]:
        """A row of the validation split as it is when its member ends with these weights: with what was left out."""
        row = {**row, **{text: dict(row[text]) for text in ("estimators", "reasons", "flags")}}
        once = {} if once is None else once
        whose = objective, parameters, member, "validation", self.data, self.network, once, self._kept, find
        view = View(*whose, fellows=fellows)
        known = {*early(member)} - LATE
        for key in columns(member):
            if key not in known:
                row["reasons"].pop(key, None)
                _enter(row, "validation", key, view.estimate(key))
        return row

    @torch.no_grad()
    def added(
        self, objective: Objective, parameters: Parameters, member: Member, keys: Sequence[str]
    ) -> dict[str, Any]:
        """Some metrics of a member that has ended, on both splits, as `measure` gives them."""
        row: dict[str, Any] = {"estimators": {}, "reasons": {}, "flags": {}}
        once: Memory = {}
        for split in ("validation", "test"):
            view = self.view(objective, parameters, member, split, once)
            for key in keys:
                _enter(row, split, key, view.estimate(key))
        return row

    def row(self, pack: Pack, index: int, splits: tuple[str, ...]) -> dict[str, Any]:
        """The same of one member of a pack, as it is now."""
        return self.measure(pack.objective, pack.one(index), pack.members[index], splits)

    def failed(self, member: Member, splits: tuple[str, ...], why: str) -> dict[str, Any]:
        """The row of a member that cannot be measured: NaN everywhere, with the reason."""
        keys = [_named(split, key) for split in splits for key in columns(member)]
        return {**dict.fromkeys(keys, math.nan), "reasons": dict.fromkeys(keys, why), "flags": {}}

    @torch.no_grad()
    def samples(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """The first images that the member's test FID is computed from: (count, *image) in [0, 1]."""
        view = self.view(objective, parameters, member, "test")
        return view.decode(view.sampled(count))

    @torch.no_grad()
    def reconstructions(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """The test split's first images and the decoder's means of a code each: (2, count, *image) in [0, 1]."""
        view = self.view(objective, parameters, member, "test")
        decoded = view.decode(view.drawn(count=count).z)
        return torch.stack([self.data.scaled("test", slice(count)), decoded])

    @torch.no_grad()
    def pictures(self, objective: Objective, parameters: Parameters, member: Member) -> Mapping[str, Tensor]:
        """Grids of images that show what codes mean, (rows, columns, *image) in [0, 1], by name."""
        return pictures(self.view(objective, parameters, member, "test"))

    @torch.no_grad()
    def codes(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> tuple[Tensor, Tensor]:
        """Posterior means of the validation split's first images, (n, k), and their labels, (n,)."""
        view = self.view(objective, parameters, member, "validation")
        means = view.drawn(count=count).mu[:, : view.encoder.coded(view.latent_dim)]
        return means, self.data.labels["validation"][:count]


_evaluations: dict[tuple[str, str], Evaluation] = {}


def kept(data: Dataset, folder: Path, settings: Mapping[str, Any], device: torch.device) -> Evaluation:
    """A process' own, made for the first member and kept for all others of these data and settings.

    Args:
        folder: of the run, where a feature network that was made for it is.
        settings: of the measurements, a member's ``metrics``.
    """
    cached = (data.digest, json.dumps(dict(settings), sort_keys=True))
    if cached not in _evaluations:
        network = features.load(data, settings, folder, device, keep=True)
        _evaluations[cached] = Evaluation(data, network, device)
    return _evaluations[cached]


def _enter(row: dict[str, Any], split: str, key: str, estimate: Estimate) -> None:
    value, error, reason, flag, estimator = estimate
    name = _named(split, key)
    row[name] = value if math.isfinite(value) else math.nan
    if not math.isfinite(value):
        row["reasons"][name] = reason or "not finite in float32"
    if flag:
        row["flags"][name] = flag
    if estimator:
        row["estimators"][key] = estimator
    if error is not None or (key in METRICS and METRICS[key].error):
        # without one of its own where the value has a reason, or where there is one minibatch
        row[f"{name}_se"] = math.nan if error is None else error


def _named(split: str, key: str) -> str:
    return f"test_{key}" if split == "test" else key
