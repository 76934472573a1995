"""The Ray trainable: one pack of members, one evaluation a step. Actors are reused, and keep data and features."""

from __future__ import annotations

import json
import math
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import PlacementGroupFactory

from gimtune.data import Dataset
from gimtune.evaluation import Evaluation
from gimtune.metrics import fid
from gimtune.training import Rows, default_device, pack_name, run
from gimtune.tuning.scheduler import halted_in
from gimtune.vocabulary import ENDED, METRICS, Direction, Member, Status

_evaluations: dict[tuple[str, str], Evaluation] = {}


def _evaluation(data: Dataset, folder: Path, settings: dict[str, Any], device: torch.device) -> Evaluation:
    """The worker's own, made at its first trial and kept over all others."""
    cached = (data.digest, json.dumps(settings, sort_keys=True))
    if cached not in _evaluations:
        network: fid.Features
        if settings["fid_features"] == "inception":
            network = fid.Inception(settings["inception_weights"], device)
        else:
            network = fid.classifier(data, folder / "features", device)
        _evaluations[cached] = Evaluation(data, network, device)
    return _evaluations[cached]


class GimTrial(tune.Trainable):
    """One pack. Its configuration is plain values: the members as JSON, the run folder, the resources."""

    def setup(self, config: dict[str, Any], data: Dataset) -> None:  # type: ignore[override]  # tune.with_parameters
        self._data = data
        self._start(config["pack"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config["pack"])
        return True

    def _start(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(max(1, int(config["cpu"])))
        self._device = default_device() if config["gpu"] else torch.device("cpu")
        if 0 < config["gpu"] < 1 and self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(config["gpu"])
        self._members = [Member.from_json(text) for text in config["members"]]
        self._folder = Path(config["folder"])
        self._rows: Any = None

    def step(self) -> dict[str, Any]:
        try:
            # made here and not in setup: an error in it is then this pack's alone, with its text in its rows
            if self._rows is None:
                evaluation = _evaluation(self._data, self._folder, dict(self._members[0].metrics), self._device)
                pack = self._folder / "packs" / pack_name(self._members)
                self._rows = run(self._members, evaluation, self._folder, self._note, lambda: halted_in(pack))
            rows: Rows = next(self._rows)
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise  # the machine's doing: Ray starts the pack again, from its checkpoint
        except Exception as error:  # whatever it is, it becomes a row of the store, and the study goes on
            self._note(traceback.format_exc())
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            failed = {"status": str(Status.FAILED), "error": text}
            return {"done": True, "members": {m.trial: {"trial": m.trial, **failed} for m in self._members}}
        return result(rows)

    def _note(self, text: str) -> None:
        path = self._folder / "errors" / f"{pack_name(self._members)}.txt"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as handle:
            handle.write(text.rstrip() + "\n")

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a pack writes its own checkpoints into the run folder."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a pack looks for its own."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory([{"CPU": config["pack"]["cpu"], "GPU": config["pack"]["gpu"]}])


def result(rows: Rows) -> dict[str, Any]:
    """An evaluation as Ray sees it: a lone member's metrics or the best of several, and each row under ``members``."""
    top: dict[str, Any] = {"epoch": max(row["epoch"] for row in rows)}
    for key, metric in METRICS.items():
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        if len(rows) == 1 or metric.direction is not Direction.NONE:
            choose = min if metric.direction is Direction.MIN else max
            top[key] = choose(values, default=math.nan)
    done = all(row["status"] in ENDED for row in rows)
    return {**top, "done": done, "members": {row["trial"]: row for row in rows}}
