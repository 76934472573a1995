"""A study from its plan to its last row: launched anew or resumed, on whatever part is not finished.

Resuming reads ``config.yaml`` and ``study.db``, starts a fresh Tuner over the packs that have not ended, and unpickles
nothing; a pack that finds its checkpoint goes on from it.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gimtune import parts
from gimtune.interruption import Interrupted, Interruption, last_word
from gimtune.metrics import FEATURES, MEASURES, features
from gimtune.results import folder, mirror
from gimtune.results.backup import back_up
from gimtune.results.carry import carry
from gimtune.results.environment import environment
from gimtune.results.store import Store
from gimtune.study.composition import dump
from gimtune.study.machine import check_storage
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config
from gimtune.training import pack_name
from gimtune.tuning.packs import Pack, asked, called, longest_first
from gimtune.tuning.plan import Plan, to_go
from gimtune.vocabulary import ENDED, Member, Metric

#: Of one trial, over its whole life; `gimtune.tuning.attempts` gives up much sooner where nothing is gained.
_FAILURES = 1000
#: This process, for workers to tell its starts from those of an earlier one.
_DRIVER = secrets.token_hex(4)
#: Trials that wait for a worker, as Ray has it for a grid.
_PENDING = 200
_PLAIN: Any = {"soft_wrap": True, "highlight": False, "markup": False}


def launch(plan: Plan, console: Console, finish: Callable[[Path], int]) -> int:
    """Run a study to its end.

    Args:
        finish: prints and writes what there is to say of a run whose members have all ended; returns the exit code.

    Returns:
        0, 1 with failed members, 130 interrupted, 143 by SIGTERM, 129 by SIGHUP.

    Raises:
        ConfigError: no storage, or a cluster that does not serve; nothing was started.
    """
    with Interruption() as interruption:
        return _launch(plan, console, finish, interruption)


def _launch(plan: Plan, console: Console, finish: Callable[[Path], int], interruption: Interruption) -> int:
    config, run = plan.config, plan.run
    if plan.address is None:
        # Ray reads it when it is imported, and knows no other way to keep all of its ports on the loopback address
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    stopped, unwritten = None, False
    joins = plan.address and (run is None or to_go(config, run))
    with _joined(config, str(plan.address), run, interruption) if joins else nullcontext():
        interruption.install()
        if run is None:
            run = _new_run(plan)
        resumed = f"Go on with:\n  {folder.go_on(_address(config, run) or folder.relative(run))}"
        with last_word(f"Interrupted. {resumed}"), _copied(config, run, console):
            try:
                with folder.held(run) as alone:
                    if not alone:
                        raise ConfigError(f"resume={run}: another driver is at work on this run folder")
                    stopped = _run_and_annotate(plan, run, console, interruption)
            except Interrupted as error:
                interruption.number = error.number
            except KeyboardInterrupt:
                pass
            finally:
                interruption.noted = False
            left = to_go(config, run)
            code = interruption.code
            if not left:
                interruption.number = None  # it came too late to interrupt anything
                try:
                    code = finish(run)
                except Interrupted as error:
                    code, unwritten = error.code, True
    if left or unwritten:
        if stopped:
            console.print(f"Stopped by the machine: {stopped}", **_PLAIN)
        what = f"{left} members to go" if left else "its report to write"
        console.print(f"Interrupted with {what}. {resumed}", **_PLAIN)
    return code


def _new_run(plan: Plan) -> Path:
    """A run folder with its configuration, its environment and its planned members."""
    config = plan.config
    run = folder.make(check_storage(config) / config.name, lambda fresh: _begin(plan, fresh))
    if run is None:
        raise ConfigError(f"storage_path={config.storage_path}: a hundred runs of this second are there already")
    return run


def _begin(plan: Plan, run: Path) -> None:
    (run / "config.yaml").write_text(dump(plan.config))
    (run / "environment.json").write_text(json.dumps(environment(parts.plugins(), plan.made), indent=2) + "\n")
    fill(plan, run)
    back_up(run)


def fill(plan: Plan, run: Path) -> None:
    """Write a run's results as they are before it begins: facts about the study, and its planned members."""
    config = plan.config
    with Store(run / "study.db", create=True) as store:
        store.annotate(
            name=config.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            objectives=json.dumps(dict(config.objectives)),
            constraints=json.dumps(config.bounds),
            # a search's are not planned yet; whoever asks for its status has to know
            members=str(plan.total),
            epochs=str(config.budget.epochs),
            metrics=json.dumps([vars(column) for column in _own_metrics()]),
            sources=json.dumps(_sources()),
            data_digest=plan.data.digest,
            config=dump(config),
            reused=json.dumps({str(taken.run): taken.trials for taken in plan.taken}),
        )
        known, reports = carry(plan.taken, run, store)
        named = {member.trial: pack_name(pack) for pack in plan.packs for member in pack}
        begun = {*known, *named}
        store.plan(
            (
                {**known.get(member.trial, {"pack": named.get(member.trial)}), **identity(config, member)}
                for member in plan.planned
                if member.trial in begun
            ),
            reports,
        )


