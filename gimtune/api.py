"""Studies from Python, with the checks, the messages and the results of the command line.

run = gimtune.run("tradeoff", models=["vae", "wae_mmd"], data="mnist", **{"space.seed": {"grid": [0, 1]}})
run = gimtune.open("results/tradeoff/20260101-120000")
member = run.member("76e14a")
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gimtune.algebra.seeds import generator
from gimtune.metrics.marginal import importance
from gimtune.metrics.view import View
from gimtune.parts import allowed
from gimtune.study.composition import load as composed
from gimtune.study.machine import storage
from gimtune.study.messages import ConfigError
from gimtune.study.opened import opened
from gimtune.vocabulary import IMPORTANCE_CODES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console

    from gimtune.analysis.statistics.verdicts import Verdicts
    from gimtune.results.load import Study
    from gimtune.results.pareto import Front


#: Modules of a member.
_PARTS = ("encoder", "decoder")


def run(study: str = "tradeoff", *, console: Console | None = None, **overrides: Any) -> Run:
    """Run a study to its end, as ``python -m gimtune study=...`` does, or go on with one (``resume=FOLDER``).

    Args:
        study: name of a study file.
        console: what is told on the way is printed there; by default on the standard output or below a notebook's cell.
        overrides: keys of the configuration with their values: ``models=["vae"]``, ``data="mnist"``, and by
            ``**{"budget.epochs": 20}`` those with a dot.

    Raises:
        ConfigError: bad input, in the words of the command line; nothing was started.
        KeyboardInterrupt: it was interrupted; ``run(resume=FOLDER)`` goes on.
        RuntimeError: the machine lacked something, a full disk say; likewise.
    """
    # before Ray is imported: it reads its switches then
    from gimtune.tuning.launch import launch  # isort: skip
    from gimtune.analysis.export.report import conclude
    from gimtune.analysis.export.reproduce import arguments
    from gimtune.tuning.plan import preflight

    if console is None:
        from rich.console import Console

        console = Console()
    told = console
    named = {} if "resume" in overrides else {"study": study}
    config = composed(arguments({**named, **overrides}))
    plan = preflight(config)
    ended: list[Path] = []

    def finish(folder: Path) -> int:
        ended.append(folder)
        return conclude(folder, config.objectives, told)

    code = launch(plan, console, finish)
    if ended:
        return Run(ended[0])
    folder = plan.run or max((storage(config) / config.name).iterdir(), key=lambda path: path.name)
    if code > 128:
        raise KeyboardInterrupt(f"interrupted; gimtune.run(resume={str(folder)!r}) goes on")
    raise RuntimeError(f"not finished; gimtune.run(resume={str(folder)!r}) goes on")


def open(folder: str | Path) -> Run:  # noqa: A001 - as of a file: gimtune.open
    """A run folder, of a study that has ended or goes on.

    Raises:
        FileNotFoundError: it is none.
        ValueError: its ``study.db`` cannot be read.
    """
    found = Run(_path("folder", folder))
    found.study  # noqa: B018 - read once, so that what is none is refused here
    return found


def merge(*runs: str | Path, out: str | Path) -> Run:
    """Several runs as one, as ``python -m gimtune merge RUN RUN2 OUT`` writes it.

    Args:
        out: a folder that is to be made.

    Raises:
        ConfigError: runs that do not compare, with the key; or what is no run.
    """
    from gimtune.results.merge import merge as merged

    try:
        for line in merged([Path(run) for run in runs], Path(out)):
            print(line)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None
    return Run(Path(out))


class Run:
    """A run folder: its rows, its front, its verdicts, its figures, its members.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"gimtune.open({str(self.folder)!r})"

    @property
    def study(self) -> Study:
        """Its rows as they stand now."""
        from gimtune.results.load import load

        return load(self.folder)

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each member: its configuration and its last metrics."""
        return self.study.trials

    @property
    def reports(self) -> pd.DataFrame:
        """A row for each evaluation, by trial and epoch."""
        return self.study.reports

    def front(
        self,
        objectives: Mapping[str, str] | Iterable[str] | None = None,
        *,
        only: Mapping[str, str] | None = None,
    ) -> Front:
        """Members that no other is better than, chosen on the validation split.

        Args:
            objectives: metrics with ``min`` or ``max``; the study's own by default.
            only: columns and the values to choose, where a study has several data sets or features.

        Raises:
            ValueError: no such metric, or members that do not compare.
        """
        from gimtune.results.pareto import front

        study = self.study
        return front(study.trials, objectives or study.objectives, only=only)

    def verdicts(self) -> Verdicts:
        """What the study says of the theory's claims; ``verdicts().table()`` is a data frame."""
        from gimtune.analysis.export.report import verdicts_of

        return verdicts_of(self.study)

    def figure(self, name: str = "front", *, interactive: bool = False) -> Figure | Any:
        """A figure of matplotlib, or of plotly; ``None`` where the study has nothing to draw.

        Raises:
            ValueError: no figure of that name.
        """
        from gimtune.analysis.figures.gallery import figures_of

        known = figures_of(self.study.objectives)
        if name not in known:
            raise ValueError(f"figure {name}: {allowed(name, known)}")
        kind = known[name]
        return (kind.interactive if interactive else kind.static)(self.front(), self.folder)

    def add(self, *names: str, plugins: Sequence[str] = (), root: str | None = None) -> int:
        """Measure registered metrics of the members whose weights were kept, as ``gimtune analysis RUN --add`` does.

        Args:
            plugins: modules that register them.
            root: of the data's files, where they are elsewhere than when it was trained.

        Raises:
            ValueError: no such metric, or one that the run was measured with.
        """
        from gimtune.study.added import add

        return add(self.folder, names, plugins, root)

    def member(self, trial: str, root: str | None = None) -> Trained:
        """A member that has ended, with its weights; the first letters of its name are enough.

        Args:
            root: of the data's files, where they are elsewhere than when it was trained.

        Raises:
            ValueError: no member's name begins so, or those of several do.
            FileNotFoundError: its weights were not kept.
        """
        if not isinstance(trial, str) or not trial:
            raise ValueError(f"trial={trial!r}: allowed are the first letters of a member's name")
        names = [str(name) for name in self.trials["trial"]]
        fitting = [name for name in names if name.startswith(trial)]
        if len(fitting) != 1:
            why = f"begins the names of {', '.join(fitting[:5])}" if fitting else f"begins none of {len(names)} names"
            raise ValueError(f"member {trial}: it {why}")
        return Trained(self.folder, fitting[0], root)


