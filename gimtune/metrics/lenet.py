"""The built-in feature network, a LeNet-5 for each data set: its weights come with the package, or are trained once.

Training rounds differently on another processor or number of threads, and ends at another network. So the weights of
the data sets that the package knows are a part of it, and are the same everywhere; those of one's own data set are
trained on one thread, and are the same on processors of one kind.
"""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from gimtune.algebra.seeds import generator
from gimtune.data import Dataset
from gimtune.files import cache, locked, replacing
from gimtune.metrics.features import BATCH, FEATURES, Features, FeatureSource, digest
from gimtune.networks import initial
from gimtune.training import Adam, Resident

#: Weights that come with the package; `gimtune.metrics.shipped` makes them.
SHIPPED = Path(__file__).parent / "weights"
_TRAIN_BATCH = 64
#: What images are resized to.
_SIZE = (32, 32)
#: Images at a time whose maps stay in a processor's cache; pixels that are few, and rows of maps that see some of them.
_PART, _FEW, _ROWS = 100, 100, 2
#: Of the way in which `LeNet` is trained; another one is another network, and gets another file.
_RECIPE = 2


class _Band(NamedTuple):
    """Some rows of the first maps, and what they are of the pixels that they see, before the maximum of four places."""

    rows: slice
    pixels: slice
    matrix: Tensor
    bias: Tensor


