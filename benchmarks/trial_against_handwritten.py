"""A whole trial, training and all metrics: `gimtune` on Ray Tune against a function trainable written by hand.

    python -m benchmarks.trial_against_handwritten --data-root ../shared/data

The trial is the MNIST VAE (784-512-512, latent size 8, batch 256, Adam at 1e-3), 10 epochs, then every metric on the
validation and on the test split. By hand means what a competent user writes: `DataLoader` without workers, a module and
`torch.optim.Adam` in float32, a checkpoint with each report, and libraries for the metrics (pytorch-fid's Frechet
distance on the same LeNet features, scikit-learn's mixture, logistic regression and neighbours, NumPy for the mutual
information). Its data set is a `TensorDataset` (``tensor``) or PIL and `ToTensor` for each image as torchvision's MNIST
does it (``totensor``).

All run in one Ray session with one CPU a trial, in turns, each in an actor of its own. ``trial s`` goes from the
trial's setup to its last report, inside the worker; ``fit s`` is the driver's, with the start of the actor and its
imports. The metrics stand side by side: seeds differ, so they agree as two seeds do. pytorch-fid 0.3.0 needs
scipy < 1.18.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gimtune import tuning  # noqa: F401 - sets Ray's switches before Ray reads them
from gimtune.metrics.lenet import classifier, provide
from gimtune.study import composition

# isort: split
from ray import tune

from gimtune.data import Dataset, load
from gimtune.files import cache
from gimtune.study.resolve import members
from gimtune.training import precision
from gimtune.tuning.cluster import connected
from gimtune.tuning.packs import rows_of
from gimtune.tuning.trainable import GimTrial
from gimtune.vocabulary import METRICS

BATCH, LATENT, RATE = 256, 8, 1e-3
CODES, PROBE, COMPONENTS, NEIGHBOURS = 10_000, 20_000, 10, 5
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


class Timed(GimTrial):
    """Ours, with the seconds since its setup in every result."""

    def setup(self, config: dict[str, Any], data: Dataset) -> None:
        self._began = time.perf_counter()
        super().setup(config, data)

    def step(self) -> dict[str, Any]:
        found = super().step()
        (row,) = rows_of(found).values()
        images = len(self._data.images["train"]) * row.get("epoch", 0)
        spent = images / row["examples_per_second"] if images else math.nan
        return {**found, "row": row, "training": spent, "wall": time.perf_counter() - self._began}


# ---- by hand: nothing of ours from here to `by_hand`, but for the LeNet that the distances are taken with


class Vae(nn.Module):
    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Flatten(), nn.Linear(pixels, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()),
            nn.Linear(512, 2 * LATENT),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(LATENT, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, pixels)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, log_variance = self.encoder(x).chunk(2, -1)
        z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
        return mu, log_variance, z, self.decoder(z).view_as(x)


class Pictures(torch.utils.data.Dataset):
    """Images one at a time by way of PIL, as `torchvision.datasets.MNIST` gives them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index, 0])), int(self.labels[index])


