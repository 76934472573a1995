"""All metrics of one member: on the validation split for selection, and once more on the test split at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gimtune.data import Dataset
from gimtune.metrics import fid, mutual_information, probe
from gimtune.objective import Constants, Objective, Parameters, batches, slice_noise
from gimtune.seeds import generator, number
from gimtune.vocabulary import METRICS, Member, Side

_CHUNK = 2000
_CODES = 10_000
_COMPONENTS = 10


class Posterior(NamedTuple):
    """Means, standard deviations and one code each of N images, (N, d)."""

    mu: Tensor
    sigma: Tensor
    z: Tensor


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

    def scaled(self, split: str, index: slice | Tensor) -> Tensor:
        """Images of a split in [0, 1], (n, *image)."""
        return self.images[split][index] / self.data.scale

    def failed(self, member: Member, splits: tuple[str, ...], why: str) -> dict[str, Any]:
        """The row of a member that cannot be measured: NaN everywhere, with the reason."""
        keys = [_named(split, key) for split in splits for key in (*METRICS, *_columns(member))]
        return {**dict.fromkeys(keys, math.nan), "reasons": dict.fromkeys(keys, why)}

    @torch.no_grad()
    def measure(
        self,
        objective: Objective,
        parameters: Parameters,
        constants: Constants,
        member: Member,
        splits: tuple[str, ...],
    ) -> dict[str, Any]:
        """Every metric of `METRICS` on the splits, with ``test_`` before the test split's keys.

        ``reasons`` says of each value that is NaN why it is. The draws depend on the member's seed and on nothing else,
        so the same weights give the same numbers at any time.
        """
        row: dict[str, Any] = {}
        reasons: dict[str, str] = {}
        settings = member.metrics
        order = torch.randperm(len(self.images["train"]), generator=generator(torch.device("cpu"), "probe"))
        index = order[: settings["probe_samples"]].sort().values
        train = self._encode(objective, parameters, member, "train", index.to(self.device))
        try:
            probes = probe.fit(_array(train.mu), self.labels["train"][index].numpy())
        except ValueError as error:
            probes, why_no_probe = None, str(error).splitlines()[0]
        mixture = _fit_mixture(train.z, number(member.seed, "expost"))

        for split in splits:
            count = min(settings["fid_samples"], len(self.images[split]))
            posterior = self._encode(objective, parameters, member, split, slice(None))
            values = self._formula(objective, parameters, constants, member, split)
            values |= _information(posterior)
            codes = self._prior_codes(objective, constants, member, split, count)
            generated = self._decode(objective, parameters, codes)
            mu, sigma = _chunked(lambda x: objective.encode(parameters, x), generated)
            log_q = torch.distributions.Normal(mu, sigma, validate_args=False).log_prob(codes).sum(1)
            values["likelihood_z"] = float(log_q.double().mean())
            entropy = objective.prior.entropy(constants.prior)
            if entropy is None:
                entropy = -objective.prior.log_prob(constants.prior, codes).mean()
            values["mi_p"] = float(entropy) + values["likelihood_z"]
            p_side = member.side == Side.P
            values["likelihood"] = values["likelihood_z" if p_side else "likelihood_x"]
            values["loss"] = values["restriction"] - values["likelihood"]
            values["mi"] = values["mi_p" if p_side else "mi_q"]
            values["mi_gap"] = values["mi"] + values["loss"]

            values["fid"] = self._distance(generated, split, reasons, "fid")
            values["recon_fid"] = self._distance(
                self._decode(objective, parameters, posterior.z[:count]), split, reasons, "recon_fid"
            )
            if isinstance(mixture, str):
                values["fid_expost"], reasons[_named(split, "fid_expost")] = math.nan, mixture
            else:
                mixture.random_state = number(member.seed, "expost", split)
                expost = torch.from_numpy(mixture.sample(count)[0]).float().to(self.device)
                images = self._decode(objective, parameters, expost)
                values["fid_expost"] = self._distance(images, split, reasons, "fid_expost")
            values["fid_floor"] = self._floor(split, count)
            if probes is None:
                values |= {"probe_accuracy": math.nan, "probe_knn": math.nan}
                reasons |= {_named(split, k): why_no_probe for k in ("probe_accuracy", "probe_knn")}
            else:
                scores = probes.score(_array(posterior.mu), self.labels[split].numpy())
                values |= dict(zip(("probe_accuracy", "probe_knn"), scores, strict=True))
            for key, value in values.items():
                if not math.isfinite(value):
                    reasons.setdefault(_named(split, key), "not finite in float32")
                row[_named(split, key)] = value if math.isfinite(value) else math.nan
        row["fid_features"] = self.network.name
        row["fid_samples"] = min(settings["fid_samples"], len(self.images[splits[0]]))
        row["mi_images"] = len(self.images[splits[0]])
        row["estimators"] = {r.key: r.estimator(objective.prior) for r in objective.restrictions}
        return {**row, "reasons": reasons}

    def _encode(
        self, objective: Objective, parameters: Parameters, member: Member, split: str, index: slice | Tensor
    ) -> Posterior:
        images = self.images[split][index]
        mu, sigma = _chunked(lambda x: objective.encode(parameters, x / self.data.scale), images)
        source = generator(self.device, member.seed, "evaluation", split)
        return Posterior(mu, sigma, mu + sigma * torch.randn(mu.shape, generator=source, device=self.device))

    def _decode(self, objective: Objective, parameters: Parameters, codes: Tensor) -> Tensor:
        return torch.cat([objective.likelihood.mean(objective.decode(parameters, z)) for z in codes.split(_CHUNK)])

    def _prior_codes(
        self, objective: Objective, constants: Constants, member: Member, split: str, count: int
    ) -> Tensor:
        source = generator(self.device, member.seed, "generation", split)
        return objective.prior.sample(constants.prior, objective.prior.noise(count, objective.latent_dim, source))

    def samples(
        self, objective: Objective, parameters: Parameters, constants: Constants, member: Member, count: int
    ) -> Tensor:
        """The first images that the member's test FID is computed from: (count, *image) in [0, 1]."""
        with torch.no_grad():
            return self._decode(objective, parameters, self._prior_codes(objective, constants, member, "test", count))

    def _formula(
        self, objective: Objective, parameters: Parameters, constants: Constants, member: Member, split: str
    ) -> dict[str, float]:
        count = len(self.images[split])
        parts = batches(count, member.batch_size)
        noise = objective.noise((member.seed, "formula", split), count, len(parts), self.device)
        likelihood = torch.zeros((), dtype=torch.float64, device=self.device)
        divergences = torch.zeros(len(objective.restrictions), dtype=torch.float64, device=self.device)
        for i, part in enumerate(parts):
            draws = {k: v[0] for k, v in slice_noise({k: v[None] for k, v in noise.items()}, part, i).items()}
            terms = objective.terms(parameters, constants, self.scaled(split, part), draws)
            share = (part.stop - part.start) / count
            likelihood += share * terms.likelihood
            divergences += share * terms.divergences
        named = dict(zip(_columns(member), divergences.tolist(), strict=True))
        restriction = float((constants.weights * divergences).sum())
        return {"likelihood_x": float(likelihood), "restriction": restriction, **named}

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


def _columns(member: Member) -> list[str]:
    return [f"restriction/{match}_{divergence}" for match, divergence, _ in member.restrictions]


def _named(split: str, key: str) -> str:
    return f"test_{key}" if split == "test" else key


def _information(posterior: Posterior) -> dict[str, float]:
    mu, sigma, z = posterior
    return {
        "mi_q": mutual_information.gaussian(mu, sigma),
        "mi_noised": mutual_information.gaussian(mu, sigma, noise=0.1),
        "mi_lower": mutual_information.index_code(mu, sigma, z),
        "sigma_mean": float(sigma.double().mean()),
        "active_units": mutual_information.active_units(mu),
    }


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


def _chunked(function: Any, rows: Tensor) -> tuple[Tensor, Tensor]:
    first, second = zip(*(function(part) for part in rows.split(_CHUNK)), strict=True)
    return torch.cat(first), torch.cat(second)


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
