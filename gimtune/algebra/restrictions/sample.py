"""What a restriction may look at: one batch of one member, and the pairs of samples that a critic tells apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from gimtune.algebra import divergences as div
from gimtune.algebra.encoders import Posterior
from gimtune.algebra.priors import Parameters, Prior
from gimtune.vocabulary import Match

#: Two samples that a critic tells apart, (n, k) each: of q and of p.
Pair = tuple[Tensor, Tensor]


class Sample:
    """One batch of one member: what a restriction may look at, made when it is first looked at.

    Attributes:
        x: images, (n, *image).
        noise: draws by name.
        prior, parameters: the prior and this member's tensors.
        posterior: q(z|x) and a code for each image.
        prior_z: codes drawn from the prior, (n, d).
        generated: the decoder's means of them, (n, *image).
        inferred: q(z|generated).
    """

    def __init__(
        self,
        x: Tensor,
        noise: Mapping[str, Tensor],
        encode: Callable[[Tensor, Tensor], Posterior],
        decode: Callable[[Tensor], Tensor],
        prior: Prior,
        parameters: Parameters,
    ) -> None:
        self.x, self.noise, self.prior, self.parameters = x, noise, prior, parameters
        self._encode, self._decode = encode, decode

    @cached_property
    def posterior(self) -> Posterior:
        return self._encode(self.x, self.noise["posterior"])

    @property
    def mu(self) -> Tensor:
        return self.posterior.mu

    @property
    def sigma(self) -> Tensor:
        return self.posterior.sigma

    @property
    def z(self) -> Tensor:
        return self.posterior.z

    @cached_property
    def prior_z(self) -> Tensor:
        return self.prior.sample(self.parameters, self.noise["prior"])

    @cached_property
    def generated(self) -> Tensor:
        return self._decode(self.prior_z)

    @cached_property
    def inferred(self) -> Posterior:
        return self._encode(self.generated, self.noise["posterior"])

    @cached_property
    def log_ratio(self) -> Tensor:
        """log q(z|x) - log p(z) at the codes, with the posterior taken for the Gaussian of its moments: (n,)."""
        return self.log_ratio_at(self.z)

    def log_ratio_at(self, z: Tensor, held: bool = False) -> Tensor:
        """The same at other codes (n, d); ``held``: the moments are constants."""
        mu, sigma = (self.mu.detach(), self.sigma.detach()) if held else (self.mu, self.sigma)
        return div.gaussian_log_prob(z, mu, sigma) - self.prior.log_prob(self.parameters, z)


def pair_posterior(s: Sample) -> Pair:
    x = s.x.flatten(1)
    return torch.cat([x, s.z], -1), torch.cat([x, s.prior_z], -1)


def pair_contrast(s: Sample) -> Pair:
    x = s.x.flatten(1)
    standard = (s.z - s.mu.detach()) / s.sigma.detach()
    return torch.cat([x, standard], -1), torch.cat([x, s.noise["normal"]], -1)


def pair_latent(s: Sample) -> Pair:
    return s.z, s.prior_z


def pair_data(s: Sample) -> Pair:
    return s.x.flatten(1), s.generated.flatten(1)


def pair_joint(s: Sample) -> Pair:
    return torch.cat([s.x.flatten(1), s.z], -1), torch.cat([s.generated.flatten(1), s.prior_z], -1)


#: How each match's two samples are made, and which of them the model moves.
PAIRS: Mapping[Match, tuple[Callable[[Sample], Pair], str]] = {
    Match.POSTERIOR: (pair_posterior, "q"),
    Match.LATENT: (pair_latent, "q"),
    Match.DATA: (pair_data, "p"),
    Match.JOINT: (pair_joint, "qp"),
}
