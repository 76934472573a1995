"""A pack from its first epoch to its last: trained, measured and kept. Knows no Ray.

for rows in run(members, evaluation, folder):
    ...
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils._pytree import tree_map

from gimtune.algebra.objective import Objective, Parameters
from gimtune.results.course import Course
from gimtune.training.checkpoints import keep, keep_between, newest
from gimtune.training.device import Resident, machines
from gimtune.training.pack import Fellow, Pack, pack_name
from gimtune.training.samples import keep_member
from gimtune.training.writer import Writer
from gimtune.vocabulary import Member, Status

#: What a member's own numbers may raise; the others of its pack go on.
_ITS_OWN = (ArithmeticError, RuntimeError, ValueError)
#: Seconds between two looks whether to stop, during an evaluation.
_LOOK = 0.5
Rows = list[dict[str, Any]]


class Measurements(Protocol):
    """What measures members; `gimtune.metrics.Evaluation` does."""

    data: Resident

    def measure(
        self,
        objective: Objective,
        parameters: Parameters,
        member: Member,
        splits: tuple[str, ...],
        once: dict[Any, Any] | None = None,
        fellows: Sequence[Fellow] = (),
    ) -> dict[str, Any]:
        """Metrics of a member on the splits; ``once`` keeps what is fitted to training images."""
        ...

    def completed(
        self,
        row: dict[str, Any],
        objective: Objective,
        parameters: Parameters,
        member: Member,
        once: dict[Any, Any] | None = None,
        fellows: Sequence[Fellow] = (),
    ) -> dict[str, Any]:
        """Those on the validation split, with what is measured at a member's end alone."""
        ...

    def failed(self, member: Member, splits: tuple[str, ...], why: str) -> dict[str, Any]:
        """The same columns of a member that cannot be measured."""
        ...

    def samples(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """Images from codes of the prior, (count, *image) in [0, 1]."""
        ...

    def reconstructions(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """Test images and their reconstructions, (2, count, *image) in [0, 1]."""
        ...

    def pictures(self, objective: Objective, parameters: Parameters, member: Member) -> Mapping[str, Tensor]:
        """Grids of images that show what codes mean, (rows, columns, *image) in [0, 1], by name."""
        ...

    def codes(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> tuple[Tensor, Tensor]:
        """Posterior means of validation images, (n, latent_dim), and their labels, (n,)."""
        ...


def run(
    members: Sequence[Member],
    evaluation: Measurements,
    folder: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
    stopped: Callable[[], Collection[str]] = tuple,
    stopping: Callable[[], bool] = lambda: False,
    environment: str = "",
    checkpoints: Path | None = None,
    overlap: bool = False,
) -> Iterator[Rows]:
    """Train a pack to its end; yields one row per member at every evaluation.

    A member ends after its ``epochs``, or before when it has levelled off (`gimtune.results.course.Course`) and has a
    ``patience``. Its last row has its final status, and the metrics of the weights that it ends with, on the test split
    too; where these are not those of the last evaluation it is a row more, after that of the evaluation. A batch of
    rows that are all final is the pack's last.

    With a ``folder`` it writes ``packs/<pack>/`` there and goes on from what it finds: the rows of the checkpoint
    first, so that a reader who died before writing them down gets them again. An ended member's weights then stand in
    ``members/<trial>.pt``, its samples in ``samples/<trial>.png``, test images with their reconstructions in
    ``samples/<trial>-reconstructed.png``, what its codes mean in further pictures (`gimtune.metrics.pictures`), and
    codes of validation images with their labels in ``samples/<trial>-latents.npz``.

    Args:
        note: is told of a checkpoint that cannot be read.
        stopped: names members that are to end where they stand; asked before every interval. They are measured on the
            test split and leave the pack.
        stopping: whether it is to end without having ended: asked before every minibatch, and now and then during an
            evaluation. A pack with a folder writes there where it stands, and goes on from it bit for bit.
        environment: short name of the one that this process computes in; rows hold those of all that they came from.
        checkpoints: its folder, where it is not ``packs/<pack>``.
        overlap: whether files are written while the next interval is trained. Rows are then told at the end of the
            epoch in which their checkpoint has come to stand, so that ``stopped`` must not wait for them.
    """
    if folder and checkpoints is None:
        checkpoints = folder / "packs" / pack_name(members)
    with Writer(evaluation.data.device, overlap) as write:
        training = _Training(members, evaluation, folder, write)
        training.environments |= {environment: None} if environment else {}
        yield from _run(training, checkpoints, note, stopped, stopping)


def _run(
    training: _Training,
    checkpoints: Path | None,
    note: Callable[[str], None],
    stopped: Callable[[], Collection[str]],
    stopping: Callable[[], bool],
) -> Iterator[Rows]:
    pack, every, write = training.pack, training.every, training.write
    told: list[Rows] = []
    # the same while their checkpoint is being written
    untold: list[Rows] = []
    pending: Rows = []
    stands = _Stands.BEHIND
    if checkpoints and (found := newest(checkpoints, note)):
        training.restore(found)
        pending, told, stands = found["pending"], found["rows"], _Stands(found.get("stands", _Stands.BEHIND))
        yield from told
    while pack.members and (pack.epoch < training.last or stands is not _Stands.BEHIND):
        rows, pending = pending, []
        names = stopped() if stands is _Stands.BEHIND else ()
        if halted := [m for m in pack.members if m.trial in names]:
            rows += training.ended([(m, {}) for m in halted], Status.STOPPED)
            pack.drop(halted)
        while stands is not _Stands.BEFORE and pack.members and pack.epoch < training.last:
            if not pack.train_epoch(stopping):
                if checkpoints:
                    between = {"rows": told, "pending": rows, "stands": str(_Stands.WITHIN)}
                    write.wait()
                    keep_between({**training.state(), **between}, checkpoints)
                yield from untold
                return
            if lost := pack.diverged():
                why = f"the loss was not finite in epoch {pack.epoch}"
                rows += [training.failed(m, Status.DIVERGED, why) for m in lost]
                pack.drop(lost)
            if untold and write.through:
                untold = yield from _stood(write, untold)
            if not pack.members or pack.epoch % every == 0 or pack.epoch == training.last:
                break
        untold = yield from _stood(write, untold)
        stands = _Stands.BEHIND
        between = {"rows": told, "pending": rows, "stands": str(_Stands.BEFORE)}
        with _kept_before(training, between, checkpoints, stopping):
            evaluated, later = training.evaluated()
        if pack.members:
            # with the next evaluation: rows of ended members alone would say that the pack has ended
            pending, later = later, []
        told = [batch for batch in (rows + evaluated, later) if batch]
        if checkpoints:
            state = {**training.state(), "rows": told, "pending": pending}
            write(keep, tree_map(_held, state) if write.apart else state, checkpoints)
        untold = told
        if not (write.apart and pack.members and pack.epoch < training.last):
            untold = yield from _stood(write, untold)


def _stood(write: Writer, untold: list[Rows]) -> Generator[Rows, None, list[Rows]]:
    """Tell rows when what they speak of stands; none is left."""
    write.wait()
    yield from untold
    return []


def _held(leaf: Any) -> Any:
    """What a checkpoint holds, apart from what training changes in place."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


class _Stands(StrEnum):
    """Where a checkpoint stands: behind an evaluation, within the interval after it, or before the next evaluation."""

    BEHIND = "behind"
    WITHIN = "within"
    BEFORE = "before"


@contextmanager
def _kept_before(
    training: _Training, more: dict[str, Any], checkpoints: Path | None, stopping: Callable[[], bool]
) -> Iterator[None]:
    """Measuring may take longer than there is time to stop: the state before it is written meanwhile."""
    if checkpoints is None or not training.pack.members:
        yield
        return
    state, over = {**training.before(), **more}, threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK):
            if stopping():
                keep_between(state, checkpoints)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Training:
    """A pack on its way, with its members' courses."""

    def __init__(self, members: Sequence[Member], evaluation: Measurements, folder: Path | None, write: Writer) -> None:
        self.every, self.write = members[0].evaluate_every, write
        self.pack, self.evaluation, self.folder = Pack(members, evaluation.data), evaluation, folder
        self.last = members[0].epochs
        self.courses = {m.trial: Course(m.watched, m.restore, m.patience) for m in members}
        # validation metrics of the weights that each would end with
        self.best: dict[str, dict[str, Any]] = {}
        self.environments: dict[str, None] = {}

    def state(self) -> dict[str, Any]:
        kept = {m.trial for m in self.pack.members}
        courses = {trial: course.state() for trial, course in self.courses.items() if trial in kept}
        best = {trial: json.dumps(row) for trial, row in self.best.items() if trial in kept}
        return {**self.pack.state(), "courses": courses, "best_rows": best, "environments": [*self.environments]}

    def before(self) -> dict[str, Any]:
        """The state, apart from what an evaluation changes in place: weights marked as the best, and courses."""
        state = self.state()
        best = None if state["best"] is None else tree_map(lambda leaf: leaf.clone(), state["best"])
        return {**state, "best": best, "courses": deepcopy(state["courses"])}

    def restore(self, state: dict[str, Any]) -> None:
        self.pack.restore(state)
        for trial, course in state["courses"].items():
            self.courses[trial].resumed(course)
        self.best = {trial: json.loads(row) for trial, row in state["best_rows"].items()}
        self.environments = {**dict.fromkeys(state.get("environments", ())), **self.environments}

    def evaluated(self) -> tuple[Rows, Rows]:
        """Rows of all members, and further ones of those that end with weights of another evaluation; these leave."""
        rows: Rows = []
        gone: list[Member] = []
        now: list[tuple[Member, dict[Any, Any]]] = []
        before: list[tuple[Member, dict[Any, Any]]] = []
        fellows = [Fellow(self.pack.one(i), member, {}) for i, member in enumerate(self.pack.members)]
        for fellow in fellows:
            member, memory = fellow.member, fellow.once
            metrics = self._measured(fellow, fellows)
            if isinstance(metrics, str):
                rows.append(self.failed(member, Status.FAILED, metrics))
                gone.append(member)
                continue
            course, best = self.courses[member.trial], self._entered(member, metrics)
            ends = self.pack.epoch == self.last or (member.patience is not None and course.levelled)
            if not (ends and best):
                rows.append(self._row(member, metrics, Status.RUNNING))
            if ends:
                # what was fitted when these weights were measured serves once more, if they are the best
                (now if best else before).append((member, memory if best else {}))
                gone.append(member)
        ended = self.ended([*now, *before], Status.DONE)
        if gone:
            self.pack.drop(gone)
        return rows + ended[: len(now)], ended[len(now) :]

    def ended(self, ending: Sequence[tuple[Member, dict[Any, Any]]], status: Status) -> Rows:
        """Final rows of members, of their best weights, each with what was fitted when these were measured."""
        lost: dict[str, str] = {}
        for member, _ in ending:
            if member.trial not in self.best:  # told to stop before its first evaluation
                metrics = self._measured(Fellow(self.pack.one(self._index(member)), member, {}))
                if isinstance(metrics, str):
                    lost[member.trial] = metrics
                else:
                    self._entered(member, metrics)
        left = [(member, memory) for member, memory in ending if member.trial not in lost]
        fellows = [Fellow(self.pack.one(self._index(member), True), member, memory) for member, memory in left]
        rows = {fellow.member.trial: self._ended(fellow, fellows, status) for fellow in fellows}
        return [
            self.failed(member, Status.FAILED, lost[member.trial]) if member.trial in lost else rows[member.trial]
            for member, _ in ending
        ]

    def _ended(self, fellow: Fellow, fellows: Sequence[Fellow], status: Status) -> dict[str, Any]:
        member = fellow.member
        index, trial = self._index(member), member.trial
        started = time.perf_counter()
        whose = self.pack.objective, *fellow[:2]
        try:
            metrics = self.evaluation.completed(self.best[trial], *whose, fellow.once, fellows)
            tested = self.evaluation.measure(*whose, ("test",), fellow.once, fellows)
        except _ITS_OWN as error:
            if machines(error):
                raise
            return self.failed(member, Status.FAILED, f"{type(error).__name__}: {error}")
        finally:
            self.pack.seconds[trial] += time.perf_counter() - started
        texts = {key: {**tested[key], **metrics[key]} for key in ("estimators", "reasons", "flags")}
        row = self._row(member, {**tested, **metrics, **texts}, status)
        row["best_epoch"] = self.courses[member.trial].best
        if self.folder:
            row["checkpoint"] = str(Path("members") / f"{trial}.pt")
            keep_member(self.pack, self.evaluation, index, self.folder, row, self.write)
        return row

    def failed(self, member: Member, status: Status, why: str) -> dict[str, Any]:
        """The final row of a member that cannot be measured."""
        metrics = self.evaluation.failed(member, ("validation", "test"), why)
        return self._row(member, metrics, status, why)

    def _index(self, member: Member) -> int:
        return self.pack.members.index(member)

    def _entered(self, member: Member, metrics: dict[str, Any]) -> bool:
        """Enter an evaluation in the member's course; whether its weights are the best so far."""
        best = self.courses[member.trial].take(self.pack.epoch, metrics)
        if best:
            self.pack.mark(self._index(member))
            self.best[member.trial] = metrics
        return best

    def _measured(self, fellow: Fellow, fellows: Sequence[Fellow] = ()) -> dict[str, Any] | str:
        """Metrics on the validation split, or why there are none: this member's numbers, not the machine; the others
        go on."""
        started = time.perf_counter()
        try:
            return self.evaluation.measure(self.pack.objective, *fellow[:2], ("validation",), fellow.once, fellows)
        except _ITS_OWN as error:
            if machines(error):
                raise
            return f"{type(error).__name__}: {error}"
        finally:
            self.pack.seconds[fellow.member.trial] += time.perf_counter() - started

    def _row(self, member: Member, metrics: dict[str, Any], status: Status, error: str | None = None) -> dict[str, Any]:
        """A row as the results store takes it: reasons, flags and estimators are JSON text."""
        pack, course = self.pack, self.courses[member.trial]
        images = len(pack.data.images["train"]) * pack.epoch
        trained = pack.trained[member.trial]
        row = {
            "trial": member.trial,
            "epoch": pack.epoch,
            "best_epoch": pack.epoch if error is None else None,
            "restored_by": str(course.restore),
            "levelled": float(error is None and course.levelled),
            "eager": pack.eager,
            "status": str(status),
            "error": error,
            "diverged": float(status is Status.DIVERGED),
            "seconds": pack.seconds[member.trial],
            "examples_per_second": images / trained if trained else math.nan,
            "environment": "+".join(self.environments) or None,
            **metrics,
        }
        return {key: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for key, v in row.items()}
