"""A device, its precision, and a data set's tensors on it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from gimtune.algebra.objective import Constants, Objective
from gimtune.algebra.seeds import generator
from gimtune.data import Dataset
from gimtune.results import environment
from gimtune.vocabulary import Member


def default_device() -> torch.device:
    """The first CUDA device that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: of a device's share, or of the machine, which torch reports as any error."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def device_lost(error: BaseException) -> bool:
    """Whether a device failed: whatever this process asks of it from now on fails too."""
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in ("CUDA error", "cuDNN error"))
    )


def machines(error: BaseException) -> bool:
    """Whether an error says something about the machine, and nothing about the member that met it."""
    return out_of_memory(error) or device_lost(error)


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it (CUDA from Ampere on, AVX512-BF16, AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


def made_by(device: torch.device, threads: int) -> dict[str, str]:
    """What numbers depend on that are computed on a device here (`gimtune.results.environment.made_by`)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    multiplied = str(precision(device)).removeprefix("torch.")
    return environment.made_by(name, multiplied, threads, torch.backends.cpu.get_cpu_capability())


class Resident:
    """A data set on a device, moved there once.

    Attributes:
        dataset: the arrays that it was made of.
        images: by split, uint8 (n, *image), on the device.
        grey: of training images the grey levels that they were drawn from, where a training draws its own.
        labels: by split, int64 (n,), on the CPU.
    """

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self.dataset, self.device = dataset, device
        self.image, self.scale, self.classes = dataset.image, dataset.scale, dataset.classes
        self.vectors = dataset.vectors
        self.images = {split: _tensor(a).to(device) for split, a in dataset.images.items()}
        self.grey = None if dataset.grey is None else _tensor(dataset.grey).to(device)
        self.labels = {split: _tensor(a) for split, a in dataset.labels.items()}
        self._domains: dict[tuple[str, str], Tensor] = {}

    def scaled(self, split: str, index: slice | Tensor) -> Tensor:
        """Images of a split in [0, 1], (n, *image)."""
        return self.images[split][index] / self.scale

    def training(self, objective: Objective) -> Tensor:
        """The images that a model is trained on, unscaled: all, or the first domain's half."""
        images = self.images["train"] if self.grey is None else self.grey
        return images[: self.dataset.first_half] if objective.prior.images else images

    def minibatch(self, images: Tensor, index: Tensor, *key: int) -> Tensor:
        """Of `training`'s images those at ``index`` in [0, 1]; where it draws them, the same for the same key."""
        levels = images[index] / self.scale
        if self.grey is None:
            return levels
        drawn = torch.rand(levels.shape, generator=generator(self.device, "binarized", *key), device=self.device)
        return (drawn < levels).to(levels.dtype)

    def constants(self, objective: Objective, member: Member, split: str) -> Constants:
        """A member's constants; where its prior is made of images, those of the split's second domain."""
        if not objective.prior.images:
            return objective.constants(member, self.device)
        return objective.constants(member, self.device, self._domain("second", split))

    def sources(self, split: str) -> Tensor:
        """Images of the second domain that are translated to be compared with a split's, (n, pixels) in [0, 1]."""
        return self._domain("sources", split)

    def _domain(self, kind: str, split: str) -> Tensor:
        if (kind, split) not in self._domains:
            images: Any = getattr(self.dataset, kind)(split)
            self._domains[kind, split] = (_tensor(images).to(self.device) / self.scale).flatten(1)
        return self._domains[kind, split]


def _tensor(values: Any) -> Tensor:
    # arrays from the object store are read-only; torch warns of that once, and nothing here writes to them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(values)
