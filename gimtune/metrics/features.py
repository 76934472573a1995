"""Feature networks that images are compared by, and the registry of them.

`gimtune.metrics.lenet` has the built-in one; `Inception` is pytorch-fid's network with weights that the user brings.
Distances of different features are never compared, so every row carries the name of its features with a hash of their
weights.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest import mock

import torch
from torch import Tensor

from gimtune import parts
from gimtune.data import Dataset
from gimtune.files import locked, replacing
from gimtune.training.device import machines

#: Images that go through a network at a time.
BATCH = 500
#: A run's own, in its folder ``features``: another version of this package may ship or make another.
RULER = "ruler.pt"


class Features(Protocol):
    """A feature network: ``name`` goes into every row, calling it maps images (n, c, h, w) in [0, 1] to (n, k)."""

    name: str

    def __call__(self, images: Tensor) -> Tensor: ...


class FeatureSource(ABC):
    """Where a feature network comes from. ``settings`` are those of a study's section ``metrics``.

    Attributes:
        of_vectors: it takes vectors (n, 1, 1, d) of real values, and not images.
    """

    name: ClassVar[str]
    of_vectors: ClassVar[bool] = False

    def check(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to check
        """Refuse what cannot be loaded, before Ray starts.

        Raises:
            ValueError: naming the key.
        """

    def fits(self, data: Dataset, settings: Mapping[str, Any]) -> None:  # noqa: B027 - most take all images
        """Refuse images that it does not take, before Ray starts.

        Raises:
            ValueError: naming the key.
        """

    def identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What a member's configuration says of it beside the settings that all have.

        Raises:
            ValueError: naming the key.
        """
        return {}

    def provide(self, data: Dataset, folder: Path) -> None:  # noqa: B027 - most have nothing to make
        """Make what workers will look for in a folder of the run; they wait for it."""

    @abstractmethod
    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Features:
        """The network on a device, ready to be called."""

    def state(self, network: Any) -> dict[str, Tensor] | None:
        """What `made` makes the network of again: it is kept in the run; ``None`` where its name alone is."""
        return None

    def made(self, data: Dataset, state: Mapping[str, Tensor], device: torch.device) -> Features:
        """The network of a `state`."""
        raise NotImplementedError

    def facts(self, network: Features) -> dict[str, str]:
        """What is written down of it for a study as a whole."""
        return {}


def _accept(kind: Any) -> tuple[str, FeatureSource]:
    parts.check_class(kind, FeatureSource)
    return kind.name, kind()


FEATURES: parts.Registry[str, FeatureSource] = parts.Registry(
    "features",
    "A subclass of gimtune.metrics.features.FeatureSource that is made without arguments and loads a network: images "
    "(n, c, h, w) in [0, 1] to features (n, k), with a name that changes with its weights.",
    _accept,
    lambda source: parts.Facts(parts.summary(source), {}, parts.source(source)),
)


def load(
    data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device, *, keep: bool = False
) -> Features:
    """The feature network that a study's settings ask for: the one that its run began with, where that keeps it.

    Args:
        folder: of the run.
        keep: make it, and put it into the run, where it is not there: whoever trains compares by nothing else.

    Raises:
        ValueError: what the run keeps cannot be read, or this version makes another network of it.
    """
    source, path = FEATURES[settings["fid_features"]], folder / "features" / RULER
    if keep:
        begin(data, settings, folder)
    if not path.is_file():
        return source.load(data, settings, folder / "features", device)
    try:
        kept = torch.load(path, weights_only=True, map_location="cpu")
        name, state = kept["name"], kept["state"]
        network = source.made(data, state, device) if state else source.load(data, settings, path.parent, device)
    except OSError:
        raise
    except Exception as error:  # torch raises a different type for every way a file can be damaged
        if machines(error):
            raise
        raise ValueError(f"{path}: not the run's feature network ({str(error).splitlines()[0][:200]})") from None
    if network.name != name:
        raise ValueError(f"{path}: the run's features are {name}, and what is there is {network.name}")
    return network


def begin(data: Dataset, settings: Mapping[str, Any], folder: Path) -> str:
    """Put the feature network that a run is to compare by into its folder, once for all who ask at a time.

    Returns:
        Why it could not be kept for later studies; empty where it could.
    """
    source, path, note = FEATURES[settings["fid_features"]], folder / "features" / RULER, ""
    if path.is_file():
        return note
    with locked(path):
        if path.is_file():
            return note
        try:
            source.provide(data, path.parent)
        except OSError as error:
            # it is made here, to the same numbers
            note = f"feature networks are not kept for later studies: {error}"
        network = source.load(data, settings, path.parent, torch.device("cpu"))
        with replacing(path) as temporary, temporary.open("wb") as handle:
            torch.save({"name": network.name, "state": source.state(network)}, handle)
    return note


def keeps(run: Path) -> bool:
    """Whether a run has all of its feature network in its folder, whatever became of the file that it came from."""
    try:
        return bool(torch.load(run / "features" / RULER, weights_only=True, map_location="cpu")["state"])
    except Exception:  # there is none, or a damaged one, which `load` tells of
        return False


@torch.no_grad()
def features_of(network: Features, images: Tensor) -> Tensor:
    """Features of images (n, c, h, w) in [0, 1], in batches: (n, k)."""
    return torch.cat([network(part) for part in images.split(BATCH)])


class Inception:
    """pytorch-fid's InceptionV3, pool3 features (n, 2048), images resized and scaled as it does.

    Args:
        weights: a file, or an address that torch can fetch; ``None`` for pytorch-fid's own address.
    """

    def __init__(self, weights: str | None, device: torch.device) -> None:
        from pytorch_fid import inception

        address = weights or inception.FID_WEIGHTS_URL
        if "://" in address:
            state = torch.hub.load_state_dict_from_url(address, progress=False, weights_only=True)
        else:
            state = torch.load(address, weights_only=True)
        # its constructor knows one address only
        with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
            self._network = inception.InceptionV3([3]).to(device).eval()
        self.name = f"inception:{digest(state)}"

    def __call__(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        features: Tensor = self._network(colour)[0]
        return features.flatten(1)


class Values:
    """The values of vectors themselves, (n, d)."""

    name = "values"

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@FEATURES.register
class ValuesSource(FeatureSource):
    """The values of vectors themselves: a Frechet distance then sees their means and covariances, and nothing else."""

    name: ClassVar[str] = "values"
    of_vectors: ClassVar[bool] = True

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Values:
        return Values()


@FEATURES.register
class InceptionSource(FeatureSource):
    """pytorch-fid's InceptionV3 with the weights of metrics.inception_weights, pool3 features.

    Source: Heusel et al. 2017.
    """

    name: ClassVar[str] = "inception"

    def check(self, settings: Mapping[str, Any]) -> None:
        weights = settings["inception_weights"]
        try:
            Inception(weights, torch.device("cpu"))
        except Exception as error:  # torch and the network raise a different type for every way a file can be wrong
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if weights is None:
                reason = f"pytorch-fid's cannot be fetched ({reason}); FILE takes weights that are on the disk"
            raise ValueError(f"metrics.inception_weights={weights or 'null'}: {reason}") from None

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Inception:
        return Inception(settings["inception_weights"], device)


def digest(state: Mapping[str, Tensor]) -> str:
    """A hash of weights by name."""
    content = hashlib.sha256()
    for name in sorted(state):
        content.update(name.encode())
        content.update(state[name].cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:8]
