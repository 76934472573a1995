"""M members in one program: their train steps, and the state that a checkpoint holds. Knows no Ray.

The generators are functions of seed and epoch (`gimtune.algebra.seeds`), so weights, optimisers and the epoch are all
that is needed to go on bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from gimtune.algebra.encoders import Spread
from gimtune.algebra.objective import Constants, Objective, batches, slice_noise, spread_of
from gimtune.algebra.seeds import generator
from gimtune.training.adam import Adam
from gimtune.training.device import Resident, precision
from gimtune.training.replay import Step
from gimtune.vocabulary import Member

FORMAT = 3


class Fellow(NamedTuple):
    """A member that is measured together with others: its weights, and what was made for measuring them."""

    parameters: Mapping[str, Mapping[str, Tensor]]
    member: Member
    once: dict[Any, Any]


class Pack:
    """M members of one model, network and prior family, trained together on shared minibatches.

    The formula is written for one member and mapped over all. A member's numbers do not depend on its pack but for
    rounding, which an adversarial training makes as much of as of another seed: so small fully connected networks,
    where the map is kept at M = 1 too, give the same bits alone and anywhere in any pack (seen on a CPU with AVX2,
    layers in multiples of 8; others differ by 1e-8). A larger network alone does without the map, which would cost it
    a quarter of its speed. Members that end early leave the stack, and the rest goes on.

    Args:
        members: they differ in weight, prior parameters, Adam's learning rate and beta1, the bound and start of the
            posterior's standard deviation, and seed alone.
        data: on the device that is trained on.
    """

    def __init__(self, members: Sequence[Member], data: Resident, dtype: torch.dtype | None = None) -> None:
        self.members = list(members)
        self.data, self.device = data, data.device
        self.objective = Objective(members[0], data.image, dtype or precision(self.device))
        first = members[0]
        self.mapped = len(members) > 1 or self.objective.small
        self.batch_size, self.shuffle_seed = first.batch_size, first.shuffle_seed
        # minibatches of the present epoch that are done, and members whose losses have been finite in it
        self.epoch = self._step = 0
        self._finite = torch.ones(len(members), dtype=torch.bool, device=self.device)
        self.seconds = dict.fromkeys((m.trial for m in members), 0.0)
        self.trained = dict.fromkeys(self.seconds, 0.0)
        constants = [data.constants(self.objective, m, "train") for m in members]
        spreads = _spreads(members, self.device)
        self._stack(
            [self.objective.initial(m.seed, self.device) for m in members],
            [those._replace(spread=own) for those, own in zip(constants, spreads, strict=True)],
        )
        self.optimisers = self._optimisers()
        self._steps = self._recorders()
        # the weights to end with, where they may be others than the last
        self._best: dict[str, dict[str, Tensor]] | None = None
        if first.restore != "last":
            self._best = tree_map(lambda leaf: leaf.detach().clone(), self.parameters)

    def _stack(self, parameters: Sequence[Any], constants: Sequence[Constants]) -> None:
        self.parameters: dict[str, dict[str, Tensor]] = tree_map(
            lambda *leaves: torch.stack(leaves).requires_grad_(), *parameters
        )
        self.constants: Constants = tree_map(lambda *leaves: torch.stack(leaves), *constants)

    def _owned(self, modules: Sequence[str]) -> list[Tensor]:
        return [value for module in modules for value in self.parameters[module].values()]

    def _optimisers(self, moments: Mapping[str, Any] | None = None) -> dict[str, Adam]:
        made = {}
        for player in self.objective.players:
            rates = [m.learning_rate * player.learning_rate for m in self.members]
            decays = [m.beta1 if player.beta1 is None else player.beta1 for m in self.members]
            moved = moments[player.name] if moments else {}
            made[player.name] = Adam(self._owned(player.modules), rates, decays, **moved)
        return made

    def _recorders(self) -> dict[str, Step]:
        others = ", ".join(self.objective.foreign)
        eager = f"{others}: written by others, who may decide otherwise at another step" if others else ""
        return {player.name: Step(eager) for player in self.objective.players}

    def _losses(self, player: str, x: Tensor, noise: dict[str, Tensor]) -> Tensor:
        """Losses (M,) of one player."""

        def one(parameters: Any, constants: Constants, draws: dict[str, Tensor]) -> Tensor:
            return self.objective.loss(player, parameters, constants, x, draws)

        if not self.mapped:
            alone = tree_map(lambda leaf: leaf.squeeze(0), (self.parameters, self.constants, noise))
            return one(*alone)[None]
        losses: Tensor = vmap(one)(self.parameters, self.constants, noise)
        return losses

    def _slopes(
        self, player: str, x: Tensor, noise: dict[str, Tensor], standing: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Losses (M,) of one player, and their sum's gradient by each of its parameters; ``standing``: `_standing`."""

        def step() -> tuple[Tensor, ...]:
            losses = self._losses(player, x, noise)
            return losses.detach(), *self.optimisers[player].gradients(losses.sum())

        return self._steps[player](step, [x, *noise.values(), *standing])

    @property
    def _standing(self) -> list[Tensor]:
        """What steps read beside their minibatch and its noise."""
        leaves: list[Tensor] = tree_leaves((self.parameters, self.constants))
        return leaves

    @property
    def eager(self) -> str | None:
        """Why its steps are not replayed, or not in one launch where that is asked for."""
        return next((why for step in self._steps.values() if (why := step.eager or step.loose)), None)

    def train_epoch(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """One pass over as many images as the training split has, or what is left of one that was stopped.

        Args:
            stopping: asked before every minibatch; the epoch then stands there.

        Returns:
            Whether it came to its end; `diverged` then finds members that are lost.
        """
        started = time.perf_counter()
        images = self.data.training(self.objective)
        # as many minibatches for every model: half a data set is gone through twice
        count = len(self.data.images["train"])
        parts = batches(count, self.batch_size)
        order = torch.randperm(count, generator=generator(torch.device("cpu"), "order", self.shuffle_seed, self.epoch))
        order = order.to(self.device) % len(images)
        drawn = [
            self.objective.noise((m.seed, "train", self.epoch), count, len(parts), self.device) for m in self.members
        ]
        noise: dict[str, Tensor] = tree_map(lambda *leaves: torch.stack(leaves), *drawn)
        if not self._step:
            self._finite = torch.ones(len(self.members), dtype=torch.bool, device=self.device)
        standing = self._standing
        while self._step < len(parts) and not stopping():
            i = self._step
            for player in self.objective.players:
                # a player with more steps sees the minibatches that come next
                for j in range(i, i + player.steps):
                    k = j % len(parts)
                    x = self.data.minibatch(images, order[parts[k]], self.shuffle_seed, self.epoch, k)
                    draws = slice_noise(noise, parts[k], k)
                    losses, *gradients = self._slopes(player.name, x, draws, standing)
                    self.optimisers[player.name].descend(gradients)
                    self._finite &= losses.isfinite()
            self._step += 1
        whole = self._step == len(parts)
        if whole:
            self.epoch, self._step = self.epoch + 1, 0
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        share = (time.perf_counter() - started) / len(self.members)
        for member in self.members:
            self.seconds[member.trial] += share
            self.trained[member.trial] += share
        return whole

    def diverged(self) -> list[Member]:
        """Members whose loss or weights were not finite in the last epoch."""
        finite = self._finite.clone()
        for leaf in self._owned(list(self.parameters)):
            finite &= leaf.detach().flatten(1).isfinite().all(1)
        return [member for member, good in zip(self.members, finite.tolist(), strict=True) if not good]

    def drop(self, gone: Sequence[Member]) -> None:
        """Take members out of the stack; the others keep their weights and moments."""
        kept = [i for i, member in enumerate(self.members) if member not in gone]
        self.members = [self.members[i] for i in kept]
        if not kept:
            return
        index = torch.tensor(kept, device=self.device)
        moments = {name: optimiser.moments(lambda leaf: leaf[index]) for name, optimiser in self.optimisers.items()}
        self.parameters = tree_map(lambda leaf: leaf.detach()[index].requires_grad_(), self.parameters)
        self.constants = tree_map(lambda leaf: leaf[index], self.constants)
        if self._best is not None:
            self._best = tree_map(lambda leaf: leaf[index], self._best)
        self.optimisers = self._optimisers(moments)
        for step in self._steps.values():
            step.forget()

    def one(self, index: int, best: bool = False) -> dict[str, dict[str, Tensor]]:
        """Parameters of one member: as they are, or as they were when they were last marked as its best."""
        stack = self.parameters if self._best is None or not best else self._best
        chosen: dict[str, dict[str, Tensor]] = tree_map(lambda leaf: leaf.detach()[index], stack)
        return chosen

    @torch.no_grad()
    def mark(self, index: int) -> None:
        """Keep a member's weights as they are: its best so far."""
        if self._best is not None:
            tree_map(lambda kept, leaf: kept[index].copy_(leaf[index]), self._best, self.parameters)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, as tensors and plain values."""
        return {
            "format": FORMAT,
            "members": [m.trial for m in self.members],
            "epoch": self.epoch,
            "step": self._step,
            "finite": self._finite,
            "precision": str(self.objective.precision).removeprefix("torch."),
            "parameters": tree_map(lambda leaf: leaf.detach(), self.parameters),
            "best": self._best,
            "optimisers": {name: optimiser.moments() for name, optimiser in self.optimisers.items()},
            "seconds": dict(self.seconds),
            "trained": dict(self.trained),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; members that are not in it have ended."""
        self.drop([m for m in self.members if m.trial not in state["members"]])
        self.objective.precision = getattr(torch, state["precision"])
        self._steps = self._recorders()
        if self.members:
            self.parameters = tree_map(lambda leaf: leaf.to(self.device).requires_grad_(), state["parameters"])
            self.optimisers = self._optimisers(tree_map(lambda leaf: leaf.to(self.device), state["optimisers"]))
            if self._best is not None:
                self._best = tree_map(lambda leaf: leaf.to(self.device), state["best"])
        # checkpoints of earlier versions stand at the ends of epochs
        self._step = state.get("step", 0)
        if self._step:
            self._finite = state["finite"].to(self.device)
        self.epoch, self.seconds, self.trained = state["epoch"], dict(state["seconds"]), dict(state["trained"])


def _spreads(members: Sequence[Member], device: torch.device) -> list[Spread | tuple[()]]:
    """Of each member what is its own of the posterior's standard deviation; nothing where all have the same."""
    spreads = [spread_of(member) for member in members]
    if len(set(spreads)) == 1:
        return [()] * len(members)
    # double, as Python's numbers are: rounded once, where they meet a tensor of the network's
    return [Spread(*(torch.tensor(v, dtype=torch.float64, device=device) for v in spread)) for spread in spreads]


def pack_name(members: Sequence[Member]) -> str:
    """A pack's name in every run: that of its first member and their number."""
    return f"{members[0].trial}-{len(members)}"
