"""What a study asks of the machine or the cluster, and where its runs go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gimtune.results import mirror
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config


def cluster_address(config: Config) -> str | None:
    """Address of the running cluster to join; ``None`` for a Ray of the study's own."""
    address = config.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    # the URL in RAY_ADDRESS is where `ray job submit` goes, and no cluster to join
    return None if address == "local" or "://" in address else address


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
