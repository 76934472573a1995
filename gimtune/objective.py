"""One member's objective: loss = -likelihood + sum of weight x divergence, and the players that minimise their losses.

Written for one member and pure, so that `gimtune.training` can map it over many with `torch.func.vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gimtune.likelihoods import LIKELIHOODS, Likelihood
from gimtune.networks import NETWORKS, initial
from gimtune.priors import Prior, make_prior
from gimtune.restrictions import RESTRICTIONS, Critic, Logits, Restriction, Sample
from gimtune.seeds import generator
from gimtune.vocabulary import Match, Member

_DIRECTIONS = 50
_SMALL = 300_000
#: Parameters by module, then by name; constants and noise likewise.
Parameters = Mapping[str, Mapping[str, Tensor]]
Noise = Mapping[str, Tensor]


class Terms(NamedTuple):
    """One batch's terms, nats: likelihood (), divergences (k,) unweighted, loss ()."""

    likelihood: Tensor
    divergences: Tensor
    loss: Tensor


class Constants(NamedTuple):
    """What differs between members and is not learned: weights (k,) and the prior's tensors."""

    weights: Tensor
    prior: Mapping[str, Tensor]


@dataclass(frozen=True)
class Player:
    """Modules that one optimiser owns, and how it steps: ``steps`` times for one step of the model."""

    name: str
    modules: tuple[str, ...]
    learning_rate: float
    beta1: float
    steps: int