class Trained:
    """A member with its weights. Images are (n, colours, height, width) in [0, 1], codes (n, latent_dim).

    Methods take tensors or arrays, and give tensors on the CPU.

    Attributes:
        member: its configuration.
    """

    def __init__(self, folder: Path, trial: str, root: str | None = None) -> None:
        pack, self._evaluation = opened(folder, trial, root)
        self.member = pack.members[0]
        self._objective = pack.objective
        self._parameters = tree_map(lambda leaf: leaf[0].detach(), pack.parameters)

    def __repr__(self) -> str:
        return f"<{self.member.model} {self.member.trial} on {self.member.data['name']}>"

    @property
    def image(self) -> tuple[int, int, int]:
        """Colours, height and width."""
        return self._evaluation.data.image

    @property
    def latent_dim(self) -> int:
        """Dimensions of a code."""
        return self._objective.latent_dim

    @torch.no_grad()
    def encode(self, images: ArrayLike | Tensor, *, draw: bool = False, seed: int = 0) -> Tensor:
        """Means of q(z|x), (n, latent_dim), or a code drawn from it for each image."""
        pictures = self._images(images)
        posterior = self._view().encode(pictures, self._noise(len(pictures), seed))
        return (posterior.z if draw else posterior.mu).cpu()

    @torch.no_grad()
    def decode(self, codes: ArrayLike | Tensor) -> Tensor:
        """Decoded means of codes."""
        return self._view().decode(self._codes(codes)).cpu()

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Decoded means of codes from the prior."""
        _whole("count", count, 1)
        view, source = self._view(), self._random(seed, "sample")
        if view.prior.images:
            raise ValueError(f"{self.member.model} has no prior to draw from: it translates images, by decode")
        noise = view.prior.noise(count, self.latent_dim, source)
        return view.decode(view.prior.sample(view.prior_tensors, noise)).cpu()

    @torch.no_grad()
    def reconstruct(self, images: ArrayLike | Tensor) -> Tensor:
        """Decoded means of the images' mean codes."""
        return self.decode(self.encode(images))

    @torch.no_grad()
    def log_px(self, images: ArrayLike | Tensor, codes: int = IMPORTANCE_CODES, seed: int = 0) -> Tensor:
        """The importance-weighted bound of log p(x) with so many codes, (n,), nats. Source: Burda et al. 2016, eq. 8.

        Raises:
            ValueError: the model has no density of codes or of images.
        """
        _whole("codes", codes, 1)
        view = self._view()
        if not view.encoder.gaussian or not view.prior.density or self._objective.likelihood.of_critic:
            raise ValueError(
                f"{self.member.model} with a {view.encoder.name} encoder has no density of images and codes"
            )
        pictures = self._images(images)
        posterior = view.encode(pictures, self._noise(len(pictures), seed))
        return importance(view, pictures, posterior, self._random(seed, "log_px"), codes).cpu()

    @property
    def encoder(self) -> nn.Module:
        """The network of q(z|x) as a plain module: images to the encoder's outputs."""
        return self._module("encoder")

    @property
    def decoder(self) -> nn.Module:
        """The network of p(x|z) as a plain module: codes to the likelihood's outputs, before their mean is taken."""
        return self._module("decoder")

    def export(self, path: str | Path, part: str = "decoder") -> Path:
        """Write the encoder or the decoder as a program of `torch.export` (``.pt2``), which needs nothing of ours.

        Raises:
            ValueError: another part, or what is no path.
        """
        path = _path("path", path)
        if part not in _PARTS:
            raise ValueError(f"part {part}: {allowed(part, _PARTS)}")
        takes = self.image if part == "encoder" else (self.latent_dim,)
        count = torch.export.Dim("count")
        program = torch.export.export(self._module(part), (torch.zeros(2, *takes),), dynamic_shapes=({0: count},))
        torch.export.save(program, str(path))
        return path

    def _module(self, name: str) -> nn.Module:
        from gimtune.networks import NETWORKS

        options = {key: value for key, value in self.member.network.items() if key != "name"}
        outputs = self._objective.encoder.outputs(self.latent_dim)
        made = NETWORKS[self.member.network["name"]](self.image, self.latent_dim, outputs, **options)
        module: nn.Module = getattr(made, name).to_empty(device="cpu")
        module.load_state_dict({key: value.cpu() for key, value in self._parameters[name].items()})
        return module.eval().requires_grad_(False)

    def _view(self) -> View:
        return self._evaluation.view(self._objective, self._parameters, self.member, "test")

    def _random(self, seed: int, key: str) -> torch.Generator:
        _whole("seed", seed)
        return generator(self._evaluation.data.device, "python", key, seed)

    def _noise(self, count: int, seed: int) -> Tensor:
        source = self._random(seed, "encode")
        width = self._objective.encoder.noise(self.latent_dim)
        return torch.randn(count, width, generator=source, device=source.device)

    def _images(self, images: ArrayLike | Tensor) -> Tensor:
        shape = f"(n, {', '.join(map(str, self.image))})"
        values = self._values("images", images, shape)
        if values.shape[1:] != self.image or not len(values):
            raise ValueError(f"images are {tuple(values.shape)}; allowed are {shape}")
        if not 0 <= float(values.min()) <= float(values.max()) <= 1:
            raise ValueError(f"images go from {float(values.min()):g} to {float(values.max()):g}; allowed is 0 to 1")
        return values

    def _codes(self, codes: ArrayLike | Tensor) -> Tensor:
        shape = f"(n, {self.latent_dim})"
        values = self._values("codes", codes, shape)
        if values.ndim != 2 or values.shape[1] != self.latent_dim or not math.isfinite(float(values.sum())):
            raise ValueError(f"codes are {tuple(values.shape)}; allowed are finite ones {shape}")
        return values

    def _values(self, name: str, given: Any, shape: str) -> Tensor:
        try:
            return torch.as_tensor(given, dtype=torch.float32, device=self._evaluation.data.device)
        except (TypeError, ValueError, RuntimeError):  # torch has one for each kind of what is no array
            kind = type(given).__name__
            raise ValueError(f"{name} are of type {kind}; allowed are tensors and arrays of numbers {shape}") from None


def _whole(name: str, given: Any, least: int | None = None) -> None:
    whole = isinstance(given, Integral) and not isinstance(given, bool)
    if not whole or (least is not None and given < least):
        bound = "" if least is None else f" >= {least}"
        raise ValueError(f"{name}={given!r}: allowed are whole numbers{bound}")


def _path(name: str, given: Any) -> Path:
    if not isinstance(given, str | PathLike):
        raise ValueError(f"{name}={given!r}: allowed are paths")
    return Path(given)


__all__ = ["ConfigError", "Run", "Trained", "merge", "open", "run"]
