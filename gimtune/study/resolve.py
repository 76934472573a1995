"""From a configuration to its members: every combination of its space, resolved and checked.

Errors name the key as the user wrote it, so they are raised here, before anything starts.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from gimtune import data, networks, parts
from gimtune.algebra.encoders import ENCODERS, choices, make_encoder
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS, fixed_likelihood
from gimtune.algebra.priors import PRIORS, Prior, make_prior
from gimtune.algebra.restrictions import RESTRICTIONS, refuses, sigma_start
from gimtune.data import DATASETS
from gimtune.metrics import FEATURES, MEASURES
from gimtune.networks import NETWORKS
from gimtune.parts import allowed
from gimtune.results.course import Restore
from gimtune.study import space
from gimtune.study.messages import ConfigError
from gimtune.study.schema import NAME, SWEPT, Config
from gimtune.study.sections import critic_settings, network_options
from gimtune.study.tried import try_out
from gimtune.vocabulary import IMPORTANCE_CODES, Match, Member, Model, Side, Weighted

#: Draws per member wanted, before a space is taken for exhausted.
_DRAWS = 50


def _terms() -> dict[str, tuple[Match, str]]:
    """Every restriction as a study writes it."""
    return {RESTRICTIONS.label(key): key for key in RESTRICTIONS}


def members(config: Config) -> list[Member]:
    """Every member that the study runs, resolved and checked, without repeats, in the order of the space.

    Of a study whose sampler decides as it goes, as many random ones: they show that the space makes sense.

    Raises:
        ConfigError: an unknown model or prior, a combination that makes no sense, or a value out of range.
    """
    check_parts(config)
    models = _models(config)
    parameters = {name for model in models.values() for name in model.parameters}
    for key in config.space:
        if key not in SWEPT and key not in parameters:
            raise ConfigError(f"space.{key}: unknown key; {allowed(key, [*SWEPT, *sorted(parameters)])}")
    for key, value in config.space.items():
        _check_conditions(f"space.{key}", value, {*MODELS, *models})
    whole = whole_space(config)
    random = np.random.default_rng(config.seed)
    found: dict[str, Member] = {}
    try:
        if config.search.sampler == "grid":
            assignments: Iterator[space.Assignment] = space.expand(whole)
        else:
            # draws that repeat a member do not count; where few are possible, it ends with those
            wanted = config.search.trials or 0
            draws = (space.draw(whole, random) for _ in range(_DRAWS * wanted))
            assignments = itertools.takewhile(lambda _: len(found) < wanted, draws)
        for assignment in assignments:
            member = _member(config, models[assignment["model"]], assignment)
            if member.trial not in found:
                try_out(member, image_of(config))
                found[member.trial] = member
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return list(found.values())


def whole_space(config: Config) -> dict[str, Any]:
    """The study's space with its models as one key more, and its numbers those of the study's images.

    Raises:
        ConfigError: as `image_of`, where the images' size matters.
    """
    own = {key: space.sized(value, lambda: math.prod(image_of(config))) for key, value in config.space.items()}
    return {"model": {"grid": list(_models(config))}, **own}


def member(config: Config, assignment: Mapping[str, Any]) -> Member:
    """One combination of the space, resolved and checked.

    Raises:
        ConfigError: as `members`.
    """
    try:
        return _member(config, _models(config)[assignment["model"]], assignment)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _models(config: Config) -> dict[str, Model]:
    models = {model.name: model for model in map(_model, config.models)}
    if len(models) < len(config.models):
        raise ConfigError(f"models={[_name(m) for m in config.models]}: a name stands there twice")
    return models


def _check_conditions(key: str, value: Any, models: set[str]) -> None:
    """Refuse a name after ``per`` that is none: its space would never be used."""
    if not isinstance(value, Mapping) or "per" not in value:
        return
    known = {"model": models, "prior": set(PRIORS), "restriction": set(_terms())}[value["per"]]
    for name in value:
        if name not in known | {"per", "default"}:
            raise ConfigError(f"{key}.{name}: unknown {value['per']}; {allowed(str(name), sorted(known))}")


def _name(entry: Any) -> str:
    return str(entry.get("name")) if isinstance(entry, Mapping) else str(entry)


def _model(entry: Any) -> Model:
    if isinstance(entry, str):
        if entry not in MODELS:
            raise ConfigError(f"models={entry}: unknown model; {allowed(entry, MODELS)}")
        return MODELS[entry]
    if not isinstance(entry, Mapping):
        raise ConfigError(f"models={entry!r}: a name, or a mapping {{name, restrictions, side, likelihood, encoder}}")
    known = {"name", "side", "likelihood", "encoder", "restrictions"}
    if unknown := sorted(set(entry) - known):
        raise ConfigError(f"models.{_name(entry)}.{unknown[0]}: unknown key; allowed are {', '.join(sorted(known))}")
    name = _name(entry)
    if not re.fullmatch(NAME, name) or name in MODELS:
        raise ConfigError(f"models.name={name}: a name of its own, of letters, digits, '_', '.' and '-'")
    side = entry.get("side", "q")
    if side not in list(Side):
        raise ConfigError(f"models.{name}.side={side}: {allowed(side, Side)}")
    encoder = entry.get("encoder", "gaussian")
    if encoder not in choices():
        raise ConfigError(f"models.{name}.encoder={encoder}: {allowed(encoder, choices())}")
    likelihood = entry.get("likelihood")
    if likelihood is not None and likelihood not in list(LIKELIHOODS):
        raise ConfigError(f"models.{name}.likelihood={likelihood}: {allowed(likelihood, LIKELIHOODS)}")
    terms = entry.get("restrictions", [])
    if not isinstance(terms, list):
        raise ConfigError(f"models.{name}.restrictions={terms!r}: a list of mappings {{match, divergence, weight}}")
    restrictions = []
    for term in terms:
        if not isinstance(term, Mapping) or set(term) - {"match", "divergence", "weight"}:
            raise ConfigError(f"models.{name}.restrictions={term!r}: a mapping {{match, divergence, weight}}")
        pair = f"{term.get('match')}/{term.get('divergence')}"
        if not isinstance(pair, str) or pair not in _terms():
            raise ConfigError(f"models.{name}.restrictions={pair}: {_allowed(pair)}")
        weight = term.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"models.{name}.restrictions.weight={weight!r}: a number >= 0")
        restrictions.append(Weighted(Match(term["match"]), term["divergence"], _constant(float(weight))))
    try:
        return Model(name, tuple(restrictions), "the study's own", Side(side), likelihood, encoder)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _allowed(pair: str) -> str:
    match = pair.partition("/")[0] + "/"
    return allowed(pair, [t for t in _terms() if t.startswith(match)] or _terms())


def _constant(weight: float) -> Any:
    return lambda **parameters: weight


def _restricted(model: Model, pair: Any) -> Model:
    """A model without restrictions, with the one that a study sweeps over; it is named by it."""
    if not isinstance(pair, str) or pair not in _terms():
        raise ConfigError(f"space.restriction={pair!r}: {_allowed(str(pair))}")
    if model.restrictions:
        raise ConfigError(
            f"space.restriction with models={model.name}: it has restrictions of its own; take models=[ae]"
        )
    match, divergence = _terms()[pair]
    return replace(model, name=f"{match}_{divergence}", restrictions=(Weighted(match, divergence),))


def _number(
    key: str, value: Any, low: float, *, whole: bool = False, above: bool = False, high: float = math.inf
) -> Any:
    kind = int if whole else (int, float)
    good = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or (above and value == low) or value > high:
        rule = f"a {'whole ' if whole else ''}number {'>' if above else '>='} {low:g}"
        rule += f" and <= {high:g}" if high < math.inf else ""
        raise ConfigError(f"space.{key}={value!r}: {rule}")
    return value if whole else float(value)


def _member(config: Config, model: Model, values: Mapping[str, Any]) -> Member:
    if "restriction" in values:
        model = _restricted(model, values["restriction"])
    prior = _prior(config, model, values)
    image = image_of(config)
    pixels = math.prod(image)
    asked_dim = _number("latent_dim", values.get("latent_dim", 8), 1, whole=True, high=4096)
    # codes that are images have their size, however large
    latent_dim = pixels if prior.images else asked_dim
    try:
        prior.parameters(latent_dim)
    except ValueError as error:
        raise ConfigError(f"space.{error}") from None
    except Exception as error:  # whatever somebody's own prior raises
        raised = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"space.prior={prior.name}: its parameters raise {raised}") from None
    likelihood = _likelihood(config, model, values)
    encoder = _encoder(config, model, prior, values)
    settings = critic_settings(config, values)
    used = [RESTRICTIONS[term.match, term.divergence].set(settings) for term in model.restrictions]
    kind = make_encoder(encoder, asdict(prior))
    for why in (refuses(model.side, prior, kind, bool(used)), *(r.refuses(prior, kind) for r in used)):
        if why:
            asked = "" if encoder in (model.encoder, prior.encoder) else f" and encoder={encoder}"
            asked += f" and critic.log_prior={settings['log_prior']}".lower() if "log_prior" in settings else ""
            raise ConfigError(f"models={model.name} with space.prior={prior.name}{asked}: {why}")
    # what changes nothing gives one member: a weight of no restriction, a deviation that the posterior has not
    weight = _number("weight", values.get("weight", 1.0), 0) if model.restrictions else 0.0
    spread = values if kind.varies else {}
    start = _first(spread.get("sigma_start"), config.training.sigma_start, sigma_start(model.side, used))
    own = {k: _number(k, values[k], -math.inf) for k in model.parameters if k in values}
    weights = model.weights(weight, latent_dim=latent_dim, pixels=pixels, cost=LIKELIHOODS[likelihood].cost, **own)
    restore = Restore(config.budget.restore)
    if restore is Restore.LOSS and (LIKELIHOODS[likelihood].of_critic or any(r.critic for r in used)):
        restore = Restore.OBJECTIVES  # a game's loss falls where its critic is weak: it says nothing of the model
    network = network_options(config, values)
    _check_network(image, latent_dim, kind.outputs(latent_dim), json.dumps(network, sort_keys=True))
    return Member(
        model=model.name,
        side=str(model.side),
        likelihood=likelihood,
        encoder=encoder,
        restrictions=tuple(
            (str(term.match), term.divergence, value) for term, value in zip(model.restrictions, weights, strict=True)
        ),
        weight=weight,
        critic=settings if any(r.critic for r in used) else {},
        prior={"name": prior.name, **asdict(prior)},
        latent_dim=latent_dim,
        seed=_number("seed", values.get("seed", 0), 0, whole=True, high=2**31 - 1),
        data={"name": config.data.name, "seed": config.data.seed, **_data(config), **_pair(config, prior)},
        network=network,
        learning_rate=_number(
            "learning_rate", values.get("learning_rate", config.training.learning_rate), 0, above=True
        ),
        beta1=_number("beta1", values.get("beta1", config.training.beta1), 0, high=0.9999),
        batch_size=_number("batch_size", values.get("batch_size", config.training.batch_size), 4, whole=True),
        epochs=config.budget.epochs,
        evaluate_every=config.budget.evaluate_every,
        sigma_min=_number("sigma_min", spread.get("sigma_min", config.training.sigma_min), 0),
        sigma_start=_number("sigma_start", start, 0, above=True),
        shuffle_seed=config.seed,
        # a member that is measured in full is the one that it was before there was a choice
        metrics=_measured(config) | ({"measure": way} if (way := config.budget.measure) != "all" else {}),
        patience=config.budget.patience,
        restore=str(restore),
        watched=dict(config.objectives),
        plugins=_plugins(config, model, prior, likelihood, encoder, network["name"]),
        # what other models are told apart by says nothing of this one
        assignment={k: v for k, v in values.items() if k in ("model", *SWEPT, *model.parameters)},
    )


def _measured(config: Config) -> dict[str, Any]:
    stated = config.metrics.model_dump()
    if config.metrics.fid_features != "inception":
        stated["inception_weights"] = None  # a place of files that nothing reads
    try:
        own = FEATURES[config.metrics.fid_features].identity(stated)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    # members of the default number keep the names that they had before there was a choice
    usual = {"features_file"} | ({"importance_codes"} if stated["importance_codes"] == IMPORTANCE_CODES else set())
    return {key: value for key, value in stated.items() if key not in usual} | own


def _plugins(config: Config, model: Model, prior: Prior, likelihood: str, encoder: str, network: str) -> dict[str, str]:
    """The plug-ins that a member's parts come from; every metric is measured of every member."""
    restricted = [(RESTRICTIONS, (term.match, term.divergence)) for term in model.restrictions]
    named: list[tuple[parts.Registry[Any, Any], Any]] = [
        *([(MODELS, model.name)] if model.name in MODELS else []),
        *((PRIORS, prior.name), (LIKELIHOODS, likelihood), (ENCODERS, encoder)),
        *((NETWORKS, network), (DATASETS, config.data.name), (FEATURES, config.metrics.fid_features)),
        *restricted,
        *((MEASURES, name) for name in MEASURES),
    ]
    try:
        return parts.used(named)
    except parts.PartError as error:
        raise ConfigError(str(error)) from None


