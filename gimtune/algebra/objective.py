"""One member's objective: loss = -likelihood + sum of weight x divergence, and the players that minimise their losses.

Written for one member and pure, so that `gimtune.training` can map it over many with `torch.func.vmap`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gimtune import parts
from gimtune.algebra.critics import Logits
from gimtune.algebra.encoders import ENCODERS, Encoder, Posterior, Spread, make_encoder
from gimtune.algebra.likelihoods import LIKELIHOODS, Likelihood
from gimtune.algebra.priors import PRIORS, Prior, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS, Restriction, Sample
from gimtune.algebra.seeds import generator, number
from gimtune.networks import NETWORKS, CriticNetwork, Networks, initial, normalised, seeded, unweighted
from gimtune.vocabulary import Match, Member, Side

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
    """What differs between members and is not learned: weights (k,), the prior's tensors, and the posterior's spread,
    () where all members of a pack have the same."""

    weights: Tensor
    prior: Mapping[str, Tensor]
    spread: Spread | tuple[()] = ()


@dataclass(frozen=True)
class Player:
    """Modules that one optimiser owns, and how it steps: ``steps`` times for one step of the model.

    Args:
        learning_rate: as a multiple of the member's.
        beta1: Adam's first moment decay, or None for the member's.
    """

    name: str
    modules: tuple[str, ...]
    learning_rate: float
    beta1: float | None
    steps: int


class Objective:
    """The formula of a member, with the networks of its pack.

    Args:
        member: any member of the pack; weights, prior tensors and seeds are passed to the methods.
        image: colours, height, width.
        precision: dtype of the networks' arithmetic; losses are float32 whatever it is.
        likelihood: in place of the member's named one.

    Attributes:
        foreign: its parts that others wrote, of which nothing is known but their contract.
    """

    def __init__(
        self,
        member: Member,
        image: tuple[int, int, int],
        precision: torch.dtype = torch.float32,
        likelihood: Likelihood | None = None,
    ) -> None:
        self.image, self.latent_dim = image, member.latent_dim
        self.spread = spread_of(member)
        self.precision, self.side = precision, Side(member.side)
        self.likelihood = likelihood or LIKELIHOODS[member.likelihood]
        self.prior: Prior = make_prior(**member.prior)
        self.encoder: Encoder = make_encoder(member.encoder, member.prior)
        self.restrictions: tuple[Restriction, ...] = tuple(
            RESTRICTIONS[Match(match), divergence].set(member.critic) for match, divergence, _ in member.restrictions
        )
        options = {k: v for k, v in member.network.items() if k != "name"}
        outputs = self.encoder.outputs(member.latent_dim)
        architecture = NETWORKS[member.network["name"]]
        self._networks: Callable[[], Networks] = partial(architecture, image, member.latent_dim, outputs, **options)
        self._channels = options.get("channels", ())
        made = self._networks()
        self.modules: dict[str, nn.Module] = {"encoder": made.encoder, "decoder": made.decoder}
        if basis := self.encoder.basis(member.latent_dim):
            self.modules["basis"] = basis
        owned = (*self.modules, "prior") if self.prior.learned else tuple(self.modules)
        self.players: tuple[Player, ...] = (Player("model", owned, 1.0, None, 1),)
        self._critics = {restriction.key: restriction for restriction in self.restrictions if restriction.critic}
        self.modules |= self._critic_networks(made)
        for restriction in self._critics.values():
            if critic := restriction.critic:
                owned = (restriction.key,)
                self.players += (Player(restriction.key, owned, critic.learning_rate, critic.beta1, critic.steps),)
        chosen: list[tuple[parts.Registry[Any, Any], Any]] = [
            *((PRIORS, self.prior.name), (LIKELIHOODS, member.likelihood), (ENCODERS, member.encoder)),
            (NETWORKS, member.network["name"]),
            *((RESTRICTIONS, (Match(match), divergence)) for match, divergence, _ in member.restrictions),
        ]
        self.foreign = tuple(f"{kind.kind} {kind.label(key)}" for kind, key in chosen if not kind.ours(key))
        if self.likelihood.of_critic:
            self._judge = next(r for r in self._critics.values() if r.match is Match.DATA)

    def of(self, spread: Spread) -> Objective:
        """The same with another bound and start of the posterior's standard deviation; it shares its networks."""
        other = copy(self)
        other.spread = spread
        return other

    def _critic_networks(self, made: Networks) -> dict[str, nn.Module]:
        """A network for each restriction with a critic, which sees images as the member's networks do."""
        found: dict[str, nn.Module] = {}
        for key, restriction in self._critics.items():
            sees_image, sees_code = restriction.match is not Match.LATENT, restriction.match is not Match.DATA
            found[key] = CriticNetwork(
                self.image if sees_image else None,
                self.latent_dim if sees_code else 0,
                restriction.critic.hidden,  # type: ignore[union-attr]
                self._channels,
                made.critic,
            )
        return found

    @property
    def small(self) -> bool:
        """One member leaves a processor idle, so that several are worth packing."""
        return sum(p.numel() for p in self.weights) < _SMALL

    @property
    def weights(self) -> list[Tensor]:
        """Every weight's shape, as a tensor of the networks and critics of one member."""
        return [p for module in self.modules.values() for p in module.parameters()]

    @property
    def units(self) -> int:
        """Numbers that layers with weights make of one image and its code, for an estimate of memory."""
        found: list[int] = []

        def count(layer: nn.Module, given: Any, made: Tensor) -> None:
            found.append(made.numel())

        takes: dict[str, tuple[int, ...]] = {"encoder": self.image, "decoder": (self.latent_dim,)}
        for key, critic in self._critics.items():
            pixels = 0 if critic.match is Match.LATENT else math.prod(self.image)
            takes[key] = (pixels + (0 if critic.match is Match.DATA else self.latent_dim),)
        for name, module in self.modules.items():
            if name not in takes:
                found += [p.shape[0] for p in module.parameters() if p.ndim > 1]
                continue
            layers = [layer for layer in module.modules() if [*layer.parameters(recurse=False)]]
            hooks = [layer.register_forward_hook(count) for layer in layers]
            unweighted(module, takes[name])
            for hook in hooks:
                hook.remove()
        return sum(found)

    def initial(self, seed: int, device: torch.device) -> dict[str, dict[str, Tensor]]:
        """A member's weights. Each module has a stream of its own: a critic does not change the encoder's start."""
        modules = self.modules
        if not all(p.is_meta for name in ("encoder", "decoder", *self._critics) for p in modules[name].parameters()):
            # a network that draws its own weights is made anew for each seed
            made = seeded(self._networks, number(seed, "init", "networks"))
            modules = modules | {"encoder": made.encoder, "decoder": made.decoder} | self._critic_networks(made)
        weights = {name: initial(module, generator(device, seed, "init", name)) for name, module in modules.items()}
        if self.prior.learned:
            source = generator(device, seed, "init", "prior")
            weights["prior"] = self.prior.initial(self.latent_dim, math.prod(self.image), source)
        return weights

    def constants(self, member: Member, device: torch.device, domain: Tensor | None = None) -> Constants:
        """A member's weights and prior; ``domain`` are the images (n, d) of a prior that is made of images."""
        weights = torch.tensor([w for _, _, w in member.restrictions], dtype=torch.float32, device=device)
        parameters = make_prior(**member.prior).parameters(member.latent_dim)
        if domain is not None:
            parameters["images"] = domain
        return Constants(weights, {name: value.to(device) for name, value in parameters.items()})

    def noise(self, key: tuple[str | int, ...], count: int, batches: int, device: torch.device) -> dict[str, Tensor]:
        """Every draw for ``count`` examples in ``batches`` minibatches; `slice_noise` takes a minibatch's part.

        Each kind has a stream of its own: a restriction that draws does not change what another one sees.
        """

        def normal(name: str, *shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator(device, *key, name), device=device)

        wanted = {name for r in self.restrictions for name in r.draws}
        draws = {"posterior": normal("posterior", count, self.encoder.noise(self.latent_dim))}
        if "prior" in wanted or self.side is not Side.Q:
            draws["prior"] = self.prior.noise(count, self.latent_dim, generator(device, *key, "prior"))
        if "directions" in wanted:
            draws["directions"] = normal("directions", batches, _DIRECTIONS, self.latent_dim)
        if "normal" in wanted:
            draws["normal"] = normal("normal", count, self.latent_dim)
        if "mix" in wanted:
            draws["mix"] = torch.rand(count, 1, generator=generator(device, *key, "mix"), device=device)
        pixels = math.prod(self.image)
        for name, restriction in self._critics.items():
            if restriction.critic and restriction.critic.instance_noise:
                width = {Match.LATENT: self.latent_dim, Match.DATA: pixels}
                size = width.get(restriction.match, pixels + self.latent_dim)
                draws[f"instance_{name}"] = normal(f"instance_{name}", count, size, 2)
        return draws

    def prior_tensors(self, parameters: Parameters, constants: Constants) -> Mapping[str, Tensor]:
        """What the prior's methods take: its constants, with what is learned of it."""
        if not self.prior.learned:
            return constants.prior
        return self.prior.tensors(
            constants.prior,
            parameters["prior"],
            lambda flat: self.encode(parameters, self._input(flat)),
        )

    def _input(self, flat: Tensor) -> Tensor:
        # where data are images an input lies where their pixels do
        return (flat.sigmoid() if self.likelihood.bounded else flat).unflatten(1, self.image)

    def encode(self, parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of images (n, *image): (n, d) each, float32."""
        output = self._call("encoder", parameters, x)
        return self.encoder.moments(output, self.spread, self._basis(parameters))

    def posterior(self, parameters: Parameters, x: Tensor, noise: Tensor) -> Posterior:
        """The same with a code each, from base noise (n, ...)."""
        output, basis = self._call("encoder", parameters, x), self._basis(parameters)
        mu, sigma = self.encoder.moments(output, self.spread, basis)
        return Posterior(mu, sigma, self.encoder.code(output, mu, sigma, noise, basis))

    def _basis(self, parameters: Parameters) -> Callable[[Tensor], Tensor]:
        return lambda noise: self._call("basis", parameters, noise)

    def decode(self, parameters: Parameters, z: Tensor) -> Tensor:
        """The decoder's output, (n, *image), float32: what the likelihood takes."""
        return self._call("decoder", parameters, z)

    def _call(self, name: str, parameters: Parameters, *arguments: Any) -> Tensor:
        values = dict(parameters[name])
        if name in self._critics and self._critics[name].critic.spectral_norm:  # type: ignore[union-attr]
            values = normalised(values)
        with _autocast(arguments[0].device, self.precision):
            result: Tensor = functional_call(self.modules[name], values, arguments)
        return result.float() if self.precision != torch.float32 else result

    def sample(self, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Sample:
        """One batch, as the restrictions see it."""
        return Sample(
            x,
            noise,
            lambda images, draws: self.posterior(parameters, images, draws),
            lambda z: self.likelihood.mean(self.decode(parameters, z)),
            self.prior,
            self.prior_tensors(parameters, constants),
        )

    def log_prob_x(self, parameters: Parameters, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z), nats: (n,); of a critic's features where the likelihood is theirs."""
        output = self.decode(parameters, z)
        if not self.likelihood.of_critic:
            return self.likelihood.log_prob(x, output)
        seen, made = (
            self._call(self._judge.key, parameters, images.flatten(1), True)
            for images in (x, self.likelihood.mean(output))
        )
        return self.likelihood.log_prob(seen, made)

    def log_prob_z(self, parameters: Parameters, x: Tensor, z: Tensor) -> Tensor:
        """log q(z|x), nats: (n,); for encoders without a density, as `Encoder.estimator` says."""
        return self.encoder.log_prob(z, *self.encode(parameters, x))

    def terms(self, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Terms:
        """Equation (1) or its mirror on one batch of images (n, *image) in [0, 1], each term a mean over the batch."""
        sample = self.sample(parameters, constants, x, noise)
        parts = []
        if self.side is not Side.P:
            parts.append(self.log_prob_x(parameters, x, sample.z).mean())
        if self.side is not Side.Q:
            parts.append(self.log_prob_z(parameters, sample.generated, sample.prior_z).mean())
        likelihood = parts[0] + parts[1] if len(parts) > 1 else parts[0]
        values = [r.value(sample, self._logits(r.key, parameters)) for r in self.restrictions]
        divergences = torch.stack(values) if values else likelihood.new_zeros(0)
        return Terms(likelihood, divergences, -likelihood + (constants.weights * divergences).sum())

    def accuracies(self, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Of each critic that is a classifier: the share of one batch that it takes for what it is, by restriction."""
        sample = self.sample(parameters, constants, x, noise)
        found = {name: r.accuracy(sample, self._logits(name, parameters)) for name, r in self._critics.items()}
        return {name: value for name, value in found.items() if value is not None}

    def loss(self, player: str, parameters: Parameters, constants: Constants, x: Tensor, noise: Noise) -> Tensor:
        """What a player minimises, (). The model sees its critics, and a critic the model's samples, as constants."""
        if constants.spread:
            own = self.of(Spread(*constants.spread))
            return own.loss(player, parameters, constants._replace(spread=()), x, noise)
        if player == "model":
            return self.terms(parameters, constants, x, noise).loss
        # made under no_grad, as the sample's parts are only when they are first looked at
        with torch.no_grad():
            sample = self.sample(parameters, constants, x, noise)
        return self._critics[player].loss(sample, self._logits(player, parameters))

    def _logits(self, name: str, parameters: Parameters) -> Logits:
        return lambda inputs: self._call(name, parameters, inputs)


def spread_of(member: Member) -> Spread:
    """What a member says of its posterior's standard deviation."""
    return Spread(member.sigma_start, member.sigma_min)


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
