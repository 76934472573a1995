"""A study from its configuration to its tables: launched anew or resumed, on whatever part is not finished.

Resuming reads ``config.yaml`` and ``study.db``, starts a fresh Tuner over the packs that have not ended, and unpickles
nothing; a pack that finds its checkpoint goes on from it.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from analysis.load import load as load_run
from gimtune import data as datasets
from gimtune import mirror
from gimtune.config import SEQUENTIAL, Config, ConfigError, check_machine, check_storage, cluster_address, dump
from gimtune.data import Dataset
from gimtune.files import cache
from gimtune.metrics import fid
from gimtune.resolve import members
from gimtune.store import Store
from gimtune.training import pack_name
from gimtune.tuning.mo_asha import make_rungs
from gimtune.tuning.packs import Pack, most, packs
from gimtune.vocabulary import ENDED, Member, Status

_PACKAGES = (
    "gimtune",
    "ray",
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "optuna",
    "pytorch-fid",
    "moocore",
)
#: Of one trial, over its whole life; `gimtune.tuning.attempts` gives up much sooner where nothing is gained.
_FAILURES = 1000
#: This process, for workers to tell its starts from those of an earlier one.
_DRIVER = secrets.token_hex(4)
#: Trials that wait for a worker, as Ray has it for a grid.
_PENDING = 200
_PLAIN: Any = {"soft_wrap": True, "highlight": False, "markup": False}


def launch(config: Config, console: Console) -> int:
    """Run a study to its end; returns the exit code: 0, 1 with failed members, 130 interrupted.

    Raises:
        ConfigError: bad input; nothing was started.
    """
    run = Path(config.resume).resolve() if config.resume else None
    sequential = config.search.sampler in SEQUENTIAL
    planned = _planned(run) if run else members(config)
    address = cluster_address(config)
    if address and mirror.is_address(config.storage_path):
        raise ConfigError(f"storage_path={config.storage_path}: on a cluster, a folder that its nodes share")
    if address is None:
        # Ray reads it when it is imported, and knows no other way to keep all of its ports on the loopback address
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        check_machine(config, [(os.cpu_count() or 1, _gpus(config))])
    if config.scheduler.name == "mo_asha":
        _check_rungs(config)
    _check_features(config)
    if config.ray.trackers:
        _check_trackers(config)
    data = _data(config)
    made = _packs_of(run, planned) if run else packs(planned, config.resources.members, data.image, _kind(config))
    if config.dry_run:
        _print_plan(config, made, console)
        return 0
    if run is None and sequential:
        made = []
    stopped = None
    with _joined(config, address, run) if address and (run is None or _to_go(config, run)) else nullcontext():
        if run is None:
            run = _new_run(config)
            with Store(run / "study.db", create=True) as store:
                created = datetime.now(UTC).isoformat(timespec="seconds")
                store.annotate(
                    name=config.name,
                    created=created,
                    objectives=json.dumps(dict(config.objectives)),
                    # a search's are not planned yet; whoever asks for its status has to know
                    members=str(config.search.trials if sequential else len(planned)),
                    epochs=str(config.budget.epochs),
                )
                _plan(config, store, made)
        with _copied(config, run, console):
            try:
                with _only_driver(run):
                    stopped = _run_and_annotate(config, made, data, run, console)
            except KeyboardInterrupt:
                pass
            left = _to_go(config, run)
            code = 130 if left else _finish(config, run, console)
    if left:
        if stopped:
            console.print(f"Stopped by the machine: {stopped}", **_PLAIN)
        console.print(f"Interrupted with {left} members to go. Go on with:")
        console.print(f"  python -m gimtune resume={_address(config, run) or _relative(run)}", **_PLAIN)
    return code


def _address(config: Config, run: Path) -> str | None:
    """Where a run is copied to."""
    return f"{config.storage_path}/{config.name}/{run.name}" if mirror.is_address(config.storage_path) else None


def _copied(config: Config, run: Path, console: Console) -> AbstractContextManager[None]:
    if (address := _address(config, run)) is None:
        return nullcontext()
    console.print(f"copied to {address} every {mirror.EVERY:.0f} s", **_PLAIN)
    return mirror.mirrored(run, address, lambda text: console.print(f"note: {text}", **_PLAIN))


def _to_go(config: Config, run: Path) -> int:
    """How many of a run's members have not ended."""
    with Store(run / "study.db") as store:
        statuses = store.statuses()
        left = sum(status not in ENDED for status in statuses.values())
        if config.search.sampler in SEQUENTIAL and "exhausted" not in store.meta:
            left += (config.search.trials or 0) - len(statuses)
    return left


