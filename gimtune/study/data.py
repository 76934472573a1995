"""A study's data, read, and checked against what the study asks of them."""

from __future__ import annotations

from collections.abc import Iterable

from gimtune import data as datasets
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.priors import make_prior
from gimtune.data import Dataset
from gimtune.metrics import FEATURES
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config
from gimtune.vocabulary import FACTORED, LABELLED, Member


def load_data(config: Config) -> Dataset:
    """The data of a study in their splits.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    where = config.data
    try:
        return datasets.load(
            *(where.name, where.seed, where.pair, where.binarized),
            **{"root": where.root, "download": where.download, **where.options},
        )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def check_data(config: Config, data: Dataset, members: Iterable[Member], compared: bool = False) -> None:
    """Refuse data that do not serve a study's members.

    Args:
        compared: a feature network is at hand that has taken them already.

    Raises:
        ConfigError: naming the key.
    """
    _check_kind(config, data, members)
    _check_images(config, data)
    if compared:
        return
    try:
        FEATURES[config.metrics.fid_features].fits(data, config.metrics.model_dump())
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_images(config: Config, data: Dataset) -> None:
    """Refuse what the images are too few for, or cannot be asked without labels.

    Raises:
        ConfigError: naming the key.
    """
    name, count = config.data.name, len(data.images["train"])
    if count < config.training.batch_size:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size}: {name} has {count} training images, fewer than one "
            f"minibatch; allowed are 4 to {count}"
        )
    if data.classes > 1 and config.metrics.fid_features == "classifier" and len(data.targets) > 1:
        raise ConfigError(
            f"metrics.fid_features=classifier: {name} has {len(data.targets)} labels, and it is trained on one; "
            f"allowed are {_unlabelled(data)}"
        )
    if len(data.targets) < 2 and data.classes > 1:
        for section in ("objectives", "constraints"):
            if asked := sorted(FACTORED & set(getattr(config, section))):
                raise ConfigError(
                    f"{section}.{asked[0]}: {name} has one column of labels, and it is of several factors; "
                    "probe_codes is of one"
                )
    if data.classes > 1:
        return
    for section in ("objectives", "constraints"):
        if not (asked := sorted(LABELLED & set(getattr(config, section)))):
            continue
        raise ConfigError(
            f"{section}.{asked[0]}: {name} has no labels, so that it is not measured; mi_noised, which needs none, is: "
            f"{section}.{asked[0]}=null objectives.mi_noised=max"
        )
    if config.metrics.fid_features == "classifier":
        raise ConfigError(f"metrics.fid_features=classifier: {name} has no labels; allowed are {_unlabelled(data)}")


def _unlabelled(data: Dataset) -> str:
    """Feature networks that take no label."""
    fitting = [key for key, source in FEATURES.items() if source.of_vectors is data.vectors]
    return ", ".join(key for key in fitting if key != "classifier")


def _check_kind(config: Config, data: Dataset, members: Iterable[Member]) -> None:
    """Refuse what is of images where there are vectors, and of vectors where there are images.

    Raises:
        ConfigError: naming the key.
    """
    name, kind = config.data.name, "vectors" if data.vectors else "images"
    fitting = [key for key, likelihood in LIKELIHOODS.items() if likelihood.bounded is not data.vectors]
    for member in members:
        if data.vectors and make_prior(**member.prior).images:
            raise ConfigError(
                f"models={member.model}: its prior is made of images, and {name} has vectors; "
                "model=vectors has the others"
            )
        if member.likelihood not in fitting:
            raise ConfigError(
                f"likelihood={member.likelihood} with models={member.model}: the data are {kind}; "
                f"allowed are {', '.join(fitting)}"
            )
    if data.vectors is not FEATURES[config.metrics.fid_features].of_vectors:
        allowed = [key for key, source in FEATURES.items() if source.of_vectors is data.vectors]
        raise ConfigError(
            f"metrics.fid_features={config.metrics.fid_features}: the data are {kind}; allowed are {', '.join(allowed)}"
        )
