"""What a metric may look at: one member on one split, each part made when it is first asked for, and once."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gimtune.algebra.encoders import Encoder, Posterior
from gimtune.algebra.objective import Constants, Objective, Parameters, spread_of
from gimtune.algebra.priors import Prior
from gimtune.algebra.seeds import generator
from gimtune.metrics import mixture
from gimtune.metrics.features import Features, features_of
from gimtune.training import Fellow, Resident, machines
from gimtune.vocabulary import Member, Side

#: Images that go through the networks at a time.
CHUNK = 2000
T = TypeVar("T")
Memory = dict[Hashable, Any]


class Estimate(NamedTuple):
    """A value with what there is to say of it.

    Attributes:
        value: NaN where it is not defined, with its reason.
        error: standard error, of metrics that are declared with one.
        reason: why it is not defined.
        flag: why it is not to be trusted.
        estimator: how it comes about, where that depends on the member.
    """

    value: float
    error: float | None = None
    reason: str = ""
    flag: str = ""
    estimator: str = ""


#: From a key and a member to what measures it: a function of a view, with a name.
Find = Callable[[str, Member], Any]


class View:
    """One member on one split.

    Attributes:
        split: ``validation`` or ``test``.
        member: its configuration.
        data: the data set on the device, of which training images and labels may be looked at too.
        network: features of images, for distances.
        side, prior, encoder, latent_dim: what the member is.
        final: it has come to its end, so that what takes long is measured too.
        count: how many images are generated; of a prior that is made of images at most one from each.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Parameters,
        member: Member,
        split: str,
        data: Resident,
        network: Features,
        once: Memory,
        kept: Memory,
        find: Find,
        fellows: Sequence[Fellow] = (),
        final: bool = True,
    ) -> None:
        # that of its pack, whose members may differ here
        self.objective = objective = objective.of(spread_of(member))
        self.parameters, self.member, self.split = parameters, member, split
        self.data, self.network = data, network
        self.side: Side = objective.side
        self.prior: Prior = objective.prior
        self.encoder: Encoder = objective.encoder
        self.latent_dim = objective.latent_dim
        self.count: int = member.metrics["fid_samples"]
        if self.prior.images:
            self.count = min(self.count, len(data.sources(split)))
        self.final = final
        self._once, self._kept, self._find, self._fellows = once, kept, find, fellows
        self._estimates: dict[str, Estimate] = {}
        self._asked: list[str] = []

    # What there is on the split

    @cached_property
    def images(self) -> Tensor:
        """All images of the split, (n, *image) in [0, 1]."""
        return self.data.scaled(self.split, slice(None))

    @property
    def labels(self) -> Tensor:
        """Their labels, int64 (n,), on the CPU."""
        return self.data.labels[self.split]

    @cached_property
    def posterior(self) -> Posterior:
        """Means and deviations of q(z|x) of all images of the split, and one code each, (n, d)."""
        return self.drawn()

    def drawn(self, count: int | None = None) -> Posterior:
        """The same of the first ``count`` images."""
        return self.encoded(self.split, slice(count))

    @cached_property
    def prior_codes(self) -> Tensor:
        """Codes from the prior, (count, d)."""
        return self.sampled(self.count)

    def sampled(self, count: int) -> Tensor:
        """The first codes from the prior, (count, d); images of a second domain come once before any comes twice."""
        source = self.random("generation")
        if self.prior.images:
            images = self.data.sources(self.split)
            order = torch.randperm(len(images), generator=source, device=source.device)
            return images[order.repeat(math.ceil(count / len(images)))[:count]]
        return self.prior.sample(self.prior_tensors, self.prior.noise(count, self.latent_dim, source))

    @cached_property
    def generated(self) -> Tensor:
        """Decoded means of the codes from the prior, (count, *image) in [0, 1]."""
        return self.decode(self.prior_codes)

    @cached_property
    def reconstructed(self) -> Tensor:
        """Decoded means of the posteriors' codes, a code an image of the split, (n, *image) in [0, 1]."""
        return self.decode(self.posterior.z)

    @cached_property
    def generated_features(self) -> Tensor:
        """Features of `generated`, (count, k)."""
        return features_of(self.network, self.generated)

    @property
    def features(self) -> Tensor:
        """Features of `images`, (n, k), made once for all members."""
        return self.kept(("features", self.split), lambda: features_of(self.network, self.images))

    @cached_property
    def resampled(self) -> Tensor | str:
        """Decoded means of codes from a mixture that is fitted to training codes, or why there is none.

        Source: Ghosh et al. 2020, section 3.
        """
        if not self.prior.density:
            return f"a mixture of Gaussians does not describe the codes of a {self.prior.name} prior"
        if self.early:
            return self.early
        fitted = self.together(
            "mixture", lambda views: mixture.fit([v.training.z for v in views], [v.member.seed for v in views])
        )
        if isinstance(fitted, str):
            return fitted
        source = generator(torch.device("cpu"), self.member.seed, "expost", self.split)
        return self.decode(fitted.sample(self.count, source).float())

    # What there is on the training split

    @property
    def training(self) -> Posterior:
        """The same as `posterior`, of the training images that probes are fitted to, at most ``probe_samples``."""
        return self.once("training", lambda: self.encoded("train", self._training_index.to(self.data.device)))

    def training_codes(self, stream: str) -> Tensor:
        """Codes of the same training images, by another stream of noise: (n, d)."""
        return self.encoded("train", self._training_index.to(self.data.device), stream).z

    def training_images(self, count: int) -> Tensor:
        """The first of these training images, at most so many: (n, *image) in [0, 1]."""
        return self.data.scaled("train", self._training_index[:count].to(self.data.device))

    @property
    def training_labels(self) -> Tensor:
        """Their labels, int64 (n,), on the CPU."""
        return self.data.labels["train"][self._training_index]

    @property
    def _training_index(self) -> Tensor:
        order = torch.randperm(len(self.data.images["train"]), generator=generator(torch.device("cpu"), "probe"))
        return order[: self.member.metrics["probe_samples"]].sort().values

    # What can be done with the member

    def codes(self, split: str, draw: int) -> Tensor:
        """Codes z ~ q(z|x), (n, k), of a split's images, or of the training images that probes are fitted to.

        Draw 0 is that of `posterior` and `training`; any other of a Gaussian encoder needs no network. Of a latent that
        the model calls its code in part, this part: ``encoder.coded(latent_dim)`` dimensions.
        """
        return self._codes(split, draw)[:, : self.encoder.coded(self.latent_dim)]

    def means(self, split: str) -> Tensor:
        """Posterior means of the same images and dimensions, (n, k)."""
        posterior = self.training if split == "train" else self.posterior
        return posterior.mu[:, : self.encoder.coded(self.latent_dim)]

    def _codes(self, split: str, draw: int) -> Tensor:
        first = self.training if split == "train" else self.posterior
        if draw == 0 or not self.encoder.varies:
            return first.z
        stream = f"draw {draw}"
        if not self.encoder.gaussian:
            index = self._training_index.to(self.data.device) if split == "train" else slice(None)
            return self.encoded(split, index, stream).z
        source = generator(self.data.device, self.member.seed, stream, split)
        return first.mu + first.sigma * torch.randn(first.mu.shape, generator=source, device=first.mu.device)

    def encoded(self, split: str, index: slice | Tensor, stream: str = "evaluation") -> Posterior:
        """Posteriors of images of a split, and one code each, by a stream of noise of the member's."""
        images = self.data.images[split][index]
        source = generator(self.data.device, self.member.seed, stream, split)
        noise = torch.randn(len(images), self.encoder.noise(self.latent_dim), generator=source, device=images.device)
        return self._encode(images, noise, self.data.scale)

    def encode(self, images: Tensor, noise: Tensor) -> Posterior:
        """Posteriors of images (n, *image) in [0, 1], with codes from base noise (n, ``encoder.noise(latent_dim)``)."""
        return self._encode(images, noise, 1.0)

    def _encode(self, images: Tensor, noise: Tensor, scale: float) -> Posterior:
        parts = [
            self.objective.posterior(self.parameters, x / scale, draws)
            for x, draws in zip(images.split(CHUNK), noise.split(CHUNK), strict=True)
        ]
        return Posterior(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def decode(self, codes: Tensor) -> Tensor:
        """Decoded means of codes (n, d): (n, *image) in [0, 1]."""
        decoded = [self.objective.decode(self.parameters, z) for z in codes.split(CHUNK)]
        return torch.cat([self.objective.likelihood.mean(output) for output in decoded])

    @cached_property
    def constants(self) -> Constants:
        """The member's weights of restrictions, and its prior's constants."""
        return self.data.constants(self.objective, self.member, self.split)

    @cached_property
    def prior_tensors(self) -> Any:
        """What the prior's methods take: `prior.log_prob(view.prior_tensors, codes)`."""
        return self.objective.prior_tensors(self.parameters, self.constants)

    def random(self, *key: str | int) -> torch.Generator:
        """A generator of the member, the split and a key: the same at every evaluation."""
        return generator(self.data.device, self.member.seed, *key, self.split)

    @property
    def early(self) -> str:
        """Why what takes long is not measured now, or nothing: at a member's end it is, and where a study wants it."""
        always = self.member.metrics.get("ruler") == "always"
        return "" if self.final or always else "measured when a member ends (metrics.ruler)"

    @property
    def postponed(self) -> str:
        """The same of what a network is fitted for, which a study may do without."""
        never = self.member.metrics.get("ruler") == "never"
        return "not measured (metrics.ruler=never)" if never else self.early

    def on(self, split: str) -> View:
        """The same member on another split, ``train`` for what is fitted."""
        return self._of(Fellow(self.parameters, self.member, self._once), split)

    def _of(self, fellow: Fellow, split: str) -> View:
        whose = fellow.parameters, fellow.member, split, self.data, self.network, fellow.once
        return View(self.objective, *whose, self._kept, self._find, self._fellows, self.final)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made once for all splits of the member, a classifier that is fitted to training codes, say."""
        return _remembered(self._once, key, make)

    def kept(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is made once for all members, since it depends on the data alone."""
        return _remembered(self._kept, key, make)

    def together(self, key: Hashable, make: Callable[[Sequence[View]], Sequence[T]]) -> T:
        """As `once`, of all members that are measured at the same time: for what is cheaper to make for all at once.

        Args:
            make: from views of members to one value for each, which must not depend on the others.
        """
        if key not in self._once:
            others = [self._of(fellow, self.split) for fellow in self._fellows if fellow.once is not self._once]
            try:
                for view, made in zip([self, *others], make([self, *others]), strict=True):
                    view._once[key] = made
            except (ArithmeticError, RuntimeError, ValueError) as error:
                # it may be another member that cannot be measured
                if not others or machines(error):
                    raise
                (self._once[key],) = make([self])
        value: T = self._once[key]
        return value

    # Values of metrics, which may rest on others

    def estimate(self, key: str) -> Estimate:
        """A metric of this member on this split, measured when it is first asked for.

        Raises:
            KeyError: no metric measures it.
            ValueError: a metric that rests on itself, or does not return what it declares.
        """
        if key not in self._estimates:
            measure = self._find(key, self.member)
            if measure.name in self._asked:
                raise ValueError(f"metric {measure.name}: it rests on itself, by {' and '.join(self._asked)}")
            self._asked.append(measure.name)
            try:
                self._estimates |= measure(self)
            finally:
                self._asked.pop()
        return self._estimates[key]

    def value(self, key: str) -> float:
        """The same, its value alone; NaN where it is not defined."""
        return self.estimate(key).value


def spaced(rows: Tensor, most: int) -> Tensor:
    """As many rows as there are, or ``most`` of them, evenly spaced.

    The first of a split need not be like the rest: MNIST's test images are of two sources, one behind the other.
    """
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, dtype=torch.float64, device=rows.device).round().long()]


def undefined(reason: str) -> Estimate:
    """A value that is not defined, and why."""
    return Estimate(math.nan, reason=reason)


def _remembered(memory: Memory, key: Hashable, make: Callable[[], T]) -> T:
    if key not in memory:
        memory[key] = make()
    value: T = memory[key]
    return value