class Measurement:
    """The metrics of a model, by libraries."""

    def __init__(self, model: Vae, images: dict[str, Tensor], labels: dict[str, np.ndarray], lenet: nn.Module) -> None:
        self.model, self.images, self.labels, self.lenet = model, images, labels, lenet

    def features(self, images: Tensor) -> np.ndarray:
        return torch.cat([self.lenet(part) for part in images.split(500)]).double().numpy()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mu, log_variance, z, logits = zip(*(self.model(part) for part in images.split(1000)), strict=True)
        return torch.cat(mu), torch.cat(log_variance), torch.cat(z), torch.cat(logits)

    def decode(self, codes: Tensor, like: Tensor) -> Tensor:
        return torch.cat([self.model.decoder(part).sigmoid() for part in codes.split(1000)]).view(-1, *like.shape[1:])

    @torch.no_grad()
    def __call__(self, splits: Sequence[str]) -> dict[str, float]:
        from pytorch_fid.fid_score import calculate_frechet_distance
        from sklearn.linear_model import LogisticRegression
        from sklearn.mixture import GaussianMixture
        from sklearn.model_selection import train_test_split
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        def frechet(a: np.ndarray, b: np.ndarray) -> float:
            moments = (m for f in (a, b) for m in (f.mean(0), np.cov(f, rowvar=False)))
            return float(calculate_frechet_distance(*moments))

        train, labels = self.images["train"], self.labels["train"]
        chosen = np.random.default_rng(0).permutation(len(train))[:PROBE]
        mu, _, z, _ = self.encode(train[chosen])
        codes, classes = mu.double().numpy(), labels[chosen]
        mixture = GaussianMixture(COMPONENTS, random_state=0).fit(z[:CODES].double().numpy())
        part = train_test_split(codes, classes, test_size=0.2, random_state=0, stratify=classes)
        linear = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in STRENGTHS]
        scores = [probe.fit(part[0], part[2]).score(part[1], part[3]) for probe in linear]
        probe = linear[int(np.argmax(scores))].fit(codes, classes)
        neighbours = make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBOURS)).fit(codes, classes)
        row: dict[str, float] = {}
        for split in splits:
            x = self.images[split]
            mu, log_variance, z, logits = self.encode(x)
            values = _information(*(t.double().numpy() for t in (mu, (0.5 * log_variance).exp())))
            nll = binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
            prior = torch.randn(len(x), LATENT)
            generated = self.decode(prior, x)
            back, log_back, _, _ = self.encode(generated)
            normal = torch.distributions.Normal(back, (0.5 * log_back).exp())
            values["likelihood_x"] = values["likelihood"] = -float(nll)
            values["likelihood_z"] = float(normal.log_prob(prior).sum(1).mean())
            values["restriction"], values["loss"] = float(kl), float(nll + kl)
            values["mi_gap"] = values["mi_q"] + values["loss"]
            reference = self.features(x)
            expost = self.decode(torch.from_numpy(mixture.sample(len(x))[0]).float(), x)
            floor = train[np.random.default_rng(1).permutation(len(train))[: len(x)]]
            values["fid"] = frechet(self.features(generated), reference)
            values["recon_fid"] = frechet(self.features(logits.sigmoid()), reference)
            values["fid_expost"] = frechet(self.features(expost), reference)
            values["fid_floor"] = frechet(self.features(floor), reference)
            seen = mu.double().numpy()
            values["probe_means"] = float(probe.score(seen, self.labels[split]))
            values["knn_means"] = float(neighbours.score(seen, self.labels[split]))
            row |= {f"test_{k}" if split == "test" else k: v for k, v in values.items()}
        return row


