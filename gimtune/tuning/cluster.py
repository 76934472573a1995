"""Ray started here, on the loopback address alone, or a running cluster joined, whose nodes share the storage."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address
from ray._private.utils import get_num_cpus
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.job_config import JobConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gimtune.study.machine import check_machine, processors
from gimtune.study.messages import ConfigError
from gimtune.study.schema import Config

_STORE_BYTES = 256 * 2**20
_ANSWER_SECONDS = 5.0
_STARTS = 3
_SHARE_SECONDS = 120.0
# an NFS client may show a new file a moment later
_VISIBLE_SECONDS = 10.0
_QUIET: Any = {"log_to_driver": False, "logging_level": logging.ERROR}


def secure_token(make: bool = True) -> None:
    """Tighten the file of Ray's token; make it before Ray does, who would leave it readable by all."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if make:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writable = os.access(path.parent, os.W_OK)
        except OSError:
            writable = False
        if not writable and not path.is_file():
            # Ray would give up; a token of this process and those that it starts serves as well
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            return
        with (
            suppress(OSError) if not writable else nullcontext(),
            suppress(FileExistsError),
            os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle,
        ):
            handle.write(secrets.token_hex(32))
    if path.is_file() and path.stat().st_uid == os.getuid():
        path.chmod(0o600)


@contextmanager
def joined(config: Config, address: str, folder: Path, kept: Callable[[], None]) -> Iterator[None]:
    """A running cluster, for the time of a study, once it is known to serve: before anything of a run is written.

    Args:
        address: ``HOST:PORT``, or ``auto``.
        folder: is to be shared by all of its nodes.
        kept: installs handlers of signals, since Ray takes that of SIGTERM away as it ends, without Python's knowledge.

    Raises:
        ConfigError: no cluster answers there, it does not let us in, no node has what a trial asks for, or a node does
            not share the folder.
    """
    secure_token(make=False)
    try:
        ray.init(_found(address), job_config=_named(config), **_QUIET)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        given = "ray.address" if config.ray.address else "RAY_ADDRESS"
        raise ConfigError(f"{given}={address}: {' '.join(str(error).split())[:300]}") from None
    try:
        alive = _alive()
        check_machine(config, [(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in alive])
        files = (config.metrics.inception_weights, config.metrics.features_file)
        check_shared(config, folder, alive, [path for path in files if path and "://" not in path])
        yield
    finally:
        _shut_down(kept)


@contextmanager
def connected(config: Config, data_bytes: int, kept: Callable[[], None] | None = None) -> Iterator[str]:
    """Ray, joined before or started here; yields one line for the user on where to look.

    Args:
        kept: as of `joined`.

    Raises:
        ConfigError: no port is free for the dashboard, or Ray counts fewer processors than the machine has.
        ConnectionError: Ray did not start.
    """
    if ray.is_initialized():
        there: Any = ray.init(ignore_reinit_error=True, **_QUIET)
        head = there.address_info["gcs_address"]
        yield f"joined the Ray cluster at {head}, {len(_alive())} nodes; {_look(there.dashboard_url)}"
        return
    secure_token()
    with free_port(config.ray.dashboard_port) as port:
        context = _started(
            # Ray counts what a container's quota leaves, and not what a mask does
            num_cpus=min(processors(), int(get_num_cpus(override_docker_cpu_warning=True))),
            job_config=_named(config),
            include_dashboard=config.ray.dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=port,
            object_store_memory=_STORE_BYTES + 4 * data_bytes,
            _node_ip_address="127.0.0.1",
        )
    try:
        # what Ray counts, which in a container is less than the machine has
        check_machine(config, [(n["Resources"].get("CPU", 0), n["Resources"].get("GPU", 0)) for n in _alive()])
        yield _look(context.dashboard_url)
    finally:
        _shut_down(kept)


def _shut_down(kept: Callable[[], None] | None) -> None:
    """End Ray, with ``kept`` called when this process has left it, and before its processes are waited for."""
    if kept is None:
        ray.shutdown()
        return
    if (node := ray._private.worker._global_node) is not None:
        kill = node.kill_all_processes

        def killed(*arguments: Any, **options: Any) -> Any:
            kept()
            return kill(*arguments, **options)

        node.kill_all_processes = killed
    ray.shutdown()
    kept()


def _started(**options: Any) -> Any:
    """A Ray of this process, in up to `_STARTS` tries.

    A raylet gives up 30 s after it has begun to wait for its agents, which on a busy machine are not imported by then.

    Raises:
        ConnectionError: it did not start.
    """
    for left in reversed(range(_STARTS)):
        before = set(psutil.Process().children(recursive=True))
        try:
            return ray.init("local", **options, **_QUIET)
        except BaseException as error:
            begun = set(psutil.Process().children(recursive=True)) - before
            for process in begun:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(begun, 5)
            if not isinstance(error, Exception):
                raise
            # of no type of its own where a process of Ray's dies, or is late
            if not left or signal.sigpending():  # somebody asked the program to end meanwhile
                raise ConnectionError(f"Ray did not start: {' '.join(str(error).split())[:300]}") from error
    raise AssertionError


def _named(config: Config) -> JobConfig:
    """What the dashboard's list of jobs shows; a name given to `ray job submit` wins."""
    return JobConfig(metadata={"job_name": config.name})


def _look(url: str | None) -> str:
    if not url:
        return "no dashboard"
    return f"Ray dashboard: http://{url} (it asks for a token: `ray get-auth-token` prints it)"


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _found(address: str) -> str:
    """``HOST:PORT`` of the cluster that ``address`` means, which answers.

    `ray.init` waits for minutes where nobody answers, and takes for ``auto`` any Ray of this machine, such as another
    study's own; here it is the one that ``ray start`` made.

    Raises:
        ConnectionError: there is none.
    """
    if address == "auto":
        started = find_bootstrap_address(None)
        if started is None:
            raise ConnectionError("`ray start` has started no cluster on this machine")
        address = started
    place = str(canonicalize_bootstrap_address(address))
    # with TLS among the nodes only Ray knows the certificates
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        with grpc.insecure_channel(place) as channel:
            try:
                channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=_ANSWER_SECONDS)
            except grpc.RpcError as error:
                # a server that wants a token first is one
                if error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    raise ConnectionError(f"no Ray cluster answers at {place}") from None
    return place


