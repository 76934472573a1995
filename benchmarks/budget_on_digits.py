"""What the budget decides on digits: FID of each model at some numbers of epochs, with its weights as they are then.

    python -m benchmarks.budget_on_digits                                  minutes for each model on one core
    python -m benchmarks.budget_on_digits --models infogan:100 --epochs 20 40 --seeds 0

A line is a model at a weight and a seed: FID of 10,000 generated images on the validation split, mean and standard
deviation over draws of their codes. ``levelled`` is the epoch since which it has levelled off by that deviation, as
`gimtune.results.course.Course` has it, and the FID there; ``twice`` is what it was at twice as many epochs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from gimtune import data
from gimtune.metrics import Evaluation, features
from gimtune.metrics.features import features_of
from gimtune.metrics.frechet import frechet, reference, statistics
from gimtune.results.course import Course, Restore
from gimtune.study.composition import load
from gimtune.study.resolve import members
from gimtune.training import Pack

MODELS = ("infogan:100", "alice:3", "aae:0.3", "beta_vae:0.3", "wae_mmd:0.01", "wvae:0.1")
_DRAWS, _IMAGES = 3, 10_000


@torch.no_grad()
def distance(evaluation: Evaluation, pack: Pack, index: int) -> tuple[float, float]:
    """FID of a member on the validation split: mean and standard deviation over draws of codes."""
    view = evaluation.view(pack.objective, pack.one(index), pack.members[index], "validation")
    found = []
    for draw in range(_DRAWS):
        noise = view.prior.noise(_IMAGES, view.latent_dim, torch.Generator().manual_seed(draw))
        images = view.decode(view.prior.sample(view.prior_tensors, noise))
        found.append(frechet(statistics(features_of(view.network, images)), reference(view)))
    values = torch.tensor(found)
    return float(values.mean()), float(values.std())


def main() -> None:
    """Train, and print a line for each member."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[*MODELS], metavar="MODEL:WEIGHT")
    parser.add_argument("--epochs", nargs="+", type=int, default=[60, 180, 600])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--every", type=int, default=20, help="epochs between evaluations for levelling off")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    digits = data.load("digits")
    with tempfile.TemporaryDirectory() as folder:
        network = features.load(digits, {"fid_features": "classifier"}, Path(folder), torch.device("cpu"))
    evaluation = Evaluation(digits, network, torch.device("cpu"))
    for text in asked.models:
        model, _, weight = text.partition(":")
        space = [f"space.weight={weight or 1}", f"space.seed={{grid: {asked.seeds}}}"]
        pack = Pack(members(load(["study=tradeoff", f"models=[{model}]", "prior=normal", *space])), evaluation.data)
        courses = [Course({"fid": "min"}, Restore.OBJECTIVES) for _ in pack.members]
        found: list[dict[int, tuple[float, float]]] = [{} for _ in pack.members]
        since: list[int | None] = [None for _ in pack.members]
        started = time.process_time()
        while pack.epoch < max(asked.epochs):
            pack.train_epoch()
            if pack.epoch % asked.every and pack.epoch not in asked.epochs:
                continue
            for i, course in enumerate(courses):
                found[i][pack.epoch] = fid, error = distance(evaluation, pack, i)
                if pack.epoch % asked.every == 0:
                    course.take(pack.epoch, {"fid": fid, "fid_se": error})
                    since[i] = (since[i] or pack.epoch) if course.levelled else None
        for member, values, epoch in zip(pack.members, found, since, strict=True):
            fids = "  ".join(f"{e}: {values[e][0]:6.1f} ({values[e][1]:.1f})" for e in asked.epochs)
            twice = values.get(2 * epoch) if epoch else None
            then = f"; levelled {epoch}: {values[epoch][0]:.1f}" if epoch else "; not levelled"
            then += f", twice: {twice[0]:.1f}" if twice else ""
            seconds = (time.process_time() - started) / len(pack.members)
            print(f"{model:9} {member.weight:<6g} seed {member.seed}  FID  {fids}{then}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