def _information(mu: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    def gaussian(noise: float) -> float:
        covariance = np.cov(mu, rowvar=False, bias=True) + np.diag((sigma**2).mean(0))
        more = noise**2 * np.diag(covariance)
        variance, covariance = sigma**2 + more, covariance + np.diag(more)
        return float(0.5 * (np.linalg.slogdet(covariance)[1] - np.log(variance).sum(1).mean()))

    return {
        "mi_q": gaussian(0.0),
        "mi_noised": gaussian(0.1),
        "sigma_mean": float(sigma.mean()),
        "active_units": float((mu.var(0) > 0.01).sum()),
    }


def by_hand(config: dict[str, Any], data: Dataset) -> None:
    """A function trainable."""
    began, training = time.perf_counter(), 0.0
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    images = {split: torch.tensor(array) / data.scale for split, array in data.images.items()}
    pictures: Any = TensorDataset(images["train"], torch.tensor(data.labels["train"]))
    if config["loader"] == "totensor":
        from torchvision.transforms import ToTensor

        pictures = Pictures(data.images["train"], data.labels["train"], ToTensor())
    loader = DataLoader(pictures, batch_size=BATCH, shuffle=True, num_workers=0)
    model = Vae(math.prod(data.image))
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    lenet = classifier(data, Path(config["features"]), torch.device("cpu"))
    measure = Measurement(model, images, dict(data.labels), lenet)
    for epoch in range(1, config["epochs"] + 1):
        started = time.perf_counter()
        for x, _ in loader:
            mu, log_variance, _, logits = model(x)
            nll = binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
            kl = -0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum() / len(x)
            optimiser.zero_grad()
            (nll + kl).backward()
            optimiser.step()
        training += time.perf_counter() - started
        if epoch % config["evaluate_every"] == 0 or epoch == config["epochs"]:
            row = measure(["validation", "test"] if epoch == config["epochs"] else ["validation"])
            with tempfile.TemporaryDirectory() as folder:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epoch": epoch}
                torch.save(state, Path(folder) / "state.pt")
                wall = time.perf_counter() - began
                checkpoint = tune.Checkpoint.from_directory(folder)
                tune.report({"row": row, "training": training, "wall": wall}, checkpoint=checkpoint)


def fit(trainable: Any, space: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One trial by Ray Tune; its last result."""
    began = time.perf_counter()
    results = tune.Tuner(
        trainable,
        param_space=space,
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(folder),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    seconds = time.perf_counter() - began
    if results.errors:
        sys.exit(f"the trial failed: {results.errors[0]}")
    found = {**(results[0].metrics or {}), "fit": seconds}
    if found["row"].get("error"):
        sys.exit(f"the trial failed: {found['row']['error']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("GIMTUNE_DATA"), help="IDX files; default $GIMTUNE_DATA")
    parser.add_argument("--epochs", type=int, default=10, help="of every trial (10)")
    parser.add_argument("--evaluate-every", type=int, help="epochs between two evaluations; default: one, at the end")
    parser.add_argument("--repeats", type=int, default=2, help="turns (2)")
    parser.add_argument("--loaders", nargs="+", choices=["tensor", "totensor"], default=["tensor", "totensor"])
    parser.add_argument("--images", type=int, help="training images, all by default")
    arguments = parser.parse_args()
    every = arguments.evaluate_every or arguments.epochs

    overrides = {
        "study": "tradeoff",
        "data": "mnist",
        "models": "[vae]",
        "prior": "normal",
        "network": "mlp",
        "network.hidden": [512, 512],
        "likelihood": "bernoulli",
        "space.weight": 1,
        "space.latent_dim": LATENT,
        "space.seed": 0,
        "training.batch_size": BATCH,
        "training.learning_rate": RATE,
        "budget.epochs": arguments.epochs,
        "budget.evaluate_every": every,
        "metrics.probe_samples": PROBE,
        "metrics.fid_samples": CODES,
        "ray.dashboard": "false",
    }
    settings = composition.load([f"{key}={value}" for key, value in overrides.items()])
    (member,) = members(settings)
    data = load("mnist", root=arguments.data_root)
    if arguments.images:
        data = replace(
            data,
            images={**data.images, "train": data.images["train"][: arguments.images]},
            labels={**data.labels, "train": data.labels["train"][: arguments.images]},
            digest=f"{data.digest}-{arguments.images}",  # a name of its own for the LeNet of fewer images
        )

    found: dict[str, list[dict[str, Any]]] = {"gimtune": [], **{f"hand {loader}": [] for loader in arguments.loaders}}
    with tempfile.TemporaryDirectory() as folder:
        features = Path(folder) / "features"
        provide(data, cache(), features)
        with connected(settings, data.nbytes):
            for turn in range(arguments.repeats):
                for name, results in found.items():
                    run = Path(folder) / f"{name.replace(' ', '-')}-{turn}"
                    if name == "gimtune":
                        run.mkdir()
                        provide(data, features, run / "features")
                        (run / "config.yaml").touch()
                        pack = {"members": [member.to_json()], "trials": [member.trial], "name": member.trial}
                        where = {
                            "folder": str(run),
                            "driver": "benchmark",
                            "cpu": 1.0,
                            "gpu": 0.0,
                            "plugins": {},
                            "cuda_graphs": False,
                            "scheduled": False,
                        }
                        space: dict[str, Any] = {"pack": {**pack, **where}}
                        trainable = tune.with_parameters(Timed, data=data)
                    else:
                        space = {"seed": turn, "loader": name.split()[1], "features": str(features)}
                        space |= {"epochs": arguments.epochs, "evaluate_every": every}
                        trainable = tune.with_resources(tune.with_parameters(by_hand, data=data), {"cpu": 1})
                    results.append(fit(trainable, space, run))
                    print(f"turn {turn + 1} {name}: {results[-1]['wall']:.1f} s", file=sys.stderr, flush=True)

    names = ("ray", "torch", "torchvision", "scikit-learn", "scipy", "numpy", "pytorch-fid")
    print(
        f"\nOne trial: MNIST VAE (784-512-512, latent size {LATENT}), {len(data.images['train'])} images, "
        f"{arguments.epochs} epochs, batch {BATCH}, evaluated every {every}, test split at the end, 1 CPU\n"
        f"python {platform.python_version()}, {', '.join(f'{n} {metadata.version(n)}' for n in names)}, "
        f"{torch.backends.cpu.get_cpu_capability()}; gimtune trains in {precision(torch.device('cpu'))}, "
        f"by hand in float32\n"
    )
    print(f"{'':14s} {'trial s':>8s} {'/ gimtune':>9s} {'training':>9s} {'the rest':>9s} {'fit s':>7s}   trial s, each")
    base = median(r["wall"] for r in found["gimtune"])
    for name, results in found.items():
        wall, training, whole = (median(r[key] for r in results) for key in ("wall", "training", "fit"))
        each = " ".join(f"{r['wall']:.1f}" for r in results)
        print(f"{name:14s} {wall:8.1f} {wall / base:9.2f} {training:9.1f} {wall - training:9.1f} {whole:7.1f}   {each}")
    print(f"\n{'metric':22s}" + "".join(f" {name:>14s}" for name in found) + "   (last turn)")
    every = (f"{prefix}{metric}" for prefix in ("", "test_") for metric in METRICS)
    for key in (key for key in every if all(key in results[-1]["row"] for results in found.values())):
        print(f"{key:22s}" + "".join(f" {results[-1]['row'][key]:14.4f}" for results in found.values()))


if __name__ == "__main__":
    main()