def _joined(config: Config, address: str, run: Path | None) -> AbstractContextManager[None]:
    from gimtune.tuning.cluster import joined

    return joined(config, address, run or check_storage(config))


@contextmanager
def _only_driver(run: Path) -> Iterator[None]:
    """Refuse a second driver on a run folder; the kernel lets go of the lock when the first one dies."""
    with (run / ".lock").open("w") as handle:
        for attempt in range(5):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                # whoever asks for the study's status holds it for a moment
                time.sleep(0.05 * attempt)
        else:
            raise ConfigError(f"resume={run}: another driver is at work on this run folder")
        yield


def _run_and_annotate(config: Config, made: list[Pack], data: Dataset, run: Path, console: Console) -> str | None:
    """Run what is not finished; returns what the machine lacked where it ended early."""
    # training the classifier needs no Ray: it runs while Ray starts, and the workers wait for its file
    background = threading.Thread(target=_prepare, args=(config, data, run), daemon=True)
    background.start()
    with Store(run / "study.db", create=True) as store, _terminable():
        try:
            _run(config, made, data, run, store, console)
        except ConfigError:
            raise
        except Exception as error:
            if (reason := _machine(error)) is None:
                raise
            return reason
        if config.metrics.fid_features == "classifier":
            background.join()
            network = fid.classifier(data, run / "features", torch.device("cpu"))
            store.annotate(fid_features=network.name, classifier_test_accuracy=f"{network.test_accuracy:.4f}")
    return None


