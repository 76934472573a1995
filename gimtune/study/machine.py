"""What a study asks of the machine or the cluster, and where its runs go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gimtune.results import mirror
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config

#: Bytes of a socket's path, and of what Ray writes behind its folder.
_LONGEST_SOCKET = 107
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


def cluster_address(config: Config) -> str | None:
    """Address of the running cluster to join; ``None`` for a Ray of the study's own."""
    address = config.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    # the URL in RAY_ADDRESS is where `ray job submit` goes, and no cluster to join
    return None if address == "local" or "://" in address else address


def processors() -> int:
    """Processors that this process may use: of a machine that is shared, those that Slurm, a container or `taskset`
    leave to it."""
    return len(os.sched_getaffinity(0))


def check_machine(config: Config, nodes: Sequence[tuple[float, float]]) -> None:
    """Refuse more per trial than any node has: Ray would wait for ever.

    Args:
        nodes: CPUs and GPUs of each.

    Raises:
        ConfigError: naming the key.
    """
    wanted = config.resources
    where = "cluster's nodes have" if cluster_address(config) else "machine has"
    for key, most in (("cpu", max(c for c, _ in nodes)), ("gpu", max(g for _, g in nodes))):
        if getattr(wanted, key) > most:
            raise ConfigError(f"resources.{key}={getattr(wanted, key):g}: this {where} {most:g}")
    if not any(wanted.cpu <= cpu and wanted.gpu <= gpu for cpu, gpu in nodes):
        raise ConfigError(f"resources.cpu={wanted.cpu:g} with resources.gpu={wanted.gpu:g}: no node has both")


def check_temporary(config: Config) -> None:
    """Refuse a folder for temporary files in which a Ray of the study's own could not start.

    Raises:
        ConfigError: its path is too long for Ray's sockets, or it cannot be written to, being another user's, say.
    """
    if cluster_address(config):
        return
    key = next((key for key in ("RAY_TMPDIR", "TMPDIR") if key in os.environ), "RAY_TMPDIR")
    folder = Path(os.environ.get(key, "/tmp"), "ray")
    advice = "RAY_TMPDIR=FOLDER has Ray keep its sockets and logs elsewhere"
    if len(os.fsencode(folder)) > _LONGEST_SOCKET - len(_SOCKET):
        allowed = _LONGEST_SOCKET - len(_SOCKET) - len("/ray")
        raise ConfigError(f"{key}={folder.parent}: a path of {allowed} bytes at most, for Ray's sockets; {advice}")
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}={folder.parent}: {above} cannot be written to; {advice}")


def storage(config: Config) -> Path:
    """The folder for the runs; that of this machine where they are copied to an object store."""
    place = config.storage_path
    return mirror.folder(place) if mirror.is_address(place) else Path(place).expanduser()


def check_storage(config: Config) -> Path:
    """The folder for the runs, made if need be.

    Raises:
        ConfigError: it cannot be written to.
    """
    if mirror.is_address(config.storage_path):
        try:
            mirror.check(config.storage_path)
        except OSError as error:
            raise ConfigError(f"storage_path={config.storage_path}: {str(error).splitlines()[0]}") from None
    path = storage(config).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise ConfigError(f"storage_path={config.storage_path}: {error.strerror}") from None
    if not writable:
        raise ConfigError(f"storage_path={config.storage_path}: cannot be written to")
    return path