def _sources() -> dict[str, dict[str, str]]:
    """Publications by kind of part and name: what a study owes to whom is read without its parts."""
    every = {
        kind: {registry.label(key): registry.facts(key).source for key in registry}
        for kind, registry in parts.registries().items()
    }
    return {kind: {name: text for name, text in found.items() if text} for kind, found in every.items()}


def _own_metrics() -> list[Metric]:
    """Metrics of plug-ins: whoever reads the run need not have them."""
    return [c for measure in MEASURES.values() if not measure.ours for c in measure.columns]


def _address(config: Config, run: Path) -> str | None:
    """Where a run is copied to."""
    return f"{config.storage_path}/{config.name}/{run.name}" if mirror.is_address(config.storage_path) else None


def _copied(config: Config, run: Path, console: Console) -> AbstractContextManager[None]:
    if (address := _address(config, run)) is None:
        return nullcontext()
    console.print(f"copied to {address} every {mirror.EVERY:.0f} s", **_PLAIN)
    return mirror.mirrored(run, address, lambda text: console.print(f"note: {text}", **_PLAIN))


def _joined(config: Config, address: str, run: Path | None, interruption: Interruption) -> AbstractContextManager[None]:
    from gimtune.tuning.cluster import joined

    return joined(config, address, run or check_storage(config), interruption.install)


def _run_and_annotate(plan: Plan, run: Path, console: Console, interruption: Interruption) -> str | None:
    """Run what is not finished; returns what the machine lacked where it ended early."""
    config = plan.config
    settings, notes = config.metrics.model_dump(), list[str]()
    _check_ruler(plan, run)
    # a feature network that is trained needs no Ray: it is made while Ray starts, and the workers wait for its file
    background = threading.Thread(target=lambda: notes.append(features.begin(plan.data, settings, run)), daemon=True)
    background.start()
    with Store(run / "study.db", create=True) as store:
        try:
            _run(plan, run, store, console, interruption)
        except ConfigError:
            raise
        except Exception as error:
            if (reason := _machine(error)) is None:
                raise
            return reason
        if interruption.number is not None:
            return None
        background.join()
        for note in filter(None, notes):
            console.print(f"note: {note}", **_PLAIN)
        network = features.load(plan.data, settings, run, torch.device("cpu"))
        store.annotate(fid_features=network.name, **FEATURES[config.metrics.fid_features].facts(network))
    return None


def _check_ruler(plan: Plan, run: Path) -> None:
    """Refuse to go on with distances that would not compare with those that are there.

    Raises:
        ConfigError: the run's feature network is gone, or this version makes another.
    """
    with Store(run / "study.db") as store:
        compared = {str(name) for name in store.trials()["fid_features"].dropna()}
    if not compared or not to_go(plan.config, run):
        return
    try:
        name = features.load(plan.data, plan.config.metrics.model_dump(), run, torch.device("cpu")).name
    except ValueError as error:
        raise ConfigError(f"resume={run}: {error}") from None
    if compared != {name}:
        raise ConfigError(
            f"resume={run}: its members were compared by {' and '.join(sorted(compared))}, and would be by {name}: "
            f"features/{features.RULER} is gone or changed, and this version or machine makes another; "
            "put it back, or begin another study"
        )


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


