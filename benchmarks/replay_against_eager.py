"""An epoch of replayed train steps against the same steps as they are written, on digits, on one thread.

    python -m benchmarks.replay_against_eager
    python -m benchmarks.replay_against_eager --models vae --members 1 16 --epochs 40

Two packs of the same members take turns, an epoch each, and must end with the same bits. Times are of the processor, by
`time.process_time`, so that what else the machine does is seen in neither; the ratios are of medians. ``recording`` is
what the first replayed epochs take beyond a later one, and ``earned`` the epochs after which it has saved as much.
"""

from __future__ import annotations

import argparse
import platform
import time
from statistics import median

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.ruler import CPU, pack_of
from gimtune import data
from gimtune.training import Pack, Resident
from gimtune.training.replay import Step


def seconds(pack: Pack) -> float:
    """The processor's time of one epoch."""
    began = time.process_time()
    pack.train_epoch()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vae", "aae", "alice", "infogan"])
    parser.add_argument("--members", nargs="+", type=int, default=[1, 4, 8], help="of a pack")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = Resident(data.load("digits"), CPU)
    Pack(pack_of("vae", 1.0, 1), digits).train_epoch()  # what is imported at the first step
    pack = Pack(pack_of("vae", 1.0, 1), digits)
    print(
        f"{arguments.epochs} epochs each in turn; {str(pack.objective.precision).removeprefix('torch.')}, one thread, "
        f"torch {torch.__version__}, python {platform.python_version()}, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    heads = ("members", "eager ms", "replayed ms", "eager / replayed", "recording ms", "earned after")
    print(f"{'model':10s}" + "".join(f"{head:>18s}" for head in heads))
    for model in arguments.models:
        for count in arguments.members:
            eager, replayed = (Pack(pack_of(model, 1.0, count), digits) for _ in range(2))
            eager._steps = {player: Step("as it is written, to compare with") for player in eager._steps}
            spent = [(seconds(eager), seconds(replayed)) for _ in range(arguments.epochs)]
            if replayed.eager:
                raise SystemExit(f"{model}: not replayed: {replayed.eager}")
            if not all(map(torch.equal, *(tree_leaves(pack.parameters) for pack in (eager, replayed)))):
                raise SystemExit(f"{model}: {count} members differ")
            written, again = (median(column) for column in zip(*spent[-(-len(spent) // 2) :], strict=True))
            recording = sum(took - again for _, took in spent[:2])
            earned = recording / (written - again) if written > again else float("inf")
            print(
                f"{model:10s}{count:18d}{1e3 * written:18.1f}{1e3 * again:18.1f}{written / again:18.2f}"
                f"{1e3 * recording:18.0f}{earned:11.1f} epochs",
                flush=True,
            )


if __name__ == "__main__":
    main()