def check_shared(config: Config, folder: Path, nodes: Sequence[dict[str, Any]], needed: Sequence[str] = ()) -> None:
    """On every node, read what this process wrote into ``folder`` and write what it reads.

    Args:
        nodes: as `ray.nodes` has them.
        needed: files that every node is to have.

    Raises:
        ConfigError: naming the node that cannot, and why.
    """
    probe, nonce = folder / f".shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    probe.mkdir()
    try:
        (probe / "driver").write_text(nonce)
        asked = [
            _share.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(probe), node["NodeID"], nonce, list(needed)
            )
            for node in nodes
        ]
        end = time.monotonic() + _SHARE_SECONDS
        for node, answer in zip(nodes, asked, strict=True):
            try:
                ray.get(answer, timeout=max(0.0, end - time.monotonic()))
                _expect(probe / node["NodeID"], nonce)
            except Exception as error:  # whatever it is, this node cannot take part
                raise ConfigError(
                    f"storage_path={config.storage_path}: node {node['NodeManagerHostname']} "
                    f"({node['NodeManagerAddress']}, {node['NodeID'][:8]}) {_why(error)}; allowed is a folder that "
                    f"every node of the cluster reads and writes under the same path, as on NFS"
                ) from None
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def _why(error: Exception) -> str:
    cause = error.cause if isinstance(error, RayTaskError) else error
    if "failed to import" in str(cause):
        return "cannot import gimtune; install it there too"
    if isinstance(cause, GetTimeoutError):
        return f"did not answer within {_SHARE_SECONDS:g} s"
    return f"does not share it ({type(cause).__name__}: {(str(cause).splitlines() or [''])[0][:160]})"


@ray.remote(num_cpus=0, max_retries=0)
def _share(probe: str, name: str, nonce: str, needed: list[str]) -> None:
    _expect(Path(probe) / "driver", nonce)
    (Path(probe) / name).write_text(nonce)
    for path in needed:
        with Path(path).open("rb"):
            pass


def _expect(path: Path, nonce: str) -> None:
    end = time.monotonic() + _VISIBLE_SECONDS
    while True:
        try:
            if path.read_text() == nonce:
                return
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
        if time.monotonic() > end:
            raise OSError(f"{path}: not what was written there")
        time.sleep(0.2)


@contextmanager
def free_port(wanted: int) -> Iterator[int]:
    """The first free port from ``wanted`` on: Ray gives up where a named one is taken, by a second study, say.

    A study that starts at the same moment takes another: Ray binds to it seconds later.
    """
    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe, socket.socket(socket.AF_UNIX) as claim:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # a name without a file, which the kernel gives up when this process dies
                claim.bind(f"\0gimtune-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            probe.close()
            yield port
            return
    raise ConfigError(f"ray.dashboard_port={wanted}: no free port in the hundred from there on")