def _pair(config: Config, prior: Prior) -> dict[str, str]:
    return {"pair": config.data.pair} if prior.images and config.data.pair else {}


def _prior(config: Config, model: Model, values: Mapping[str, Any]) -> Prior:
    entry = model.prior or values.get("prior", "normal")
    options = dict(entry) if isinstance(entry, Mapping) else {"name": entry}
    if not isinstance(options.get("name"), str):
        raise ConfigError(f"space.prior={entry!r}: a name, or a mapping {{name, options}}")
    try:
        prior = make_prior(**options)
    except ValueError as error:
        raise ConfigError(f"space.{error}") from None
    return prior


def _first(*found: Any) -> Any:
    return next(value for value in found if value is not None)


def _likelihood(config: Config, model: Model, values: Mapping[str, Any]) -> str:
    likelihood = fixed_likelihood(model, _vectors(config)) or _first(
        values.get("likelihood"), config.likelihood, model.likelihood, "bernoulli"
    )
    if not isinstance(likelihood, str) or likelihood not in LIKELIHOODS:
        key = "likelihood" if values.get("likelihood") is None else "space.likelihood"
        raise ConfigError(f"{key}={likelihood}: {allowed(likelihood, LIKELIHOODS)}")
    judged = any(t.match is Match.DATA and RESTRICTIONS[t.match, t.divergence].critic for t in model.restrictions)
    if LIKELIHOODS[likelihood].of_critic and not judged:
        raise ConfigError(
            f"models={model.name} with likelihood={likelihood}: it needs a data restriction with a critic"
        )
    return likelihood


