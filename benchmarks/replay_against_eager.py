"""An epoch of replayed train steps against the same steps as they are written.

    python -m benchmarks.replay_against_eager
    python -m benchmarks.replay_against_eager --models vae --members 1 16 --epochs 40
    python -m benchmarks.replay_against_eager --device cuda --data mnist --members 16 64 --epochs 6

Packs of the same members take turns, an epoch each, and must end with the same bits. On a processor that is one thread,
and times are of the processor, by `time.process_time`, so that what else the machine does is seen in none. On a GPU a
third pack takes each step in one launch, as a CUDA graph, and times are of the clock. Ratios are of medians.
``recording`` is what the first replayed epochs take beyond a later one, and ``earned`` the epochs after which it has
saved as much. ``step`` is that of the last column's pack.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from statistics import median
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.ruler import pack_of
from gimtune import data
from gimtune.training import Pack, Resident
from gimtune.training.replay import CAPTURES, Step, cuda_graph


def seconds(pack: Pack) -> float:
    """The time of one epoch: of the processor, or by the clock on a GPU, for which the end of an epoch waits."""
    clock = time.perf_counter if pack.device.type == "cuda" else time.process_time
    began = clock()
    pack.train_epoch()
    return clock() - began


class Launched(Pack):
    """A pack whose steps are CUDA graphs, among others whose steps are not."""

    def train_epoch(self, *given: Any) -> bool:
        CAPTURES["cuda"] = cuda_graph
        try:
            return super().train_epoch(*given)
        finally:
            del CAPTURES["cuda"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vae", "aae", "alice", "infogan"])
    parser.add_argument("--members", nargs="+", type=int, default=[1, 4, 8], help="of a pack")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", default=os.environ.get("GIMTUNE_DATA"), help="of MNIST; default $GIMTUNE_DATA")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    root = {"root": arguments.data_root} if arguments.data != "digits" else {}
    images = Resident(data.load(arguments.data, **root), device)
    Pack(pack_of("vae", 1.0, 1, arguments.data), images).train_epoch()  # what is imported at the first step
    pack = Pack(pack_of("vae", 1.0, 1, arguments.data), images)
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    print(
        f"{arguments.data}, {arguments.epochs} epochs each in turn; "
        f"{str(pack.objective.precision).removeprefix('torch.')}, one thread, torch {torch.__version__}, "
        f"python {platform.python_version()}, {name}\n"
    )
    heads = ["members", "eager ms", "replayed ms", "eager / replayed", "recording ms", "earned after"]
    heads += ["launched ms"] if device.type == "cuda" else []
    print(f"{'model':10s}" + "".join(f"{head:>18s}" for head in (*heads, "step ms")))
    for model in arguments.models:
        for count in arguments.members:
            kinds = [Pack, Pack, *([Launched] if device.type == "cuda" else [])]
            packs = [kind(pack_of(model, 1.0, count, arguments.data), images) for kind in kinds]
            packs[0]._steps = {player: Step("as it is written, to compare with") for player in packs[0]._steps}
            spent = [[seconds(pack) for pack in packs] for _ in range(arguments.epochs)]
            for pack in packs[1:]:
                if pack.eager:
                    raise SystemExit(f"{model}: not replayed, or not launched: {pack.eager}")
                if not all(map(torch.equal, *(tree_leaves(one.parameters) for one in (packs[0], pack)))):
                    raise SystemExit(f"{model}: {count} members differ")
            written, again, *launched = (median(column) for column in zip(*spent[len(spent) // 2 :], strict=True))
            recording = sum(row[1] - again for row in spent[:2])
            earned = recording / (written - again) if written > again else float("inf")
            steps = -(-len(images.images["train"]) // packs[0].batch_size)
            fastest = [written, again, *launched][-1]
            print(
                f"{model:10s}{count:18d}{1e3 * written:18.1f}{1e3 * again:18.1f}{written / again:18.2f}"
                f"{1e3 * recording:18.0f}{earned:11.1f} epochs"
                + "".join(f"{1e3 * each:18.1f}" for each in (*launched, fastest / steps)),
                flush=True,
            )


if __name__ == "__main__":
    main()
