"""Studies on clusters: two nodes on this machine, joined, submitted to, refused; and what listens where."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml
from helpers import CLOCK

from gimtune import analysis
from gimtune.__main__ import main
from gimtune.study.composition import load
from gimtune.study.machine import cluster_address

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "howto" / "cluster"
STUDY = [
    "study=tradeoff",
    "models=[vae]",
    "space.prior=normal",
    "space.weight={grid: [0.1, 1]}",
    "space.seed={grid: [0, 1]}",
    "space.latent_dim=4",
    "network.hidden=[32]",
    "budget.epochs=4",
    "budget.evaluate_every=2",
    "resources.members=1",
]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a node or a driver: the token of this test's own cluster, and one cache for the session."""
    not_ours = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    kept = {k: v for k, v in os.environ.items() if k not in not_ours}
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return {**kept, **own, **more}


def gimtune(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gimtune", *arguments],
        cwd=folder,
        env=environment(folder, **more),
        text=True,
        capture_output=True,
        timeout=240,
    )


@contextmanager
def driving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A driver that runs meanwhile, and the file of what it says."""
    said = folder / "output.txt"
    with said.open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "gimtune", *arguments],
            cwd=folder, env=environment(folder), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield driver, said
        finally:
            if driver.poll() is None:
                driver.terminate()
                driver.wait(60)


def only_run(folder: Path) -> Path:
    (run,) = (folder / "results" / "tradeoff").iterdir()
    return run


def table(run: Path) -> pd.DataFrame:
    return analysis.load(run).trials.drop(columns=list(CLOCK))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Nodes:
    """Nodes started with ``ray start``, each a process group that ends with the test."""

    def __init__(self, folder: Path, gpus: int = 0, **more: str) -> None:
        self.folder, self.gpus, self.more = folder, gpus, more
        self.started: list[subprocess.Popen] = []
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        (folder / "token").write_text("0123456789abcdef" * 4)
        (folder / "token").chmod(0o644)
        # Ray's sockets need a short path
        self.temporary = Path(f"/tmp/gimtune-{os.getpid()}-{self.port}")

    def head(self, dashboard: bool = False) -> subprocess.Popen:
        return self._start(
            f"--head --port={self.port} --ray-client-server-port={free_port()} --temp-dir={self.temporary} "
            f"--include-dashboard={dashboard} --dashboard-port={self.dashboard}"
        )

    def join(self, before: str = "") -> subprocess.Popen:
        return self._start(f"--address={self.address}", before)

    def _start(self, options: str, before: str = "") -> subprocess.Popen:
        ray = Path(sys.executable).with_name("ray")
        # the agent, which answers for jobs, has a fixed port otherwise
        options += f" --dashboard-agent-listen-port={free_port()} --object-store-memory=150000000"
        options += f" --num-cpus={1 + self.gpus} --num-gpus={self.gpus}"
        command = f"{before} exec {ray} start {options} --block --disable-usage-stats"
        said = self.folder / f"node-{len(self.started)}.txt"
        shell = ["unshare", "-m", "bash", "-c"] if before else ["bash", "-c"]
        with said.open("w") as log:
            node = subprocess.Popen(
                [*shell, command],
                env=environment(self.folder, **self.more),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(node)
        deadline = time.monotonic() + 170
        while "Ray runtime started" not in said.read_text():
            assert node.poll() is None, said.read_text()
            assert time.monotonic() < deadline, said.read_text()
            time.sleep(0.3)
        return node

    def end(self, node: subprocess.Popen) -> None:
        inside = psutil.Process(node.pid).children(recursive=True) if node.poll() is None else []
        node.send_signal(signal.SIGTERM)
        try:
            node.wait(20)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        for process in psutil.wait_procs(inside, 5)[1]:
            process.kill()
        self.started.remove(node)

    def close(self) -> None:
        for node in reversed(self.started[:]):
            self.end(node)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes of one processor each, that share this machine's disk."""
    nodes = Nodes(tmp_path_factory.mktemp("cluster"))
    try:
        nodes.head()
        nodes.join()
        yield nodes
    finally:
        nodes.close()