class LeNet(nn.Module):
    """LeNet-5 with ReLU on images resized to 32 x 32; its features are the 84 units before the classifier.

    Source: LeCun et al. 1998, fig. 2.
    """

    def __init__(self, colours: int, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            # a maximum and ReLU change places without a trace, and a quarter of the pixels is left for the latter
            *(nn.Conv2d(colours, 6, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )
        self.head = nn.Linear(84, classes)
        self.name = ""
        self.test_accuracy = float("nan")
        self._linear: dict[Hashable, list[_Band]] = {}

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            size = _PART if images.device.type == "cpu" and images[0].numel() > _FEW else len(images)
            return torch.cat([self._quickly(part) for part in images.split(size)])
        resized = interpolate(images, size=_SIZE, mode="bilinear", align_corners=False, antialias=False)
        features: Tensor = self.body(resized)
        return features

    def _quickly(self, images: Tensor) -> Tensor:
        """The same but for rounding, in two fifths of the time on a CPU."""
        first, second = self.body[0], self.body[3]
        pooled = self._first(images) if images[0].numel() <= _FEW else _pooled(first(_resized(images)))
        features: Tensor = self.body[6:](_pooled(second(pooled.relu_())).relu_())
        return features

    def _first(self, images: Tensor) -> Tensor:
        # all that stands before the first maximum is linear in the pixels, and of few pixels it is a small matrix
        key = (*images.shape[1:], images.device)
        if key not in self._linear:
            pixels = torch.eye(images[0].numel(), device=images.device).view(-1, *images.shape[1:])
            layer = self.body[0]
            constant = layer(pixels.new_zeros(1, len(images[0]), *_SIZE))
            self._linear[key] = _bands(_quarters(layer(_resized(pixels)) - constant), _quarters(constant)[0])
        flat = images.flatten(1)
        values = flat.new_empty(len(images), 14, 14 * 6)
        for band in self._linear[key]:
            found = torch.addmm(band.bias, flat[:, band.pixels], band.matrix)
            values[:, band.rows] = found.view(len(images), 4, -1, 14 * 6).amax(1)
        return values.view(len(images), 14, 14, 6).permute(0, 3, 1, 2)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Most probable class of each image: (n, c, h, w) to (n,)."""
        return torch.cat([self.recognise(self(part)) for part in images.split(BATCH)])

    def recognise(self, features: Tensor) -> Tensor:
        """The same from the images' features: (n, 84) to (n,)."""
        return self.head(features).argmax(1)

    def take(self, state: Mapping[str, Tensor]) -> LeNet:
        """The network with the weights of `train_classifier`, ready to be called."""
        weights = {name: value.float() for name, value in state.items() if name != "accuracy"}
        self.load_state_dict(weights)
        self.test_accuracy, self.name = float(state["accuracy"]), f"classifier:{digest(weights)}"
        # a third faster on a CPU
        return self.to(memory_format=torch.channels_last).eval().requires_grad_(False)


@lru_cache
def _weights(size: int, device: torch.device) -> Tensor:
    return interpolate(torch.eye(size, device=device)[:, None, None], (1, _SIZE[1]), mode="bilinear").flatten(1)


def _resized(images: Tensor) -> Tensor:
    height, width = (_weights(size, images.device) for size in images.shape[2:])
    return height.T @ (images @ width)


def _pooled(values: Tensor) -> Tensor:
    """Maxima of 2 x 2 places."""
    rows = torch.maximum(values[:, :, ::2], values[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def _quarters(values: Tensor) -> Tensor:
    """Maps (n, c, 2h, 2w) as the four places that a maximum is taken of: (n, 4, h, w * c)."""
    return values.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 3, 5, 2, 4, 1).flatten(4).flatten(1, 2)


def _bands(matrix: Tensor, bias: Tensor) -> list[_Band]:
    """Maps that are linear in the pixels, (pixels, 4, h, w) and (4, h, w), without the zeros of pixels far away.

    A sum is the same to the last bit without its zeros. On a GPU one large product is quicker than several small ones.
    """
    found = []
    for rows in torch.arange(matrix.shape[2]).split(_ROWS if matrix.device.type == "cpu" else matrix.shape[2]):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        seen = matrix[:, :, part].flatten(1).any(1).nonzero()
        pixels = slice(int(seen.min()), int(seen.max()) + 1) if len(seen) else slice(0, 1)
        found.append(_Band(part, pixels, matrix[pixels, :, part].flatten(1).contiguous(), bias[:, part].flatten()))
    return found


def train_classifier(data: Dataset) -> dict[str, Tensor]:
    """Weights of a `LeNet` trained on the training split with a fixed seed, with its test accuracy as ``accuracy``.

    Rounded to float16, which is half of the bytes. The validation split is not used, and the test split for the
    accuracy alone.
    """
    source = generator(torch.device("cpu"), "lenet", _own_digest(data))
    network = LeNet(data.image[0], data.classes)
    with torch.device("meta"):
        shape = LeNet(data.image[0], data.classes)
    network.load_state_dict(
        {k: v for part in ("body", "head") for k, v in _prefixed(part, initial(getattr(shape, part), source))}
    )
    known = Resident(data, torch.device("cpu"))
    images, labels = known.images["train"], known.labels["train"]
    optimiser = Adam(list(network.parameters()), 4e-3, stacked=False)
    # a small data set needs more passes to see enough steps
    epochs = max(2, 16_000 // len(images))
    order = [torch.randperm(len(images), generator=source).split(_TRAIN_BATCH) for _ in range(epochs)]
    parts = [index for epoch in order for index in epoch]
    with _one_thread():
        for step, index in enumerate(parts):
            loss = cross_entropy(network.head(network(images[index] / data.scale)), labels[index])
            optimiser.step(loss, 0.5 * (1 + math.cos(math.pi * step / len(parts))))
    rounded = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in rounded.items()})
    guess = network.classify(known.scaled("test", slice(None)))
    accuracy = (guess == known.labels["test"]).double().mean()
    return {**rounded, "accuracy": accuracy}


def _prefixed(prefix: str, values: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}", value) for name, value in values.items())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are split among threads, and round by how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def classifier(data: Dataset, folder: Path, device: torch.device) -> LeNet:
    """The data set's `LeNet`: as it comes with the package; or else read from ``folder``, or trained and written there,
    once for all who ask at a time.

    The file's name holds a hash of the data and the recipe's number; the hash of the weights is part of ``name``.
    """
    state = _read(SHIPPED / file_name(data))
    if state is None:
        path = folder / file_name(data)
        state = _read(path)
    if state is None:
        with locked(path):
            state = _read(path)
            if state is None:
                state = train_classifier(data)
                write(path, state)
    return LeNet(data.image[0], data.classes).take(state).to(device)


def provide(data: Dataset, cache: Path, folder: Path) -> None:
    """Put a classifier that does not come with the package from ``cache`` into ``folder``; who asks meanwhile waits."""
    path = folder / file_name(data)
    if folder.resolve() == cache.resolve() or (SHIPPED / path.name).is_file():
        return
    with locked(path):
        if _read(path) is None:
            classifier(data, cache, torch.device("cpu"))
            _write(path, (cache / path.name).read_bytes())


def file_name(data: Dataset) -> str:
    """What the file of a data set's weights is called, by its name, its content and the recipe."""
    return f"lenet-{data.name}-{_own_digest(data)}-{_RECIPE}.pt"


def _own_digest(data: Dataset) -> str:
    # images of a second domain are compared with, and are not trained on
    return data.digest if data.other is None else data.digest.partition("-")[0]


def _read(path: Path) -> dict[str, Tensor] | None:
    """The weights of a file, or ``None`` where there is none that can be read: it is then made anew."""
    if not path.is_file():
        return None
    try:
        state: dict[str, Tensor] = torch.load(path, weights_only=True)
    except Exception:  # torch raises a different type for every way a file can be damaged
        return None
    return state


def write(path: Path, state: Mapping[str, Tensor]) -> None:
    """Weights as a file, whole or not at all."""
    stream = io.BytesIO()
    torch.save(dict(state), stream)
    _write(path, stream.getvalue())


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

    def state(self, network: LeNet) -> dict[str, Tensor]:
        return {**network.state_dict(), "accuracy": torch.tensor(network.test_accuracy, dtype=torch.float64)}

    def made(self, data: Dataset, state: Mapping[str, Tensor], device: torch.device) -> LeNet:
        return LeNet(data.image[0], data.classes).take(state).to(device)

    def facts(self, network: Features) -> dict[str, str]:
        assert isinstance(network, LeNet)
        return {"classifier_test_accuracy": f"{network.test_accuracy:.4f}"}