def _encoder(config: Config, model: Model, prior: Prior, values: Mapping[str, Any]) -> str:
    encoder = prior.encoder or _first(values.get("encoder"), config.encoder, model.encoder)
    if encoder not in choices() and encoder != prior.encoder:
        key = "encoder" if values.get("encoder") is None else "space.encoder"
        raise ConfigError(f"{key}={encoder}: {allowed(encoder, choices())}")
    return str(encoder)


def image_of(config: Config) -> tuple[int, int, int]:
    """Colours, height and width of a study's images.

    Raises:
        ConfigError: no such data set, or one that cannot be read.
    """
    try:
        return data.image(config.data.name, config.data.seed, **_where(config))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def _vectors(config: Config) -> bool:
    try:
        return data.vectors(config.data.name, config.data.seed, **_where(config))
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def _where(config: Config) -> dict[str, Any]:
    return {"root": config.data.root, "download": config.data.download, **config.data.options}


def _data(config: Config) -> dict[str, Any]:
    """A data set's options, and what of one's own images tells them from others in the same place."""
    content = data.content(config.data.name, config.data.seed, **_where(config))
    drawn = {} if config.data.binarized is None else {"binarized": config.data.binarized}
    return {**config.data.options, **drawn, **({} if content is None else {"content": content})}


@cache
def _check_network(image: tuple[int, int, int], latent_dim: int, outputs: int, settings: str) -> None:
    network = json.loads(settings)
    name = network.pop("name")
    if name not in NETWORKS:
        raise ConfigError(f"network.name={name}: {allowed(name, NETWORKS)}")
    networks.check(name, image, latent_dim, outputs, network)


def check_parts(config: Config) -> None:
    """Refuse names of parts that no member would use, and so none would refuse.

    Raises:
        ConfigError: naming the key.
    """
    for key, name, registry in (
        ("data.name", config.data.name, DATASETS),
        ("data.pair", config.data.pair, DATASETS),
        ("metrics.fid_features", config.metrics.fid_features, FEATURES),
    ):
        if name is not None and name not in registry:
            raise ConfigError(f"{key}={name}: {allowed(name, registry)}")