def trainers(node: subprocess.Popen) -> set[int]:
    """Processes of a node that train at this moment."""
    found = set()
    for process in psutil.Process(node.pid).children(recursive=True):
        try:
            if "GimTrial" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_study_on_two_nodes_has_the_numbers_of_one(cluster):
    seen = [set(), set()]
    with driving(cluster.folder, *STUDY, f"ray.address={cluster.address}") as (driver, output):
        while driver.poll() is None:
            for found, node in zip(seen, cluster.started, strict=True):
                found |= trainers(node)
            time.sleep(1)
        said = output.read_text()
    assert driver.returncode == 0, said
    assert "joined the Ray cluster" in said
    assert "2 nodes" in said
    # both nodes trained
    assert all(seen), seen
    run = only_run(cluster.folder)
    assert not list(run.glob(".shared-*"))
    # joining tightens the token's file too
    assert (cluster.folder / "token").stat().st_mode & 0o077 == 0
    alone = cluster.folder / "alone"
    alone.mkdir()
    done = gimtune(alone, *STUDY, "ray.dashboard=false")
    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(table(run), table(only_run(alone)), check_exact=True)


#: Has trials take a GPU that is none for a processor, and note where they are and where the images lie.
STAND_IN = """
import importlib.util, json, os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "gimtune.tuning.trainable":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), patch(module.GimTrial))
        return spec

def patch(trial):
    start = trial._start
    def on_a_processor(self, config):
        import ray
        start(self, {**config, "gpu": 0})
        address = self._data.images["train"].__array_interface__["data"][0]
        lines = [line.split() for line in open("/proc/self/maps")]
        inside = [line for line in lines if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
        context = ray.get_runtime_context()
        seen = {"node": context.get_node_id(), "gpus": os.environ["CUDA_VISIBLE_DEVICES"], "pid": os.getpid()}
        seen |= {"memory": inside[0][3:6], "members": len(self._members)}
        with open(os.environ["GIMTUNE_SEEN"], "a") as file:
            file.write(json.dumps(seen) + "\\n")
    trial._start = on_a_processor

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
def test_packs_spread_over_the_gpus_of_a_cluster_and_each_node_holds_the_images_once(request, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    seen = tmp_path / "seen.txt"
    cluster = Nodes(tmp_path, gpus=1, PYTHONPATH=f"{tmp_path}:{ROOT}", GIMTUNE_SEEN=str(seen))
    request.addfinalizer(cluster.close)
    cluster.head()
    cluster.join()
    shares = ("resources=gpu", "resources.gpu=0.5", "resources.members=1", f"ray.address={cluster.address}")
    done = gimtune(tmp_path, *STUDY, *shares)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(analysis.load(only_run(tmp_path)).trials["status"]) == {"done"}
    packs = pd.DataFrame(map(json.loads, seen.read_text().splitlines()))
    # four packs by four workers: two on each node, which share its GPU
    assert packs["members"].tolist() == [1] * 4
    assert set(packs["gpus"]) == {"0"}
    assert packs.groupby("node")["pid"].nunique().tolist() == [2, 2]
    # in what a node's workers have in common, and not in memory of their own
    where = packs["memory"].map(tuple)
    assert where.map(lambda one: one[-1].startswith("/dev/shm/plasma")).all(), set(where)
    assert where.groupby(packs["node"]).nunique().tolist() == [1, 1]
    assert where.nunique() == 2


@pytest.mark.slow
def test_a_job_joins_its_own_cluster(request, tmp_path):
    cluster = Nodes(tmp_path)
    request.addfinalizer(cluster.close)
    cluster.head(dashboard=True)
    folder = tmp_path / "job"
    folder.mkdir()
    ray = Path(sys.executable).with_name("ray")
    submit = [ray, "job", "submit", "--", sys.executable, "-m", "gimtune", *STUDY, f"storage_path={folder}/results"]
    done = subprocess.run(
        submit,
        env=environment(cluster.folder, RAY_ADDRESS=f"http://127.0.0.1:{cluster.dashboard}"),
        text=True,
        capture_output=True,
        timeout=240,
        cwd=folder,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "joined the Ray cluster" in said
    assert "Pareto front" in said
    assert set(analysis.load(only_run(folder)).trials["status"]) == {"done"}


@pytest.mark.slow
def test_a_node_that_does_not_share_the_folder_is_refused_before_anything_is_written(cluster, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", results], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of its own is not permitted here")
    (tmp_path / "token").write_text((cluster.folder / "token").read_text())
    node = cluster.join(f"mount -t tmpfs none {results};")
    try:
        done = gimtune(tmp_path, *STUDY, f"ray.address={cluster.address}")
    finally:
        cluster.end(node)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("storage_path=results: node ")
    assert socket.gethostname() in done.stderr
    assert "every node of the cluster" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(results.iterdir())


@pytest.mark.slow
def test_a_wrong_token_is_refused(cluster, tmp_path):
    (tmp_path / "token").write_text("f" * 64)
    done = gimtune(tmp_path, *STUDY, f"ray.address={cluster.address}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"ray.address={cluster.address}: " in done.stderr
    assert not (tmp_path / "results" / "tradeoff").exists()


@pytest.mark.parametrize("key", ["ray.address", "RAY_ADDRESS"])
def test_an_address_where_no_ray_answers_is_refused_at_once(key, tmp_path, monkeypatch, capsys):
    import gimtune.tuning.cluster  # noqa: F401 - before the clock starts: a busy machine takes its time

    monkeypatch.chdir(tmp_path)
    # somebody listens there, and never says a word
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        started = time.monotonic()
        assert main([*STUDY, *([f"ray.address={address}"] if key == "ray.address" else [])]) == 2
    # `ray.init` by itself waits for two minutes
    assert time.monotonic() - started < 60
    assert f"{key}={address}: no Ray cluster answers" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.db"))


def test_what_a_job_is_submitted_to_is_no_cluster_to_join(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert cluster_address(load([])) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(load([])) == "10.0.0.1:6379"
    assert cluster_address(load(["ray.address=10.0.0.2:6379"])) == "10.0.0.2:6379"
    assert cluster_address(load(["ray.address=local"])) is None


def test_the_example_for_ray_up_is_what_ray_up_reads():
    from ray.autoscaler._private.util import prepare_config, validate_config

    stated = yaml.safe_load((DOCS / "ray-up.yaml").read_text())
    validate_config(prepare_config(stated))
    started = " ".join(stated["head_start_ray_commands"] + stated["worker_start_ray_commands"])
    assert started.count("RAY_AUTH_MODE=token") == 2


def test_the_example_for_kuberay_is_whole():
    claim, job = yaml.safe_load_all((DOCS / "kuberay.yaml").read_text())
    assert (claim["kind"], claim["spec"]["accessModes"]) == ("PersistentVolumeClaim", ["ReadWriteMany"])
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (pinned,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert pinned == f"ray=={cluster['rayVersion']}"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert [m["mountPath"] for c in pod["containers"] for m in c["volumeMounts"]] == ["/results"]
    # and its entry point is a study that can be had
    arguments = shlex.split(job["spec"]["entrypoint"])
    assert arguments[:3] == ["python", "-m", "gimtune"]
    assert load(arguments[3:]).storage_path == "/results"


def listening(process: psutil.Process) -> set[tuple[str, str, int]]:
    """Name, address and port of every listening socket of a process and of what it started."""
    found = set()
    for one in [process, *process.children(recursive=True)]:
        try:
            sockets, name = one.net_connections("inet"), one.name()
        except psutil.Error:
            continue
        found |= {(name, s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
def test_a_study_listens_on_the_loopback_address_alone(tmp_path):
    found = set()
    with driving(tmp_path, *STUDY) as (driver, output):
        while driver.poll() is None:
            found |= listening(psutil.Process(driver.pid))
            time.sleep(1)
        assert driver.returncode == 0, output.read_text()
    # the driver, Ray's own processes, and workers in training
    assert {"gcs_server", "raylet"} <= {name for name, _, _ in found}
    assert any("GimTrial" in name for name, _, _ in found)
    assert {ip for _, ip, _ in found} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