def _machine(error: BaseException | None) -> str | None:
    """What the machine lacked, where that is what an error comes from: a full disk or a lost cluster, not our code."""
    from ray.exceptions import RayError
    from ray.tune import TuneError

    from gimtune.tuning.recorder import Halted

    while isinstance(error, TuneError):
        # Tune raises what a callback raised as its own, with a text instead of a cause
        error = error.__cause__ or error.__context__
    if isinstance(error, Halted | OSError | sqlite3.OperationalError | RayError):
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def _run(config: Config, made: list[Pack], data: Dataset, run: Path, store: Store, console: Console) -> None:
    """Ray Tune over the packs that have not ended."""
    statuses = store.statuses()
    todo = [pack for pack in made if any(statuses[m.trial] not in ENDED for m in pack)]
    sequential = config.search.sampler in SEQUENTIAL
    total = (config.search.trials or 0) if sequential else len(statuses)
    if not todo and len(statuses) == total:
        return
    from ray import tune
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

    from gimtune.tuning.cluster import connected
    from gimtune.tuning.gauges import Gauges
    from gimtune.tuning.recorder import Recorder
    from gimtune.tuning.retention import Retention
    from gimtune.tuning.scheduler import scheduler
    from gimtune.tuning.trackers import trackers
    from gimtune.tuning.trainable import GimTrial

    size = sum(array.nbytes for array in data.images.values())
    with connected(config, size) as where:
        parts = f"by {config.search.sampler}" if sequential else f"in {len(made)} trials"
        console.print(f"{total} members {parts}, run folder {_relative(run)}", **_PLAIN)
        console.print(where, **_PLAIN)
        trainable = tune.with_parameters(GimTrial, data=data)
        trainable.__qualname__ = GimTrial.__qualname__  # what the dashboard and `ps` show
        shown = Gauges(config.name, run.name)
        with Recorder(store, config.budget.epochs, dict(config.objectives), total, console, shown) as recorder:
            searcher = _searcher(config, todo, total, data, run, recorder)
            # planned trials may wait for their workers to start all together; Optuna is asked as late as can be
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if sequential else str(_PENDING)
            callbacks = [recorder, *trackers(config, run, console)]
            if config.checkpoints == "front":
                callbacks.append(Retention(store, run, dict(config.objectives)))
            Tuner(
                trainable,
                tune_config=TuneConfig(
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                    scheduler=scheduler(config, store, todo, run),
                    search_alg=searcher,
                    num_samples=total if sequential else len(todo),
                ),
                run_config=RunConfig(
                    name="ray",
                    storage_path=str(run),
                    callbacks=callbacks,
                    failure_config=FailureConfig(max_failures=_FAILURES),
                    checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            ).fit()
        if searcher.exhausted:
            store.annotate(exhausted="the space has no more members")
        if recorder.first_row is not None:
            store.annotate(first_row_seconds=f"{recorder.first_row:.1f}")


def _searcher(config: Config, todo: list[Pack], total: int, data: Dataset, run: Path, recorder: Any) -> Any:
    from gimtune.tuning.suggest import Suggestions

    if config.search.sampler not in SEQUENTIAL:
        return Suggestions(todo, lambda pack: _trial_config(config, pack, run))
    from gimtune.tuning.search import Proposals

    store: Store = recorder.store
    known = store.trials()

    def begin(pack: Pack) -> dict[str, Any]:
        _plan(config, store, [pack])
        recorder.add(one.trial for one in pack)
        return _trial_config(config, pack, run)

    return Suggestions(
        todo,
        begin,
        Proposals(config, run, known),
        total - len(known),
        lambda first: most(first, config.resources.members, data.image, _kind(config)),
    )


def _plan(config: Config, store: Store, made: list[Pack]) -> None:
    store.plan({**_identity(config, one), "pack": pack_name(pack)} for pack in made for one in pack)


def _packs_of(run: Path, planned: list[Member]) -> list[Pack]:
    """The packs that the run's members were planned in."""
    with Store(run / "study.db") as store:
        names = store.trials()["pack"]
    groups: dict[str, Pack] = {}
    for name, one in zip(names, planned, strict=True):
        groups.setdefault(str(name), []).append(one)
    return list(groups.values())


def _kind(config: Config) -> str:
    return "cuda" if config.resources.gpu else "cpu"


def _check_rungs(config: Config) -> None:
    try:
        make_rungs(config)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_trackers(config: Config) -> None:
    from gimtune.tuning.trackers import check

    check(config)


def _trial_config(config: Config, pack: Pack, run: Path) -> dict[str, Any]:
    return {
        "members": [member.to_json() for member in pack],
        "trials": [member.trial for member in pack],
        "name": pack_name(pack),
        "folder": str(run),
        "driver": _DRIVER,
        "cpu": config.resources.cpu,
        "gpu": config.resources.gpu,
    }


def _trial_name(trial: Any) -> str:
    first = Member.from_json(trial.config["pack"]["members"][0])
    return f"{first.model}-{first.prior['name']}-{first.trial}"


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite end on SIGTERM, as Tune has it on SIGINT: the run folder is whole either way, the tables are not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finish(config: Config, run: Path, console: Console) -> int:
    # the plotting libraries are slow to import, and needed at the end only
    from analysis.report import export, print_front

    study = load_run(run)
    failed = study.trials[study.trials["status"].isin([Status.FAILED, Status.DIVERGED])]
    try:
        paths = export(study, config.objectives)
        print_front(study, console, config.objectives, paths=paths)
    except ValueError as error:
        console.print(f"no front: {error}", **_PLAIN)
        for row in failed.to_dict("records"):
            console.print(f"{row['status']} {row['trial']} {row['model']}: {row['error']}", **_PLAIN)
    return 1 if len(failed) else 0


def _planned(run: Path) -> list[Member]:
    try:
        with Store(run / "study.db") as store:
            return [Member.from_json(text) for text in store.trials()["config"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"resume={run}: {str(error).splitlines()[0]}") from None


def _data(config: Config) -> Dataset:
    try:
        where = config.data
        return datasets.load(where.name, where.root, where.seed, where.download, where.pair)
    except (FileNotFoundError, ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def _check_features(config: Config) -> None:
    """Load the Inception weights once before Ray starts: they may be absent, damaged, or another network's."""
    if config.metrics.fid_features != "inception":
        return
    try:
        fid.Inception(config.metrics.inception_weights, torch.device("cpu"))
    except Exception as error:  # torch and the network raise a different type for every way a file can be wrong
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"metrics.inception_weights={config.metrics.inception_weights}: {reason}") from None


def _prepare(config: Config, data: Dataset, run: Path) -> None:
    if config.metrics.fid_features == "classifier":
        fid.provide(data, cache(), run / "features")


def _gpus(config: Config) -> int:
    return torch.cuda.device_count() if config.resources.gpu else 0


def _new_run(config: Config) -> Path:
    parent = check_storage(config) / config.name
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(1, 100))):
        run = parent / f"{stamp}{suffix}"
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        (run / "config.yaml").write_text(dump(config))
        (run / "environment.json").write_text(json.dumps(_environment(), indent=2) + "\n")
        return run
    raise ConfigError(f"storage_path={config.storage_path}: a hundred runs of this second are there already")


