"""One epoch of the MNIST VAE on one core: `gimtune.training.Pack.train_epoch` against pythae 0.1.2's `BaseTrainer`.

    pip install pythae==0.1.2
    python -m benchmarks.epoch_against_pythae --data-root ../shared/data

Same network (784-512-512, latent size 8), initialisation, batch size 256, Adam at 1e-3, Bernoulli likelihood and KL at
weight 1. The trainers take turns, an epoch each, so that the machine's noise hits all; the ratios are of medians. At
the end each one's test images are scored by the same code of ours in float32: times compare only at equal nll. pythae
is used as its users do: `BaseDataset`, its own loader, log, progress bar and best-model copy (all inside its time), no
evaluation set, no checkpoints while it trains.

``plain`` is the floor: a loop by hand over the same network and precision, indexed batches, fused `torch.optim.Adam`;
what gimtune takes beyond it is bookkeeping. Where gimtune chooses bfloat16, the loop in float32 stands beside it.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from gimtune import networks
from gimtune.algebra.objective import Objective, Parameters, batches
from gimtune.data import Dataset, load
from gimtune.study import composition
from gimtune.study.resolve import members
from gimtune.training import Pack, Resident, precision
from gimtune.vocabulary import Member

CPU = torch.device("cpu")
BATCH, HIDDEN, LATENT, RATE = 256, [512, 512], 8, 1e-3
Epoch = Callable[[], None]


def vae(seed: int) -> Member:
    """The member under test."""
    settings = {"batch_size": BATCH, "learning_rate": RATE}
    return members(
        composition.load(
            ["study=tradeoff", "data=mnist", "models=[vae]", "prior=normal", "network=mlp", f"network.hidden={HIDDEN}"]
            + ["likelihood=bernoulli", "space.weight=1", f"space.latent_dim={LATENT}", f"space.seed={seed}"]
            + [f"training.{key}={value}" for key, value in settings.items()]
        )
    )[0]


def modules(image: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder with weights as torch draws them."""
    made = networks.NETWORKS["mlp"](image, LATENT, 2 * LATENT, hidden=HIDDEN)[:2]
    for module in made:
        for layer in module.to_empty(device=CPU).modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    return made


def weights(encoder: nn.Module, decoder: nn.Module) -> Parameters:
    return {name: dict(m.named_parameters()) for name, m in (("encoder", encoder), ("decoder", decoder))}


def plain(images: Tensor, scale: float, image: tuple[int, int, int], dtype: torch.dtype) -> tuple[Epoch, Parameters]:
    """The loop that one would write by hand."""
    encoder, decoder = modules(image)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def epoch() -> None:
        for index in torch.randperm(len(images)).split(BATCH):
            x = images[index] / scale
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                mu, log_variance = encoder(x).float().chunk(2, -1)
                z = mu + (0.5 * log_variance).exp() * torch.randn_like(mu)
                logits = decoder(z).float()
            nll = binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = 0.5 * (mu.square() + log_variance.exp() - 1 - log_variance).sum()
            optimiser.zero_grad(set_to_none=True)
            ((nll + kl) / len(x)).backward()
            optimiser.step()

    return epoch, weights(encoder, decoder)


