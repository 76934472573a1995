"""Checks for authors of parts: what the contracts say and registration cannot see, tried on real networks and digits.

    from gimtune.testing import check_restriction

    def test_mine():
        check_restriction("latent/cramer_wold")

Each check takes a registered name and raises an AssertionError, in a sentence, at the first thing that is wrong.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from gimtune import data as datasets
from gimtune.algebra.encoders import ENCODERS, make_encoder
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.objective import Objective
from gimtune.algebra.priors import PRIORS, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS, refuses
from gimtune.metrics import FEATURES, MEASURES, Estimate, Evaluation
from gimtune.metrics.lenet import LeNet
from gimtune.networks import NETWORKS, check, initial, seeded
from gimtune.training import Pack
from gimtune.vocabulary import Match, Member, Side

__all__ = [
    "check_data",
    "check_encoder",
    "check_features",
    "check_likelihood",
    "check_metric",
    "check_model",
    "check_network",
    "check_prior",
    "check_restriction",
]

_CPU = torch.device("cpu")
_COUNT = 32
#: Standard errors that a mean of draws may be off by: one check in a million is wrong by chance.
_ERRORS = 5.0
#: A formula in float32 by batched and by plain kernels.
_ROUNDING = 1e-4
#: What a restriction is to move: the inference side, the generative side, or either of both.
_MOVED = {
    Match.POSTERIOR: {"encoder"},
    Match.LATENT: {"encoder"},
    Match.DATA: {"decoder"},
    Match.JOINT: {"encoder", "decoder"},
}
_SETTINGS = {"fid_features": "classifier", "inception_weights": None, "fid_samples": 100, "probe_samples": 200}


@cache
def _evaluation() -> Evaluation:
    """A fifth of the digits, and features of a network that is not trained: quick, and enough to see a fault."""
    digits = datasets.load("digits")

    def fifth(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {split: array[::5] for split, array in arrays.items()}

    few = dataclasses.replace(digits, images=fifth(digits.images), labels=fifth(digits.labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LeNet(1).eval().requires_grad_(False)
    network.name = "untrained"
    return Evaluation(few, network, _CPU)


def _member(**changes: Any) -> Member:
    prior = make_prior(**changes.get("prior", {"name": "normal"}))
    plain = {
        "model": "checked",
        "side": "q",
        "likelihood": "bernoulli",
        "encoder": prior.encoder or "gaussian",
        "restrictions": (),
        "weight": 1.0,
        "critic": {},
        "prior": {"name": prior.name, **dataclasses.asdict(prior)},
        "latent_dim": 64 if prior.images else 14 if prior.encoder else 4,
        "seed": 0,
        "data": {"name": "digits", "seed": 0},
        "network": {"name": "mlp", "hidden": [32]},
        "learning_rate": 1e-3,
        "beta1": 0.5,
        "batch_size": 64,
        "epochs": 1,
        "evaluate_every": 1,
        "sigma_min": 1e-3,
        "sigma_start": 0.03,
        "shuffle_seed": 0,
        "metrics": _SETTINGS,
    }
    return Member(**{**plain, **{key: value for key, value in changes.items() if key != "prior"}})


Batch = tuple[dict[str, dict[str, Tensor]], Any, Tensor, dict[str, Tensor]]


def _batch(objective: Objective, member: Member) -> Batch:
    """Parameters that ask for gradients, constants, images and noise of one minibatch."""
    resident = _evaluation().data
    parameters = tree_map(lambda leaf: leaf.requires_grad_(), objective.initial(member.seed, _CPU))
    noise = objective.noise((member.seed, "check"), _COUNT, 1, _CPU)
    noise = {key: value[0] if key == "directions" else value for key, value in noise.items()}
    return parameters, resident.constants(objective, member, "train"), resident.scaled("train", slice(_COUNT)), noise


def _reached(value: Tensor, parameters: Mapping[str, Mapping[str, Tensor]]) -> set[str]:
    leaves = {(module, name): leaf for module, values in parameters.items() for name, leaf in values.items()}
    gradients = torch.autograd.grad(value, [*leaves.values()], retain_graph=True, allow_unused=True)
    found = {key: g for key, g in zip(leaves, gradients, strict=True) if g is not None and bool((g != 0).any())}
    for (module, name), gradient in found.items():
        assert bool(gradient.isfinite().all()), f"the gradient of {module}.{name} is not finite"
    return {module for module, _ in found}


def _terms(objective: Objective, member: Member, what: str) -> tuple[Any, Batch]:
    """The terms of a minibatch, alone and mapped over two equal members, which are to be the same."""
    batch = _batch(objective, member)
    parameters, constants, x, noise = batch
    terms = objective.terms(parameters, constants, x, noise)
    twice = tree_map(lambda leaf: torch.stack([leaf, leaf]), (parameters, constants, noise))
    try:
        mapped = vmap(lambda p, c, n: objective.terms(p, c, x, n))(*twice)
    except RuntimeError as error:
        raise AssertionError(f"{what}: cannot be mapped over members ({str(error).splitlines()[0]})") from None
    for alone, both in zip(terms, mapped, strict=True):
        torch.testing.assert_close(
            both,
            torch.stack([alone, alone]),
            rtol=_ROUNDING,
            atol=_ROUNDING,
            equal_nan=True,
            msg=f"{what}: other numbers when mapped",
        )
    return terms, batch


def check_restriction(name: str) -> None:
    """A restriction, ``match/divergence``: a finite scalar whose gradient reaches its side, the same when mapped."""
    match, _, divergence = name.partition("/")
    restriction = RESTRICTIONS[Match(match), divergence]
    accepted = [
        prior for prior in PRIORS if PRIORS[prior].encoder is None and not restriction.refuses(make_prior(prior))
    ]
    assert accepted, f"restriction {name}: it refuses every prior"
    for prior in accepted:
        what = f"restriction {name} with the {prior} prior"
        member = _member(prior={"name": prior}, restrictions=((match, divergence, 1.0),))
        objective = Objective(member, _evaluation().data.image)
        terms, (parameters, constants, x, noise) = _terms(objective, member, what)
        (value,) = terms.divergences
        assert bool(value.isfinite()), f"{what}: {float(value.detach())}"
        reached = _reached(value, parameters) & {"encoder", "decoder"}
        # a prior that is made of posteriors carries the gradient to the encoder
        wanted = _MOVED[restriction.match] | ({"encoder"} if PRIORS[prior].posteriors else set())
        assert reached & wanted, f"{what}: its gradient reaches {sorted(reached)}, and not {sorted(wanted)}"
        if restriction.match is not Match.JOINT:
            assert reached <= wanted, (
                f"{what}: its gradient reaches {sorted(reached)}, and should {sorted(wanted)} alone"
            )
        if restriction.critic:
            own = _reached(objective.loss(restriction.key, parameters, constants, x, noise), parameters)
            assert own == {restriction.key}, f"{what}: its critic's loss trains {sorted(own)}"
        assert restriction.estimated(make_prior(prior)), f"{what}: it does not say how its value comes about"


def check_prior(name: str) -> None:
    """A prior: codes of the right shape, with the density, entropy and variance that it says it has."""
    prior = make_prior(name)
    dims = _member(prior={"name": name}).latent_dim
    source = torch.Generator().manual_seed(0)
    constants = prior.parameters(dims)
    learned = prior.initial(dims, 64, source)

    def encode(flat: Tensor) -> tuple[Tensor, Tensor]:
        mean = flat[:, :dims]
        return mean, torch.full_like(mean, 0.5)

    values = prior.tensors(constants, learned, encode)
    noise = prior.noise(20_000, dims, source)
    codes = prior.sample(values, noise)
    assert codes.shape == (20_000, dims), f"prior {name}: codes of shape {tuple(codes.shape)}, not (n, {dims})"
    assert bool(codes.isfinite().all()), f"prior {name}: codes that are not finite"
    mapped = vmap(prior.sample)(tree_map(lambda leaf: torch.stack([leaf, leaf]), values), torch.stack([noise, noise]))
    torch.testing.assert_close(mapped[1], codes, msg=f"prior {name}: other codes when mapped")
    if not prior.density:
        return
    low, high = prior.extent(values)
    assert bool((codes >= low).all() and (codes <= high).all()), f"prior {name}: codes beyond its extent"
    density = prior.log_prob(values, codes)
    assert density.shape == (20_000,), f"prior {name}: log_prob of shape {tuple(density.shape)}, not (n,)"
    grid = low + (high - low) * torch.linspace(0, 1, 40_001)[:, None]
    mass = torch.trapezoid(prior.marginal(values).log_prob(grid).exp(), grid, dim=0)
    assert bool(((mass - 1).abs() < 2e-3).all()), f"prior {name}: marginals integrate to {mass.tolist()}"
    _near(codes.square() - codes.mean(0).square(), prior.variance(values), f"prior {name}: variance")
    if (entropy := prior.entropy(values)) is not None:
        _near(-density[:, None], entropy[None], f"prior {name}: entropy")
    if prior.closed_kl:
        mu, sigma = torch.full((1, dims), 0.3), torch.full((1, dims), 0.7)
        drawn = mu + sigma * torch.randn(20_000, dims, generator=source)
        log_q = torch.distributions.Normal(mu, sigma).log_prob(drawn).sum(-1)
        known = prior.gaussian_kl(values, mu, sigma)
        _near((log_q - prior.log_prob(values, drawn))[:, None], known, f"prior {name}: KL in closed form")


def _near(draws: Tensor, known: Tensor, what: str) -> None:
    """Means of draws (n, k) are known values (k,), within their standard errors."""
    mean, error = draws.mean(0), draws.std(0) / math.sqrt(len(draws)) + 1e-6
    assert bool(((mean - known).abs() < _ERRORS * error).all()), f"{what} {known.tolist()}; draws say {mean.tolist()}"


def check_encoder(name: str) -> None:
    """A kind of encoder: finite codes with the moments that it says, and a log-density, mapped and alone the same."""
    kind = ENCODERS[name]
    prior = next((p for p in PRIORS if PRIORS[p].encoder == name), "normal")
    member = _member(prior={"name": prior}, encoder=name, side="p" if not kind.differentiable else "q")
    objective = Objective(member, _evaluation().data.image)
    what, dims = f"encoder {name}", member.latent_dim
    _, (parameters, _, x, _) = _terms(objective, member, what)
    source = torch.Generator().manual_seed(0)
    width = make_encoder(name, member.prior).noise(dims)
    with torch.no_grad():
        draws = [objective.posterior(parameters, x, torch.randn(len(x), width, generator=source)) for _ in range(400)]
        mu, sigma, z = draws[0]
        for part, values in (("means", mu), ("deviations", sigma), ("codes", z)):
            assert values.shape == (len(x), dims), f"{what}: {part} of shape {tuple(values.shape)}, not (n, {dims})"
            assert bool(values.isfinite().all()), f"{what}: {part} that are not finite"
        assert bool((sigma >= 0).all()), f"{what}: deviations below 0"
        log_prob = objective.log_prob_z(parameters, x, z)
        assert log_prob.shape == (len(x),), f"{what}: log_prob of shape {tuple(log_prob.shape)}, not (n,)"
        codes = torch.stack([draw.z for draw in draws])
    if not kind.varies:
        assert bool((codes == codes[0]).all()), f"{what}: codes vary, and it says that they do not"
    elif kind.gaussian:
        _near(codes.flatten(1), mu.flatten(), f"{what}: mean")


def check_likelihood(name: str) -> None:
    """A likelihood: finite nats for every image and a mean in [0, 1] if it is bounded, mapped and alone the same."""
    likelihood = LIKELIHOODS[name]
    judged = (("posterior", "kl", 1.0), ("data", "js", 1.0)) if likelihood.of_critic else ()
    member = _member(likelihood=name, restrictions=judged)
    objective = Objective(member, _evaluation().data.image)
    what = f"likelihood {name}"
    terms, (parameters, _, x, _) = _terms(objective, member, what)
    assert bool(terms.likelihood.isfinite()), f"{what}: {float(terms.likelihood.detach())}"
    assert {"encoder", "decoder"} <= _reached(terms.likelihood, parameters), f"{what}: it does not train both networks"
    source = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 30.0):
        output = scale * torch.randn(x.shape, generator=source)
        mean = likelihood.mean(output)
        assert mean.shape == x.shape, f"{what}: a mean of shape {tuple(mean.shape)}, not {tuple(x.shape)}"
        assert not likelihood.bounded or 0 <= mean.min() <= mean.max() <= 1, f"{what}: a mean image outside [0, 1]"
        if not likelihood.of_critic:
            nats = likelihood.log_prob(x, output)
            assert nats.shape == (len(x),), f"{what}: log_prob of shape {tuple(nats.shape)}, not (n,)"
            assert bool(nats.isfinite().all()), f"{what}: log_prob that is not finite at outputs of {scale:g}"


def check_network(
    name: str, *, image: tuple[int, int, int] = (1, 8, 8), latent_dim: int = 4, outputs: int = 8, **options: Any
) -> None:
    """An architecture: shapes, no state, every weight trained, equal weights for equal seeds, the same when mapped."""
    check(name, image, latent_dim, outputs, options)

    def make() -> Any:
        return NETWORKS[name](image, latent_dim, outputs, **options)

    def weights(role: str) -> dict[str, Tensor]:
        module = getattr(seeded(make, 1), role)
        return initial(module, torch.Generator().manual_seed(0))

    source = torch.Generator().manual_seed(0)
    for role, shape in (("encoder", image), ("decoder", (latent_dim,))):
        what, module = f"network {name}: its {role}", getattr(make(), role)
        values, again = weights(role), weights(role)
        assert all(values[key].equal(again[key]) for key in values), f"{what} starts otherwise from the same seed"
        values = {key: value.requires_grad_() for key, value in values.items()}
        x = torch.rand(5, *shape, generator=source)

        def forward(p: dict[str, Tensor], x: Tensor = x, module: Any = module) -> Tensor:
            result: Tensor = functional_call(module, p, (x,))
            return result

        output = forward(values)
        assert output.equal(forward(values)), f"{what} gives other numbers the second time"
        gradients = torch.autograd.grad(output.square().sum(), [*values.values()], allow_unused=True)
        for key, gradient in zip(values, gradients, strict=True):
            assert gradient is not None, f"{what}: {key} is not trained"
            assert bool(gradient.isfinite().all()), f"{what}: the gradient of {key} is not finite"
        try:
            mapped = vmap(forward)({key: torch.stack([value, value]) for key, value in values.items()})
        except RuntimeError as error:
            raise AssertionError(f"{what} cannot be mapped over members ({str(error).splitlines()[0]})") from None
        torch.testing.assert_close(mapped[1], output, rtol=_ROUNDING, atol=_ROUNDING, msg=f"{what}: other when mapped")


def check_model(name: str) -> None:
    """A model: restrictions and parts that exist, weights in proportion to its weight, finite losses of all players."""
    model = MODELS[name]
    for term in model.restrictions:
        assert (term.match, term.divergence) in RESTRICTIONS, (
            f"model {name}: no restriction {term.match}/{term.divergence}"
        )
    for key, registry in (("likelihood", LIKELIHOODS), ("prior", PRIORS), ("encoder", ENCODERS)):
        value = getattr(model, key)
        assert value is None or value in registry, f"model {name}: no {key} {value}"
    sizes = {"latent_dim": 4, "pixels": 64}
    one, two = model.weights(1.0, **sizes), model.weights(2.0, **sizes)
    assert two == tuple(2 * w for w in one), f"model {name}: twice the weight is not twice the restriction"
    prior = make_prior(model.prior or "normal")
    restrictions = tuple((str(t.match), t.divergence, w) for t, w in zip(model.restrictions, one, strict=True))
    encoder = prior.encoder or model.encoder
    why = refuses(Side(model.side), prior, make_encoder(encoder, dataclasses.asdict(prior)), bool(restrictions))
    assert why is None, f"model {name}: {why}"
    likelihood = {"likelihood": model.likelihood} if model.likelihood else {}
    member = _member(
        prior={"name": prior.name}, side=str(model.side), encoder=encoder, restrictions=restrictions, **likelihood
    )
    objective = Objective(member, _evaluation().data.image)
    terms, (parameters, constants, x, noise) = _terms(objective, member, f"model {name}")
    assert bool(terms.loss.isfinite()), f"model {name}: a loss of {float(terms.loss.detach())}"
    for player in objective.players:
        loss = objective.loss(player.name, parameters, constants, x, noise)
        trained = _reached(loss, parameters)
        missing = {*player.modules} - trained
        assert not missing, f"model {name}: the loss of {player.name} does not train {sorted(missing)}"


def check_metric(name: str) -> None:
    """A metric: every column finite or with a reason on both splits, and the same when measured again."""
    assert name in MEASURES, f"metric {name}: not registered"
    evaluation, member = _evaluation(), _member(restrictions=(("posterior", "kl", 1.0),))
    pack = Pack([member], evaluation.data)
    pack.train_epoch()
    measure = MEASURES[name]

    @torch.no_grad()
    def measured() -> dict[str, Estimate]:
        once: dict[Any, Any] = {}
        views = [evaluation.view(pack.objective, pack.one(0), member, split, once) for split in ("validation", "test")]
        return {f"{view.split} {key}": view.estimate(key) for view in views for key in measure.keys(member)}

    second = measured()
    for column, (value, _, reason, *_) in measured().items():
        assert math.isfinite(value) or reason, f"metric {name}: {column} is {value}, without a reason"
        again, known = second[column].value, math.isfinite(value)
        assert value == again or not known, f"metric {name}: {column} is {value} and then {again} of the same weights"


def check_data(name: str, **options: Any) -> None:
    """A data set: uint8 images and labels of one shape in three disjoint splits, made by the seed alone."""
    one, again = (datasets.load(name, seed=0, **options) for _ in range(2))
    assert one.digest == again.digest, f"data {name}: other splits for the same seed"
    assert {*one.images} == {*one.labels} == {*datasets.SPLITS}, f"data {name}: splits {', '.join(one.images)}"
    seen: set[bytes] = set()
    for split in datasets.SPLITS:
        images, labels = one.images[split], one.labels[split]
        whole = images.ndim == 4 and (images.dtype == "uint8" or (one.vectors and images.shape[1:3] == (1, 1)))
        assert whole, f"data {name}: {split} images are no uint8 (n, c, h, w) and no vectors, float32 (n, 1, 1, d)"
        assert images.shape[1:] == one.image, f"data {name}: {split} images are {images.shape[1:]}, others {one.image}"
        assert len(labels) == len(images), f"data {name}: {len(labels)} labels of {len(images)} {split} images"
        assert one.vectors or images.max() <= one.scale, f"data {name}: pixels beyond its white, {one.scale:g}"
        shared = sum(image.tobytes() in seen for image in images)
        # photographs of clothes come twice now and then
        assert shared <= len(images) // 200, f"data {name}: {shared} {split} images are in another split too"
        seen |= {image.tobytes() for image in images}
    assert datasets.image(name, 0, **options) == one.image, f"data {name}: declared as {datasets.image(name, 0)}"


def check_features(name: str, **settings: Any) -> None:
    """A feature network: finite features (n, k), the same for the same images, under a name of its own."""
    source, data = FEATURES[name], _evaluation().data
    asked = {**_SETTINGS, "fid_features": name, **settings}
    source.check(asked)
    with tempfile.TemporaryDirectory() as folder:
        network = source.load(data.dataset, asked, Path(folder), _CPU)
    images = data.scaled("validation", slice(20))
    features, again = network(images), network(images)
    flat = features.ndim == 2 and len(features) == 20
    assert flat, f"features {name}: of shape {tuple(features.shape)}, not (n, k)"
    assert bool(features.isfinite().all()), f"features {name}: not finite"
    assert features.equal(again), f"features {name}: other features of the same images"
    assert network.name.startswith(name), f"features {name}: called {network.name!r}, which does not begin with it"
