"""The Ray trainable: one pack of members, one evaluation a step. Actors are reused, and keep data and features."""

from __future__ import annotations

import contextlib
import errno
import json
import platform
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune import PlacementGroupFactory

from gimtune import parts
from gimtune.data import Dataset
from gimtune.metrics.evaluation import Evaluation, kept
from gimtune.results.environment import fingerprint
from gimtune.training import (
    Rows,
    default_device,
    device_lost,
    halve,
    made_by,
    out_of_memory,
    pack_name,
    run,
)
from gimtune.training import (
    parts as parts_of,
)
from gimtune.training.replay import CAPTURES, cuda_graph
from gimtune.tuning.attempts import Attempts
from gimtune.tuning.packs import SEEN, as_text, best_of
from gimtune.tuning.scheduler import halted_in
from gimtune.tuning.stopping import Asked
from gimtune.vocabulary import ENDED, Member, Status

#: What ends every pack alike, and is no pack's fault.
_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class GimTrial(tune.Trainable):
    """One pack. Its configuration is plain values: the members as JSON, the run folder, the resources."""

    def setup(self, config: dict[str, Any], data: Dataset) -> None:  # type: ignore[override]  # tune.with_parameters
        self._data = data
        self._start(config["pack"])

    def __repr__(self) -> str:
        # shown by the dashboard, which asks once: an actor serves many trials of one run
        return f"{self._folder.parent.name}/{self._folder.name}"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config["pack"])
        return True

    #: Whether this process met an error of its device, which it would meet again.
    _spent = False

    def _start(self, config: dict[str, Any]) -> None:
        if self._spent:
            raise RuntimeError("this worker's device failed: the pack is started in another")
        torch.set_num_threads(max(1, int(config["cpu"])))
        self._plugins: dict[str, str] = config["plugins"]
        self._gpu: float = config["gpu"]
        self._device = default_device() if config["gpu"] else torch.device("cpu")
        self._made = made_by(self._device, torch.get_num_threads())
        if 0 < config["gpu"] < 1 and self._device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(config["gpu"])
        # on a CPU there is nothing beside it; a scheduler wants to hear of an interval before the next begins
        self._overlap = self._device.type == "cuda" and not config["scheduled"]
        if config["cuda_graphs"]:
            CAPTURES["cuda"] = cuda_graph
        self._members = [Member.from_json(text) for text in config["members"]]
        self._folder = Path(config["folder"])
        self._attempts = Attempts(self._folder / "packs" / pack_name(self._members), config["driver"])
        self._asked = Asked(self._folder, config["driver"])
        self._rows: Any = None
        self._part: list[Member] = []
        self._notes: list[str] = []

    def step(self) -> dict[str, Any]:
        try:
            # made here and not in setup: an error in it is then this pack's alone, with its text in its rows
            if self._rows is None:
                self._rows = self._begin()
            told: tuple[Rows, bool] | None = next(self._rows, None)
            if told is None:  # asked to stop, and where it stands is written down
                return {"done": True, "members": {}, "notes": self._told()}
            rows, last = told
            seen = result(rows)
            done = {"done": seen["done"] and last}
            return {**seen, **done, "notes": self._told(), "environment": json.dumps(self._made)}
        except OSError as error:
            if error.errno in _MACHINE:
                return self._stop(error)
            return self._again(error)
        except Exception as error:
            if out_of_memory(error):
                return self._halved(error)
            if device_lost(error):
                self._spent = True
                return self._again(error)
            return self._failed(error)  # whatever it is, it becomes a row of the store, and the study goes on

    def _begin(self) -> Iterator[tuple[Rows, bool]]:
        if not (self._folder / "config.yaml").is_file():
            # a node that came after the study's start; it would train, and keep the files to itself
            raise FileNotFoundError(f"{platform.node()} does not share the run folder {self._folder}")
        self._attempts.count()
        if self._gpu and self._device.type != "cuda":
            # it would train on the processor, to other numbers
            raise OSError(errno.ENODEV, f"{platform.node()} has no CUDA device for resources.gpu={self._gpu:g}")
        parts.load(self._plugins, expected=self._plugins)
        evaluation = kept(self._data, self._folder, dict(self._members[0].metrics), self._device)
        return self._trained(evaluation)

    def _trained(self, evaluation: Evaluation) -> Iterator[tuple[Rows, bool]]:
        """Rows of the pack's parts, one after the other, each with whether its part is the last."""
        pack = self._attempts.folder
        listed = parts_of(self._members, pack)
        if len(listed) > 1:
            most = max(len(part) for part, _ in listed)
            self._note(
                f"{self._members[0].trial}: memory did not suffice for the {len(self._members)} members of its pack "
                f"at a time; it goes on with {most} at a time"
            )
        for self._part, place in listed:
            for rows in run(
                self._part,
                evaluation,
                self._folder,
                self._note,
                lambda: halted_in(pack),
                stopping=self._asked,
                environment=fingerprint(self._made),
                checkpoints=place,
                overlap=self._overlap,
            ):
                yield rows, place == listed[-1][1]
            if self._asked():
                return

    def _halved(self, error: Exception) -> dict[str, Any]:
        """Ray starts the pack again in a fresh worker, with half as many members at a time if there are several."""
        self._spent = True
        self._rows = None
        if len(self._part) > 1:
            halve(self._members, self._attempts.folder, self._part)
            raise error
        return self._again(error)

    def _again(self, error: Exception) -> dict[str, Any]:
        """The machine's doing: Ray starts the pack again, from its checkpoint, unless that has been tried often."""
        self._rows = None
        if not self._attempts.exhausted:
            self._attempts.blame(error)
            raise error
        return self._stop(error) if isinstance(error, OSError) else self._failed(error)

    def _stop(self, error: OSError) -> dict[str, Any]:
        """Ends the study, not the pack: whoever resumes it goes on from the last checkpoint."""
        return {"done": True, "members": {}, "stop": f"{self._members[0].trial}: {error}", "notes": self._told()}

    def _failed(self, error: Exception) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            self._write("".join(traceback.format_exception(error)))
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        failed = {"status": str(Status.FAILED), "error": text}
        rows = as_text({"trial": m.trial, **failed} for m in self._members)
        return {"done": True, "members": rows, "notes": self._told()}

    def _note(self, text: str) -> None:
        self._notes.append(text)
        self._write(text)

    def _told(self) -> list[str]:
        told, self._notes = self._notes, []
        return told

    def _write(self, text: str) -> None:
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
    """An evaluation as Ray sees it: what a study is about, and all rows as text."""
    top = {"epoch": max(row["epoch"] for row in rows), **best_of(rows, SEEN)}
    done = all(row["status"] in ENDED for row in rows)
    return {**top, "done": done, "members": as_text(rows)}
