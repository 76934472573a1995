"""All metrics of one member: on the validation split for selection, and once more on the test split at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gimtune.data import Dataset
from gimtune.encoders import Posterior
from gimtune.metrics import fid, mutual_information, probe
from gimtune.objective import Constants, Objective, Parameters, batches, slice_noise
from gimtune.restrictions import RESTRICTIONS
from gimtune.seeds import generator, number
from gimtune.vocabulary import METRICS, Match, Member, Side

_CHUNK = 2000
_CODES = 10_000
_COMPONENTS = 10
#: Codes of each image, for encoders that have no density.
_CODES_EACH = 32
_NOISE = 0.1
#: An encoder that is no Gaussian has tails, of which a critic as narrow as its moments is too sure.
_WIDTHS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


class Evaluation:
    """Measures members on a data set; what does not depend on the member is computed once and kept.

    Args:
        data: its arrays are moved to ``device`` once.
        network: features for the Frechet distances.
    """

    def __init__(self, data: Dataset, network: fid.Features, device: torch.device) -> None:
        self.data, self.network, self.device = data, network, device
        self.images = {split: _tensor(a).to(device) for split, a in data.images.items()}
        self.labels = {split: _tensor(a) for split, a in data.labels.items()}
        self._references: dict[str, fid.Statistics] = {}
        self._floors: dict[tuple[str, int], float] = {}
        self._second: dict[str, Tensor] = {}

    def scaled(self, split: str, index: slice | Tensor) -> Tensor:
        """Images of a split in [0, 1], (n, *image)."""
        return self.images[split][index] / self.data.scale

    def training(self, objective: Objective) -> Tensor:
        """The images that a model is trained on, unscaled: all, or the first domain's half."""
        images = self.images["train"]
        return images[: self.data.first_half] if objective.prior.images else images

    def constants(self, objective: Objective, member: Member, split: str) -> Constants:
        """A member's constants; where its prior is made of images, those of the split's second domain."""
        if not objective.prior.images:
            return objective.constants(member, self.device)
        if split not in self._second:
            images = _tensor(self.data.second(split)).to(self.device) / self.data.scale
            self._second[split] = images.flatten(1)
        return objective.constants(member, self.device, self._second[split])

    def failed(self, member: Member, splits: tuple[str, ...], why: str) -> dict[str, Any]:
        """The row of a member that cannot be measured: NaN everywhere, with the reason."""
        keys = [_named(split, key) for split in splits for key in (*METRICS, *_columns(member))]
        return {**dict.fromkeys(keys, math.nan), "reasons": dict.fromkeys(keys, why), "flags": {}}

    @torch.no_grad()
    def measure(
        self, objective: Objective, parameters: Parameters, member: Member, splits: tuple[str, ...]
    ) -> dict[str, Any]:
        """Every metric of `METRICS` on the splits, with ``test_`` before the test split's keys.

        ``reasons`` says of each value that is NaN why it is, and ``flags`` of each that is not to be trusted. The draws
        depend on the member's seed and on nothing else, so the same weights give the same numbers at any time.
        """
        row: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        flags: dict[str, str] = {}
        settings = member.metrics
        order = torch.randperm(len(self.images["train"]), generator=generator(torch.device("cpu"), "probe"))
        index = order[: settings["probe_samples"]].sort().values
        train = self._encode(objective, parameters, member, "train", index.to(self.device))
        try:
            probes = probe.fit(_array(train.mu), self.labels["train"][index].numpy())
        except ValueError as error:
            probes, why_no_probe = None, str(error).splitlines()[0]
        mixture = (
            _fit_mixture(train.z, number(member.seed, "expost"))
            if objective.prior.density
            else f"a mixture of Gaussians does not describe the codes of a {objective.prior.name} prior"
        )

        for split in splits:
            why: dict[str, str] = {}
            count = min(settings["fid_samples"], len(self.images[split]))
            constants = self.constants(objective, member, split)
            posterior = self._encode(objective, parameters, member, split, slice(None))
            values, doubts = self._formula(objective, parameters, constants, member, split, posterior)
            flags |= {_named(split, key): text for key, text in doubts.items()}
            values |= self._information(objective, parameters, member, split, posterior, why)
            prior = objective.prior_tensors(parameters, constants)
            codes = self._prior_codes(objective, prior, member, split, count)
            generated = self._decode(objective, parameters, codes)
            log_q = torch.cat(
                [
                    objective.log_prob_z(parameters, x, z)
                    for x, z in zip(generated.split(_CHUNK), codes.split(_CHUNK), strict=True)
                ]
            )
            values["likelihood_z"] = float(log_q.double().mean())
            values["mi_p"] = self._entropy(objective, prior, codes, why) + values["likelihood_z"]
            sides = {Side.Q: ("likelihood_x",), Side.P: ("likelihood_z",)}
            values["likelihood"] = sum(
                values[key] for key in sides.get(objective.side, ("likelihood_x", "likelihood_z"))
            )
            values["loss"] = values["restriction"] - values["likelihood"]
            own = "mi_p" if objective.side is Side.P else "mi_q"
            values["mi"] = values[own]
            values["mi_gap"] = values["mi"] + values["loss"]
            if own in why:
                why |= {"mi": why[own], "mi_gap": why[own]}

            values["fid"] = self._distance(generated, split, why, "fid")
            values["recon_fid"] = self._distance(
                self._decode(objective, parameters, posterior.z[:count]), split, why, "recon_fid"
            )
            if isinstance(mixture, str):
                values["fid_expost"], why["fid_expost"] = math.nan, mixture
            else:
                mixture.random_state = number(member.seed, "expost", split)
                expost = torch.from_numpy(mixture.sample(count)[0]).float().to(self.device)
                images = self._decode(objective, parameters, expost)
                values["fid_expost"] = self._distance(images, split, why, "fid_expost")
            values["fid_floor"] = self._floor(split, count)
            if probes is None:
                values |= {"probe_accuracy": math.nan, "probe_knn": math.nan}
                why |= dict.fromkeys(("probe_accuracy", "probe_knn"), why_no_probe)
            else:
                scores = probes.score(_array(posterior.mu), self.labels[split].numpy())
                values |= dict(zip(("probe_accuracy", "probe_knn"), scores, strict=True))
            for key, value in values.items():
                finite = math.isfinite(value)
                row[_named(split, key)] = value if finite else math.nan
                if not finite:
                    reasons[_named(split, key)] = why.get(key, "not finite in float32")
        row["fid_features"] = self.network.name
        row["fid_samples"] = min(settings["fid_samples"], len(self.images[splits[0]]))
        row["mi_images"] = len(self.images[splits[0]])
        row["estimators"] = self._estimators(objective)
        return {**row, "reasons": reasons, "flags": flags}

    def _estimators(self, objective: Objective) -> dict[str, str]:
        found = {r.key: r.estimator(objective.prior) for r in objective.restrictions}
        encoder = objective.encoder
        if not encoder.gaussian:
            found["likelihood_z"] = encoder.estimator
        if encoder.no_entropy is None and not encoder.gaussian:
            found["mi_q"] = f"Gaussians for q(z) and for q(z|x), from {_CODES_EACH} codes of each image"
            found["mi_lower"] = (
                "InfoNCE, its critic the Gaussian of the encoder's moments, widened as other codes want it"
            )
        if not encoder.varies:
            found["mi_lower"] = "index-code information of codes with N(0, 0.1^2) added"
        if objective.likelihood.of_critic:
            found["likelihood_x"] = "unit-variance Gaussian of the critic's last hidden layer"
        return found

    def _entropy(self, objective: Objective, prior: Any, codes: Tensor, why: dict[str, str]) -> float:
        entropy = objective.prior.entropy(prior)
        if entropy is not None:
            return float(entropy)
        if not objective.prior.density:
            why["mi_p"] = f"a {objective.prior.name} prior has no known entropy"
            return math.nan
        return -float(objective.prior.log_prob(prior, codes).mean())

    def _information(
        self,
        objective: Objective,
        parameters: Parameters,
        member: Member,
        split: str,
        posterior: Posterior,
        why: dict[str, str],
    ) -> dict[str, float]:
        mu, sigma, z = posterior
        encoder = objective.encoder
        found = {
            "sigma_mean": float(sigma.double().mean()),
            "active_units": mutual_information.active_units(mu),
        }
        if encoder.gaussian:
            return found | {
                "mi_q": mutual_information.gaussian(mu, sigma),
                "mi_noised": mutual_information.gaussian(mu, sigma, noise=_NOISE),
                "mi_lower": mutual_information.index_code(mu, sigma, z),
            }
        if encoder.no_entropy is None:
            codes = torch.stack(
                [
                    self._encode(objective, parameters, member, split, slice(None), f"draw {i}").z
                    for i in range(_CODES_EACH)
                ]
            )
            return found | {
                "mi_q": mutual_information.of_samples(codes),
                "mi_noised": mutual_information.of_samples(
                    codes, _NOISE, generator(self.device, member.seed, "noised", split)
                ),
                "mi_lower": mutual_information.index_code(mu, _widened(mu, sigma, codes[0]) * sigma, z),
            }
        why["mi_q"] = encoder.no_entropy
        if encoder.varies:
            why |= {"mi_noised": encoder.no_entropy, "mi_lower": encoder.no_entropy}
            return found | {"mi_q": math.nan, "mi_noised": math.nan, "mi_lower": math.nan}
        source = generator(self.device, member.seed, "noised", split)
        noised = mu + _NOISE * torch.randn(mu.shape, generator=source, device=self.device)
        return found | {
            "mi_q": math.nan,
            "mi_noised": mutual_information.gaussian(mu, sigma, noise=_NOISE),
            "mi_lower": mutual_information.index_code(mu, torch.full_like(mu, _NOISE), noised),
        }

    def _encode(
        self,
        objective: Objective,
        parameters: Parameters,
        member: Member,
        split: str,
        index: slice | Tensor,
        stream: str = "evaluation",
    ) -> Posterior:
        images = self.images[split][index]
        source = generator(self.device, member.seed, stream, split)
        width = objective.encoder.noise(objective.latent_dim)
        noise = torch.randn(len(images), width, generator=source, device=self.device)
        parts = [
            objective.posterior(parameters, x / self.data.scale, draws)
            for x, draws in zip(images.split(_CHUNK), noise.split(_CHUNK), strict=True)
        ]
        return Posterior(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))

    def _decode(self, objective: Objective, parameters: Parameters, codes: Tensor) -> Tensor:
        return torch.cat([objective.likelihood.mean(objective.decode(parameters, z)) for z in codes.split(_CHUNK)])

    def _prior_codes(self, objective: Objective, prior: Any, member: Member, split: str, count: int) -> Tensor:
        source = generator(self.device, member.seed, "generation", split)
        return objective.prior.sample(prior, objective.prior.noise(count, objective.latent_dim, source))

    @torch.no_grad()
    def samples(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """The first images that the member's test FID is computed from: (count, *image) in [0, 1]."""
        prior = objective.prior_tensors(parameters, self.constants(objective, member, "test"))
        return self._decode(objective, parameters, self._prior_codes(objective, prior, member, "test", count))

    @torch.no_grad()
    def reconstructions(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> Tensor:
        """The test split's first images and the decoder's means of a code each: (2, count, *image) in [0, 1]."""
        posterior = self._encode(objective, parameters, member, "test", slice(count))
        return torch.stack([self.scaled("test", slice(count)), self._decode(objective, parameters, posterior.z)])

    @torch.no_grad()
    def codes(self, objective: Objective, parameters: Parameters, member: Member, count: int) -> tuple[Tensor, Tensor]:
        """Posterior means of the validation split's first images, (n, latent_dim), and their labels, (n,)."""
        posterior = self._encode(objective, parameters, member, "validation", slice(count))
        return posterior.mu, self.labels["validation"][:count]

    def _formula(
        self,
        objective: Objective,
        parameters: Parameters,
        constants: Constants,
        member: Member,
        split: str,
        posterior: Posterior,
    ) -> tuple[dict[str, float], dict[str, str]]:
        """The terms of the loss on a split, and why which of them is not to be trusted."""
        count = len(self.images[split])
        parts = batches(count, member.batch_size)
        noise = objective.noise((member.seed, "formula", split), count, len(parts), self.device)
        sums = torch.zeros(1 + len(objective.restrictions), dtype=torch.float64, device=self.device)
        accuracies: dict[str, float] = {}
        for i, part in enumerate(parts):
            draws = {k: v[0] for k, v in slice_noise({k: v[None] for k, v in noise.items()}, part, i).items()}
            x, share = self.scaled(split, part), (part.stop - part.start) / count
            terms = objective.terms(parameters, constants, x, draws)
            likelihood = terms.likelihood
            if objective.side is not Side.Q:
                likelihood = objective.log_prob_x(parameters, x, posterior.z[part]).mean()
            sums += share * torch.cat([likelihood[None], terms.divergences])
            for name, value in objective.accuracies(parameters, constants, x, draws).items():
                accuracies[name] = accuracies.get(name, 0.0) + share * float(value)
        divergences = sums[1:]
        named = {f"restriction/{r.key}": v for r, v in zip(objective.restrictions, divergences.tolist(), strict=True)}
        named |= {f"critic_accuracy/{name}": value for name, value in accuracies.items()}
        restriction = float((constants.weights * divergences).sum())
        doubts = {
            f"restriction/{name}": "its critic tells every example apart: no estimate"
            for name, value in accuracies.items()
            if value > 1 - 1e-9
        }
        return {"likelihood_x": float(sums[0]), "restriction": restriction, **named}, doubts

    def _reference(self, split: str) -> fid.Statistics:
        if split not in self._references:
            features = fid.features_of(self.network, self.scaled(split, slice(None)))
            self._references[split] = fid.statistics(features, root=True)
        return self._references[split]

    def _floor(self, split: str, count: int) -> float:
        if (split, count) not in self._floors:
            train = self.images["train"]
            index = torch.randperm(len(train), generator=generator(torch.device("cpu"), "floor"))[:count]
            features = fid.features_of(self.network, self.scaled("train", index.to(self.device)))
            self._floors[split, count] = fid.frechet(fid.statistics(features), self._reference(split))
        return self._floors[split, count]

    def _distance(self, images: Tensor, split: str, reasons: dict[str, str], key: str) -> float:
        try:
            found = fid.statistics(fid.features_of(self.network, images))
        except ValueError as error:
            reasons[_named(split, key)] = str(error)
            return math.nan
        return fid.frechet(found, self._reference(split))


def _widened(mu: Tensor, sigma: Tensor, z: Tensor) -> float:
    """How much wider the bound's critic should be than the encoder's moments; chosen on codes of another draw."""
    return max(_WIDTHS, key=lambda width: mutual_information.index_code(mu, width * sigma, z))


def _columns(member: Member) -> list[str]:
    used = [RESTRICTIONS[Match(match), divergence] for match, divergence, _ in member.restrictions]
    judged = [r.key for r in used if r.critic and r.critic.divergence.threshold is not None]
    return [*(f"restriction/{r.key}" for r in used), *(f"critic_accuracy/{key}" for key in judged)]


def _named(split: str, key: str) -> str:
    return f"test_{key}" if split == "test" else key


def _fit_mixture(codes: Tensor, seed: int) -> Any:
    """A `GaussianMixture` of the training codes, or why there is none."""
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    if not bool(torch.isfinite(codes).all()):
        return "training codes are not finite"
    mixture = GaussianMixture(_COMPONENTS, init_params="k-means++", random_state=seed, reg_covar=1e-6)
    try:
        # matrices of d x d: several BLAS threads only wait for each other, ten times longer where the cores are shared
        with threadpool_limits(1, "blas"):
            return mixture.fit(_array(codes[:_CODES]))
    except ValueError as error:
        return f"no mixture could be fitted: {str(error).splitlines()[0]}"


def _array(values: Tensor) -> Any:
    return values.double().cpu().numpy()


def _tensor(values: Any) -> Tensor:
    # arrays from the object store are read-only; torch warns of that once, and nothing here writes to them
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(values)


def summarise(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as the results store takes it: reasons and estimators as JSON text."""
    import json

    return {k: json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for k, v in row.items()}
