"""Encoders, decoders and critics: pure modules, without buffers or batch statistics."""

from gimtune.networks import conv, mlp, resnet  # noqa: F401 - they register themselves
from gimtune.networks.architecture import NETWORKS, Image, Networks, unweighted
from gimtune.networks.checked import check
from gimtune.networks.critic import CriticNetwork, normalised
from gimtune.networks.initialisation import initial, seeded

__all__ = ["NETWORKS", "CriticNetwork", "Image", "Networks", "check", "initial", "normalised", "seeded", "unweighted"]