def pythae_trainer(
    data: Dataset, epochs: int, seed: int, folder: str, rivals: Callable[[], None], times: list[float]
) -> tuple[Epoch, Parameters]:
    """pythae's trainer; at the start of each of its epochs the ``rivals`` have their turn, outside its time."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Encoder(BaseEncoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> ModelOutput:
            mu, log_variance = self.body(x).chunk(2, -1)
            return ModelOutput(embedding=mu, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z).sigmoid())

    class Turns(TrainingCallback):
        def on_epoch_begin(self, training_config: object, **kwargs: object) -> None:
            rivals()
            self.began = time.perf_counter()

        def on_log(self, training_config: object, logs: object, **kwargs: object) -> None:
            times.append(time.perf_counter() - self.began)

    encoder, decoder = modules(data.image)
    settings = VAEConfig(input_dim=data.image, latent_dim=LATENT, reconstruction_loss="bce")
    trainer = BaseTrainer(
        model=VAE(settings, encoder=Encoder(encoder), decoder=Decoder(decoder)),
        train_dataset=BaseDataset(
            torch.from_numpy(data.images["train"].copy()) / data.scale, torch.from_numpy(data.labels["train"].copy())
        ),
        training_config=BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            seed=seed,
            no_cuda=True,
        ),
        callbacks=[Turns()],
    )
    return trainer.train, weights(encoder, decoder)


@torch.no_grad()
def score(pack: Pack, parameters: Parameters) -> tuple[float, float]:
    """-likelihood_x and KL on the test images, nats, in float32, with the same noise for everyone."""
    objective = Objective(pack.members[0], pack.data.image, torch.float32)
    count = len(pack.data.images["test"])
    constants = objective.constants(pack.members[0], CPU)
    noise = objective.noise(("benchmark",), count, 1, CPU)["posterior"]
    total = torch.zeros(2, dtype=torch.float64)
    for part in batches(count, 1000):
        x = pack.data.scaled("test", part)
        terms = objective.terms(parameters, constants, x, {"posterior": noise[part]})
        total += len(x) / count * torch.stack([-terms.likelihood, terms.divergences[0]])
    return total[0].item(), total[1].item()


def timed(epoch: Epoch) -> float:
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=os.environ.get("GIMTUNE_DATA"), help="IDX files; default $GIMTUNE_DATA")
    parser.add_argument("--epochs", type=int, default=3, help="of each trainer (3)")
    parser.add_argument("--images", type=int, help="training images, all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of gimtune's networks"
    )
    arguments = parser.parse_args()
    try:
        pythae = metadata.version("pythae")
    except metadata.PackageNotFoundError:
        sys.exit("pythae is not installed: pip install pythae==0.1.2")

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    # torch.optim imports torch's compiler at its first step: seconds, which belong to no epoch
    torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.0).step()
    data = load("mnist", root=arguments.data_root)
    data = replace(data, images={**data.images, "train": data.images["train"][: arguments.images]})
    data = replace(data, labels={**data.labels, "train": data.labels["train"][: arguments.images]})
    chosen = precision(CPU)
    dtype = chosen if arguments.dtype == "auto" else getattr(torch, arguments.dtype)

    # training uses no features, so there is no network for them
    pack = Pack([vae(arguments.seed)], Resident(data, CPU), dtype)
    mine = "gimtune " + str(dtype).removeprefix("torch.")
    rivals: dict[str, Epoch] = {mine: pack.train_epoch}
    found: dict[str, Parameters] = {}
    for other in dict.fromkeys((dtype, torch.float32)):
        name = "plain " + str(other).removeprefix("torch.")
        rivals[name], found[name] = plain(pack.data.images["train"], data.scale, data.image, other)
    times: dict[str, list[float]] = {name: [] for name in (*rivals, "pythae float32")}

    def turns() -> None:
        for name, epoch in rivals.items():
            times[name].append(timed(epoch))

    with tempfile.TemporaryDirectory() as folder:
        train, found["pythae float32"] = pythae_trainer(
            data, arguments.epochs, arguments.seed, folder, turns, times["pythae float32"]
        )
        train()
    found[mine] = pack.one(0)

    print(
        f"\nOne epoch of the MNIST VAE (784-512-512, latent size {LATENT}), {len(data.images['train'])} images, "
        f"batch {BATCH}, Adam {RATE:g}, {torch.get_num_threads()} thread\n"
        f"pythae {pythae}, torch {torch.__version__}, python {platform.python_version()}, "
        f"{torch.backends.cpu.get_cpu_capability()}; gimtune.training.precision chooses {chosen} here\n"
    )
    print(f"{'':18s} {'median s':>9s} {'/ gimtune':>9s} {'test nll':>9s} {'test KL':>8s}   seconds of each epoch")
    base = median(times[mine])
    for name, seconds in times.items():
        nll, kl = score(pack, found[name])
        each = " ".join(f"{s:.2f}" for s in seconds)
        print(f"{name:18s} {median(seconds):9.2f} {median(seconds) / base:9.2f} {nll:9.2f} {kl:8.2f}   {each}")
    floor = median(times[mine.replace("gimtune", "plain")])
    print(
        f"\npythae / gimtune {median(times['pythae float32']) / base:.2f}; "
        f"bookkeeping: gimtune takes {100 * (base / floor - 1):+.1f} % over a plain loop in its precision"
    )


if __name__ == "__main__":
    main()