class Objective:
    """The formula of a member, with the networks of its pack.

    Args:
        member: any member of the pack; weights, prior tensors and seeds are passed to the methods.
        image: colours, height, width.
        precision: dtype of the networks' arithmetic; losses are float32 whatever it is.
        likelihood: in place of the member's named one.
    """

    def __init__(
        self,
        member: Member,
        image: tuple[int, int, int],
        precision: torch.dtype = torch.float32,
        likelihood: Likelihood | None = None,
    ) -> None:
        self.image, self.latent_dim, self.sigma_min = image, member.latent_dim, member.sigma_min
        self.precision = precision
        self.likelihood = likelihood or LIKELIHOODS[member.likelihood]
        self.prior: Prior = make_prior(**member.prior)
        self.restrictions: tuple[Restriction, ...] = tuple(
            RESTRICTIONS[Match(match), divergence] for match, divergence, _ in member.restrictions
        )
        options = {k: v for k, v in member.network.items() if k != "name"}
        networks = NETWORKS[member.network["name"]](image, member.latent_dim, **options)
        self.modules: dict[str, nn.Module] = {"encoder": networks.encoder, "decoder": networks.decoder}
        self.players: tuple[Player, ...] = (Player("model", ("encoder", "decoder"), member.learning_rate, 0.9, 1),)
        self._critics: dict[str, Critic] = {}
        for restriction in self.restrictions:
            if critic := restriction.critic:
                self.modules[restriction.key] = critic.network(member.latent_dim)
                self._critics[restriction.key] = critic
                rate = member.learning_rate * critic.learning_rate
                self.players += (Player(restriction.key, (restriction.key,), rate, critic.beta1, critic.steps),)

    @property
    def small(self) -> bool:
        """One member leaves a processor idle, so that several are worth packing."""
        return sum(p.numel() for module in self.modules.values() for p in module.parameters()) < _SMALL

    def initial(self, seed: int, device: torch.device) -> dict[str, dict[str, Tensor]]:
        """A member's weights. Each module has a stream of its own: a critic does not change the encoder's start."""
        return {name: initial(module, generator(device, seed, "init", name)) for name, module in self.modules.items()}

    def constants(self, member: Member, device: torch.device) -> Constants:
        """A member's weights and prior."""
        weights = torch.tensor([w for _, _, w in member.restrictions], dtype=torch.float32, device=device)
        parameters = make_prior(**member.prior).parameters(member.latent_dim)
        return Constants(weights, {name: value.to(device) for name, value in parameters.items()})

    def noise(self, key: tuple[str | int, ...], count: int, batches: int, device: torch.device) -> dict[str, Tensor]:
        """Every draw for ``count`` examples in ``batches`` minibatches; `slice_noise` takes a minibatch's part.

        Each kind has a stream of its own: a restriction that draws does not change what another one sees.
        """
        source = generator(device, *key, "posterior")
        draws = {"posterior": torch.randn(count, self.latent_dim, generator=source, device=device)}
        if any(r.uses_prior for r in self.restrictions):
            draws["prior"] = self.prior.noise(count, self.latent_dim, generator(device, *key, "prior"))
        if any(r.uses_directions for r in self.restrictions):
            source = generator(device, *key, "directions")
            draws["directions"] = torch.randn(batches, _DIRECTIONS, self.latent_dim, generator=source, device=device)
        return draws

    def encode(self, parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of images (n, *image): (n, d) each, float32.

        sigma^2 = exp(s) + sigma_min^2: a bound that keeps a gradient everywhere.
        """
        mu, log_variance = self._call("encoder", parameters, x).chunk(2, -1)
        return mu, torch.sqrt(log_variance.exp() + self.sigma_min**2)

    def decode(self, parameters: Parameters, z: Tensor) -> Tensor:
        """The decoder's output, (n, *image), float32: what the likelihood takes."""
        return self._call("decoder", parameters, z)

    def _call(self, name: str, parameters: Parameters, argument: Tensor) -> Tensor:
        with _autocast(argument.device, self.precision):
            result: Tensor = functional_call(self.modules[name], dict(parameters[name]), (argument,))
        return result.float() if self.precision != torch.float32 else result

    def sample(self, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Sample:
        """One batch of codes and of what the restrictions compare them with."""
        mu, sigma = self.encode(parameters, x)
        z = mu + sigma * noise["posterior"]
        prior_z = self.prior.sample(constants.prior, noise["prior"]) if "prior" in noise else z.new_empty(0)
        directions = noise["directions"] if "directions" in noise else z.new_empty(0)
        return Sample(mu, sigma, z, prior_z, directions, self.prior, constants.prior)

    def terms(self, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Terms:
        """Equation (1) on one batch of images (n, *image) in [0, 1], each term a mean over the batch."""
        sample = self.sample(parameters, constants, x, noise)
        likelihood = self.likelihood.log_prob(x, self.decode(parameters, sample.z)).mean()
        values = [r.value(sample, self._logits(r.key, parameters)) for r in self.restrictions]
        divergences = torch.stack(values) if values else likelihood.new_zeros(0)
        return Terms(likelihood, divergences, -likelihood + (constants.weights * divergences).sum())

    def loss(self, player: str, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Tensor:
        """What a player minimises, (). The model sees its critics, and a critic the model's codes, as constants."""
        if player == "model":
            return self.terms(parameters, constants, x, noise).loss
        with torch.no_grad():
            sample = self.sample(parameters, constants, x, noise)
        return self._critics[player].loss(sample, self._logits(player, parameters))

    def _logits(self, name: str, parameters: Parameters) -> Logits:
        return lambda argument: self._call(name, parameters, argument)


def slice_noise(noise: Noise, rows: slice, batch: int) -> dict[str, Tensor]:
    """The draws of one minibatch, from blocks (M, count, ...) and (M, batches, ...)."""
    return {name: value[:, batch] if name == "directions" else value[:, rows] for name, value in noise.items()}


def batches(count: int, batch_size: int) -> list[slice]:
    """Nearly equal minibatches of at most ``batch_size``: no example is left out and no batch is tiny."""
    number = math.ceil(count / batch_size)
    edges = [count * i // number for i in range(number + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


@contextmanager
def _autocast(device: torch.device, precision: torch.dtype) -> Iterator[Any]:
    if precision == torch.float32:
        yield
    else:
        with torch.autocast(device.type, precision):
            yield