def _environment() -> dict[str, Any]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "git_commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of the checkout that this package is run from, ``-dirty`` with changes; ``None`` if it is not in one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _identity(config: Config, member: Member) -> dict[str, Any]:
    return {
        "trial": member.trial,
        "study": config.name,
        "model": member.model,
        "side": member.side,
        "restrictions": json.dumps([f"{match}_{divergence}" for match, divergence, _ in member.restrictions]),
        "likelihood_name": member.likelihood,
        "encoder": member.encoder,
        "prior": member.prior["name"],
        "weight": member.weight,
        "latent_dim": member.latent_dim,
        "seed": member.seed,
        "data": member.data["name"],
        "network": member.network["name"],
        "config": member.to_json(),
    }


def _print_plan(config: Config, made: list[Pack], console: Console) -> None:
    table = Table(title=f"{config.name}: {sum(map(len, made))} members in {len(made)} trials")
    for column in ("model", "prior", "weights", "latent_dim", "seeds", "members", "trials"):
        table.add_column(column, justify="left" if column in ("model", "prior") else "right")
    groups: dict[tuple[str, str], list[Pack]] = {}
    for pack in made:
        groups.setdefault((pack[0].model, pack[0].prior["name"]), []).append(pack)
    for (model, prior), found in groups.items():
        inside = [member for pack in found for member in pack]
        listed = [_several(getattr(m, key) for m in inside) for key in ("weight", "latent_dim", "seed")]
        table.add_row(model, prior, *listed, str(len(inside)), str(len(found)))
    console.print(table)
    first = made[0][0]
    budget = f"{first.epochs} epochs each, evaluated every {first.evaluate_every}, on {first.data['name']}"
    if config.search.sampler in SEQUENTIAL:
        budget = f"members drawn at random stand for those that {config.search.sampler} will suggest; {budget}"
    console.print(f"{budget}; nothing was started", **_PLAIN)


def _several(values: Iterable[float]) -> str:
    distinct = sorted(set(values))
    if len(distinct) <= 6:
        return " ".join(f"{value:g}" for value in distinct)
    return f"{distinct[0]:.3g} .. {distinct[-1]:.3g}"


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
