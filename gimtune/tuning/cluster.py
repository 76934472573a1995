"""Ray started here or joined: loopback only, token authentication on, its file readable by its owner alone."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.job_config import JobConfig

from gimtune.config import Config, ConfigError

_STORE_BYTES = 256 * 2**20


def secure_token() -> None:
    """Make Ray's token before Ray does, who would leave it readable by all; tighten one that is there."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(secrets.token_hex(32))
    except FileExistsError:
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)


@contextmanager
def connected(config: Config, data_bytes: int) -> Iterator[str]:
    """Ray, for the time of a study; yields one line for the user on where to look.

    Raises:
        ConfigError: no cluster answers at ``ray.address``.
    """
    secure_token()
    # what the dashboard's list of jobs shows; a name given to `ray job submit` wins
    name = JobConfig(metadata={"job_name": config.name})
    if config.ray.address:
        try:
            context = ray.init(config.ray.address, job_config=name, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"ray.address={config.ray.address}: {str(error).splitlines()[0]}") from None
    else:
        context = ray.init(
            "local",
            job_config=name,
            include_dashboard=config.ray.dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=_free_port(config.ray.dashboard_port),
            object_store_memory=_STORE_BYTES + 4 * data_bytes,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    try:
        url = context.dashboard_url
        yield (
            f"Ray dashboard: http://{url} (it asks for a token: `ray get-auth-token` prints it)"
            if url
            else "no dashboard"
        )
    finally:
        ray.shutdown()


def _free_port(wanted: int) -> int:
    """The first free port from ``wanted`` on: Ray gives up where a named one is taken, by a second study, say."""
    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigError(f"ray.dashboard_port={wanted}: no free port in the hundred from there on")