def _run(plan: Plan, run: Path, store: Store, console: Console, interruption: Interruption) -> None:
    """Ray Tune over the packs that have not ended."""
    config, sequential, total = plan.config, plan.sequential, plan.total
    # workers of this machine open the files that it holds; those of a cluster are sent the arrays, once for each node
    data = plan.data if plan.address is None else plan.data.carried()
    statuses = store.statuses()
    todo = longest_first(pack for pack in plan.packs if any(statuses[m.trial] not in ENDED for m in pack))
    if not todo and len(statuses) == total:
        for note in plan.notes:
            console.print(f"note: {note}", **_PLAIN)
        return
    from ray import tune
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

    from gimtune.tuning.cluster import connected
    from gimtune.tuning.gauges import Gauges
    from gimtune.tuning.recorder import Quiet, Recorder
    from gimtune.tuning.retention import BackUp, Retention
    from gimtune.tuning.scheduler import scheduler
    from gimtune.tuning.stopping import Stopping
    from gimtune.tuning.trackers import trackers
    from gimtune.tuning.trainable import GimTrial

    size = 0 if data.mapped else data.nbytes
    with interruption.shielded(connected(config, size, interruption.install)) as where:
        stopping = Stopping(interruption, run, _DRIVER, config.stop.grace, console)
        packed = "one pack" if len(plan.packs) == 1 else f"{len(plan.packs)} packs"
        parts = f"by {config.search.sampler}" if sequential else f"in {packed}"
        notes = (f"note: {note}" for note in (*plan.notes, *data.notes))
        store.annotate(dataset=data.described)
        for line in (f"{total} members {parts}, run folder {folder.relative(run)}", data.described, where, *notes):
            console.print(line, **_PLAIN)
        trainable = tune.with_parameters(GimTrial, data=data)
        trainable.__qualname__ = GimTrial.__qualname__  # what the dashboard and `ps` show
        shown = Gauges(config.name, run.name)
        recorded = Recorder(store, config.budget.epochs, dict(config.objectives), total, console, shown)
        with recorded as recorder, stopping.watched():
            searcher = _searcher(plan, todo, run, recorder, lambda: stopping.stopping)
            # planned trials may wait for their workers to start all together; Optuna is asked as late as can be
            os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "1" if sequential else str(_PENDING)
            callbacks = [recorder, stopping, Quiet(), BackUp(run), *trackers(config, run, console)]
            if config.checkpoints == "front":
                callbacks.append(Retention(store, run, dict(config.objectives)))
            Tuner(
                trainable,
                tune_config=TuneConfig(
                    reuse_actors=True,
                    trial_name_creator=_trial_name,
                    trial_dirname_creator=_trial_name,
                    scheduler=scheduler(config, store, todo, run, lambda: stopping.stopping),
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


def _searcher(plan: Plan, todo: list[Pack], run: Path, recorder: Any, stopping: Callable[[], bool]) -> Any:
    from gimtune.tuning.suggest import Suggestions

    config = plan.config
    if not plan.sequential:
        return Suggestions(todo, lambda pack: _trial_config(config, pack, run), stopping=stopping)
    from gimtune.tuning.search import Proposals

    store: Store = recorder.store
    known = store.trials()
    compared = config.search.warm_start and features.load(
        plan.data, config.metrics.model_dump(), run, torch.device("cpu"), keep=True
    )
    proposals = Proposals(config, run, known, compared.name if compared else None)
    for note in proposals.notes:
        recorder.console.print(f"note: {note}", **_PLAIN)

    def begin(pack: Pack) -> dict[str, Any]:
        _plan(config, store, [pack])
        recorder.add(one.trial for one in pack)
        return _trial_config(config, pack, run)

    return Suggestions(
        todo,
        begin,
        proposals,
        plan.total - len(known),
        lambda first: asked(first, config.resources.members, plan.data.image, plan.device, plan.room),
        stopping,
    )


def _plan(config: Config, store: Store, made: list[Pack]) -> None:
    store.plan({**identity(config, member), "pack": pack_name(pack)} for pack in made for member in pack)


def _trial_config(config: Config, pack: Pack, run: Path) -> dict[str, Any]:
    return {
        "members": [member.to_json() for member in pack],
        "trials": [member.trial for member in pack],
        "name": pack_name(pack),
        "folder": str(run),
        "driver": _DRIVER,
        "cpu": config.resources.cpu,
        "gpu": config.resources.gpu,
        "cuda_graphs": config.resources.cuda_graphs,
        "scheduled": config.scheduler.name != "fifo",
        "plugins": dict(parts.plugins()),
    }


def _trial_name(trial: Any) -> str:
    first = Member.from_json(trial.config["pack"]["members"][0])
    return f"{first.model}-{first.prior['name']}-{first.trial}"


def identity(config: Config, member: Member) -> dict[str, Any]:
    """Columns of a member that say what it is."""
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
        "data": called(member.data),
        "network": member.network["name"],
        "config": member.to_json(),
        "assignment": json.dumps(member.assignment),
    }
