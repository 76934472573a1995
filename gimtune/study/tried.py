"""Parts of one's own on a first small batch, before anything starts: what registration cannot see of them."""

from __future__ import annotations

from functools import cache

import torch
from torch.func import vmap
from torch.utils._pytree import tree_map

from gimtune.algebra.objective import Constants, Objective
from gimtune.study.messages import ConfigError
from gimtune.vocabulary import Member

_COUNT = 8
_VALUES = (
    "it looks at a tensor's values (if, float, item), and members that are mapped together have each their own; "
    "torch.where takes the place of a branch"
)
#: What is to be said of a part that cannot be mapped, by what torch says.
_MAPPED = {
    "data-dependent control flow": _VALUES,
    "calling .item()": _VALUES,
    "random operation": "it draws random numbers; a part is given those that it names",
}
_CPU = torch.device("cpu")


def try_out(member: Member, image: tuple[int, int, int]) -> None:
    """Compute the losses of all players of a member whose parts are not all ours, mapped as in training.

    Raises:
        ConfigError: a part raises something, or does not give what it should.
    """
    if member.plugins:
        # seeds and weights change nothing of what can go wrong
        shared = {key: value for key, value in vars(member).items() if key in Member.__dataclass_fields__}
        _try(Member(**{**shared, "seed": 0, "assignment": {}}).to_json(), image)


@cache
def _try(text: str, image: tuple[int, int, int]) -> None:
    member = Member.from_json(text)
    try:
        objective = Objective(member, image)
        parameters = objective.initial(member.seed, _CPU)
        domain = torch.rand(_COUNT, member.latent_dim) if objective.prior.images else None
        constants = objective.constants(member, _CPU, domain)
        noise = objective.noise((member.seed, "tried"), _COUNT, 1, _CPU)
        noise = {key: value[0] if key == "directions" else value for key, value in noise.items()}
        x = torch.full((_COUNT, *image), 0.5)
        stacked = tree_map(lambda leaf: torch.stack([leaf, leaf]), (parameters, constants, noise))
        for player in objective.players:

            def loss(p: object, c: Constants, n: object, name: str = player.name) -> torch.Tensor:
                return objective.loss(name, p, c, x, n)  # type: ignore[arg-type]

            losses = vmap(loss)(*stacked)
            if tuple(losses.shape) != (2,):
                raise ValueError(f"the loss of {player.name} is {tuple(losses.shape[1:])}, and no scalar")
    except MemoryError:
        raise
    except Exception as error:  # whatever somebody's own part raises
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        why = next((said for found, said in _MAPPED.items() if found in why), why)
        whose = ", ".join(member.plugins)
        raise ConfigError(
            f"models={member.model} with space.prior={member.prior['name']}: a part of {whose} fails on a first batch "
            f"({why}); gimtune.testing has checks for each kind of part"
        ) from None
