"""Feature networks that images are compared by, and the registry of them.

`LeNet` is trained once per data set; `Inception` is pytorch-fid's network with weights that the user brings. Distances
of different features are never compared, so every row carries the name of its features with a hash of their weights.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from gimtune import parts
from gimtune.algebra.seeds import generator
from gimtune.data import Dataset
from gimtune.files import cache, replacing
from gimtune.networks import initial
from gimtune.training import Adam

_BATCH = 500
_TRAIN_BATCH = 64
#: Of the way in which `LeNet` is trained; another one is another network, and gets another file.
_RECIPE = 1


class Features(Protocol):
    """A feature network: ``name`` goes into every row, calling it maps images (n, c, h, w) in [0, 1] to (n, k)."""

    name: str

    def __call__(self, images: Tensor) -> Tensor: ...


class FeatureSource(ABC):
    """Where a feature network comes from. ``settings`` are those of a study's section ``metrics``."""

    name: ClassVar[str]

    def check(self, settings: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to check
        """Refuse what cannot be loaded, before Ray starts.

        Raises:
            ValueError: naming the key.
        """

    def provide(self, data: Dataset, folder: Path) -> None:  # noqa: B027 - most have nothing to make
        """Make what workers will look for in a folder of the run; they wait for it."""

    @abstractmethod
    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Features:
        """The network on a device, ready to be called."""

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


def load(data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Features:
    """The feature network that a study's settings ask for; ``folder`` is that of its run."""
    return FEATURES[settings["fid_features"]].load(data, settings, folder / "features", device)


@torch.no_grad()
def features_of(network: Features, images: Tensor) -> Tensor:
    """Features of images (n, c, h, w) in [0, 1], in batches: (n, k)."""
    return torch.cat([network(part) for part in images.split(_BATCH)])


class LeNet(nn.Module):
    """LeNet-5 with ReLU on images resized to 32 x 32; its features are the 84 units before the classifier.

    Source: LeCun et al. 1998, fig. 2.
    """

    def __init__(self, colours: int, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(colours, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )
        self.head = nn.Linear(84, classes)
        self.name = ""
        self.test_accuracy = float("nan")

    def forward(self, images: Tensor) -> Tensor:
        resized = interpolate(images, size=(32, 32), mode="bilinear", align_corners=False, antialias=False)
        features: Tensor = self.body(resized)
        return features

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Most probable class of each image: (n, c, h, w) to (n,)."""
        return torch.cat([self.head(self(part)).argmax(1) for part in images.split(_BATCH)])


def train_classifier(data: Dataset) -> dict[str, Tensor]:
    """Weights of a `LeNet` trained on the training split with a fixed seed, with its test accuracy as ``accuracy``.

    The validation split is not used, and the test split for the accuracy alone.
    """
    source = generator(torch.device("cpu"), "lenet", data.digest)
    network = LeNet(data.image[0], data.classes)
    with torch.device("meta"):
        shape = LeNet(data.image[0], data.classes)
    network.load_state_dict(
        {k: v for part in ("body", "head") for k, v in _prefixed(part, initial(getattr(shape, part), source))}
    )
    images, labels = torch.from_numpy(data.images["train"].copy()), torch.from_numpy(data.labels["train"].copy())
    optimiser = Adam(list(network.parameters()), 4e-3, stacked=False)
    # a small data set needs more passes to see enough steps
    epochs = max(2, 16_000 // len(images))
    order = [torch.randperm(len(images), generator=source).split(_TRAIN_BATCH) for _ in range(epochs)]
    parts = [index for epoch in order for index in epoch]
    for step, index in enumerate(parts):
        loss = cross_entropy(network.head(network(images[index] / data.scale)), labels[index])
        optimiser.step(loss, 2e-3 * (1 + math.cos(math.pi * step / len(parts))))
    guess = network.classify(torch.from_numpy(data.images["test"].copy()) / data.scale)
    accuracy = (guess == torch.from_numpy(data.labels["test"].copy())).double().mean()
    return {**network.state_dict(), "accuracy": accuracy}


def _prefixed(prefix: str, values: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}", value) for name, value in values.items())


def classifier(data: Dataset, folder: Path, device: torch.device) -> LeNet:
    """The data set's `LeNet`: read from ``folder``, or trained and written there, once for all who ask at a time.

    The file's name holds a hash of the data and the recipe's number; the hash of the weights is part of ``name``.
    """
    path = folder / _file_name(data)
    with _locked(path):
        state = _read(path)
        if state is None:
            state = train_classifier(data)
            stream = io.BytesIO()
            torch.save(state, stream)
            _write(path, stream.getvalue())
    network = LeNet(data.image[0], data.classes)
    network.test_accuracy = float(state.pop("accuracy"))
    network.load_state_dict(state)
    network.name = f"classifier:{_digest(state)}"
    return network.to(device).eval().requires_grad_(False)


def provide(data: Dataset, cache: Path, folder: Path) -> None:
    """Put the classifier of ``cache`` into ``folder``; whoever asks there meanwhile waits for it."""
    path = folder / _file_name(data)
    if folder.resolve() == cache.resolve():
        return
    with _locked(path):
        if _read(path) is None:
            classifier(data, cache, torch.device("cpu"))
            _write(path, (cache / path.name).read_bytes())


def _file_name(data: Dataset) -> str:
    return f"lenet-{data.name}-{data.digest}-{_RECIPE}.pt"


def _read(path: Path) -> dict[str, Tensor] | None:
    """The weights of a file, or ``None`` where there is none that can be read: it is then made anew."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Tensor] = torch.load(path, weights_only=True)
    except Exception:  # torch raises a different type for every way a file can be damaged
        return None
    return state


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@FEATURES.register
class Classifier(FeatureSource):
    """A LeNet-5 that is trained on the data set, once; features are the 84 units before its output.

    Source: LeCun et al. 1998, fig. 2.
    """

    name: ClassVar[str] = "classifier"

    def provide(self, data: Dataset, folder: Path) -> None:
        provide(data, cache(), folder)

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> LeNet:
        return classifier(data, folder, device)

    def facts(self, network: Features) -> dict[str, str]:
        assert isinstance(network, LeNet)
        return {"classifier_test_accuracy": f"{network.test_accuracy:.4f}"}


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
        self.name = f"inception:{_digest(state)}"

    def __call__(self, images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        features: Tensor = self._network(colour)[0]
        return features.flatten(1)


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
            raise ValueError(f"metrics.inception_weights={weights}: {reason}") from None

    def load(self, data: Dataset, settings: Mapping[str, Any], folder: Path, device: torch.device) -> Inception:
        return Inception(settings["inception_weights"], device)


def _digest(state: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(state):
        content.update(name.encode())
        content.update(state[name].cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:8]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as handle:
        # the kernel lets go of it when the process dies, so no lock is left behind
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
