"""Members as one program: packs, their train steps, checkpoints. Knows neither metrics nor Ray."""

from gimtune.training.adam import Adam
from gimtune.training.checkpoints import adopt, halve, parts, reached, save
from gimtune.training.device import Resident, default_device, device_lost, machines, made_by, out_of_memory, precision
from gimtune.training.loop import Rows, run
from gimtune.training.pack import FORMAT, Fellow, Pack, pack_name
from gimtune.training.replay import Step

__all__ = [
    "FORMAT",
    "Adam",
    "Fellow",
    "Pack",
    "Resident",
    "Rows",
    "Step",
    "adopt",
    "default_device",
    "device_lost",
    "halve",
    "machines",
    "made_by",
    "out_of_memory",
    "pack_name",
    "parts",
    "precision",
    "reached",
    "run",
    "save",
]
