"""What others see of a study: gauges and the board that shows them, TensorBoard's files, MLflow's and W&B's runs."""

import io
import json
import math
import re
import struct
from pathlib import Path

import pytest
from helpers import member
from rich.console import Console

from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.tuning.cluster import secure_token
from gimtune.tuning.gauges import GAUGES, Gauges
from gimtune.tuning.trackers import Tracker, check, parameters, readable, trackers
from gimtune.tuning.trainable import result as seen
from gimtune.vocabulary import Status

BOARD = json.loads((Path(__file__).parents[1] / "docs" / "howto" / "grafana.json").read_text())
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}


# The board


def queries():
    """Every expression of the board, its variables' among them."""
    yield from (target["expr"] for panel in BOARD["panels"] for target in panel["targets"])
    yield from (re.fullmatch(r"label_values\((.*), (\w+)\)", v["query"]["query"])[1] for v in queried())


def queried():
    return [variable for variable in VARIABLES.values() if variable["type"] == "query"]


@pytest.mark.parametrize("expression", sorted(set(queries())))
def test_the_board_asks_for_what_is_exported(expression):
    found = re.findall(r"(ray_gimtune_\w+)(?:{([^}]*)})?", expression)
    assert found
    for name, labels in found:
        own = {"study", "run", *GAUGES[name.removeprefix("ray_")][0]}
        assert set(re.findall(r"(\w+)=", labels)) <= own
    assert set(re.findall(r"\$(\w+)", expression)) <= set(VARIABLES)
    statuses = re.findall(r'status=~"([^"]*)"', expression)
    assert {status for text in statuses for status in text.split("|")} <= set(Status)


def test_every_gauge_is_on_the_board():
    shown = {name for text in queries() for name in re.findall(r"ray_(gimtune_\w+)", text)}
    assert shown == set(GAUGES)


def test_variables_take_the_values_of_a_label_that_is_there():
    for variable in queried():
        gauge, label = re.fullmatch(r"label_values\(ray_(\w+?)(?:{.*})?, (\w+)\)", variable["query"]["query"]).groups()
        assert label == variable["name"]
        assert label in {"study", "run", *GAUGES[gauge][0]}
    assert VARIABLES["datasource"]["query"] == "prometheus"


def test_panels_stand_side_by_side():
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel.get("repeat", "metric") in VARIABLES
        for other in panels:
            there = other["gridPos"]
            assert other is panel or not (
                place["x"] < there["x"] + there["w"]
                and there["x"] < place["x"] + place["w"]
                and place["y"] < there["y"] + there["h"]
                and there["y"] < place["y"] + place["h"]
            )
        for legend in re.findall(r"{{(\w+)}}", panel["targets"][0]["legendFormat"]):
            assert f"by ({legend})" in panel["targets"][0]["expr"]


@pytest.mark.slow
def test_gauges_are_at_the_nodes_metrics_endpoint(tmp_path):
    import socket
    import time
    import urllib.request

    import pandas as pd
    import ray

    from gimtune.analysis import front
    from gimtune.results.tally import Tally

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rows = [{"fid": 5.0, "probe_codes": 0.5}, {"fid": 7.0, "probe_codes": 0.75}]
    best = front(pd.DataFrame(rows).assign(status="done", data="digits", fid_features="classifier"))
    tally = Tally(5, 10, [("a", Status.DONE, 10), ("b", Status.DONE, 10), ("c", Status.RUNNING, 5)])
    secure_token()
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 500},
    )
    try:
        gauges = Gauges("tradeoff", "20260101-120000")
        gauges.show(tally, best, 20.0, {("vae", "mi_q"): 3.5, ("vae", "fid"): math.nan})
        deadline, text = time.monotonic() + 60, ""
        while "gimtune_latest" not in text and time.monotonic() < deadline:
            time.sleep(0.5)
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    finally:
        ray.shutdown()
    seen = {}
    for name, labels, value in re.findall(r"^ray_(gimtune_\w+){(.*)} (\S+)$", text, re.MULTILINE):
        found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert (found["study"], found["run"]) == ("tradeoff", "20260101-120000")
        seen[name, *(found[label] for label in GAUGES[name][0])] = float(value)
    counts = {"planned": 2, "running": 1, "done": 2, "stopped": 0, "diverged": 0, "failed": 0}
    assert seen == {
        **{("gimtune_members", status): count for status, count in counts.items()},
        ("gimtune_epochs",): 25,
        ("gimtune_seconds_left",): 20,
        ("gimtune_front_size",): 2,
        ("gimtune_hypervolume",): pytest.approx(best.hypervolume),
        ("gimtune_best", "fid"): 5,
        ("gimtune_best", "probe_codes"): 0.75,
        ("gimtune_latest", "vae", "mi_q"): 3.5,
    }


# Trackers


class Trial:
    """What a tracker reads of a Ray trial."""

    def __init__(self, *members):
        self.trial_id = members[0].trial
        self.config = {"pack": {"members": [one.to_json() for one in members]}}

    def __str__(self):
        return f"vae-normal-{self.trial_id}"


PACK = [member("vae", weight=w, seed=s) for w in (0.5, 2.0) for s in (0, 1)]


def result(epoch, **metrics):
    """Of one member, as a callback gets it."""
    row = {"trial": "x", "epoch": epoch, "status": "running", **metrics}
    return {**seen([row]), "training_iteration": 1, "config": {}, "pid": 1}


def follow(tracker, trial, *results):
    tracker.setup()
    tracker.on_trial_start(0, [], trial)
    for found in results:
        tracker.on_trial_result(0, [], trial, found)
    tracker.on_trial_complete(0, [], trial)
    tracker.on_experiment_end([])


def events(folder):
    """Scalars of TensorBoard's files: {tag: [(step, value)]}. A record is its length, a checksum, bytes, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def only(name, tmp_path, *arguments):
    run = tmp_path / "results" / "tradeoff" / "20260101-120000"
    run.mkdir(parents=True)
    (tracker,) = trackers(load([f"ray.trackers=[{name}]", *arguments]), run, Console(file=io.StringIO()))
    return tracker, run


def test_tensorboard_has_metrics_against_epochs(tmp_path):
    tracker, run = only("tensorboard", tmp_path)
    follow(tracker, Trial(PACK[0]), result(5, fid=8.0, mi_q=math.nan), result(10, fid=6.0, mi_q=2.0))
    assert [folder.name for folder in (run / "tensorboard").iterdir()] == [f"vae-normal-{PACK[0].trial}"]
    steps = {"ray/tune/timesteps_total": [(5, 5.0), (10, 10.0)]}
    assert events(run) == {"ray/tune/fid": [(5, 8.0), (10, 6.0)], "ray/tune/mi_q": [(10, 2.0)], **steps}


@pytest.mark.slow
def test_mlflow_has_a_run_under_the_studys_name(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker, _ = only("mlflow", tmp_path)
    follow(tracker, Trial(*PACK), result(5, fid=8.0), result(10, fid=6.0))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tradeoff")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == f"vae-normal-{PACK[0].trial}"
    assert found.info.status == "FINISHED"
    assert found.data.params["weight"] == "0.5, 2.0"
    assert found.data.tags["run"] == "20260101-120000"
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "fid")] == [(5, 8.0), (10, 6.0)]


@pytest.mark.slow
def test_wandb_has_a_run_for_each_trial(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    import ray

    monkeypatch.setenv("WANDB_MODE", "offline")
    secure_token()
    ray.init("local", num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        tracker, run = only("wandb", tmp_path)
        tracker.setup()
        trials = [Trial(one) for one in PACK[:2]]
        for trial in trials:
            tracker.on_trial_start(0, [], trial)
        for trial in trials:
            for epoch in (5, 10):
                tracker.on_trial_result(0, [], trial, result(epoch, fid=50.0 / epoch))
            tracker.on_trial_complete(0, [], trial)
        tracker.on_experiment_end([])
        assert tracker.console.file.getvalue() == ""
    finally:
        ray.shutdown()
    logs = list(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(logs) == len(trials)
    kept = b"".join(path.read_bytes() for path in logs)
    for trial in trials:
        assert str(trial).encode() in kept
    # two of two trials: where a run was cut off, its last are missing
    assert kept.count(b"probe_codes") == 0
    assert kept.count(b"timesteps_total") >= 4


def test_a_tracker_reads_parameters_in_words():
    shown = parameters(PACK)
    assert shown["model"] == "vae"
    assert shown["prior"] == "normal"
    assert shown["weight"] == "0.5, 2.0"
    assert parameters(PACK[:1])["weight"] == 0.5
    # of all metrics, though Ray sees few of them
    assert set(readable(result(5, fid_expost=8.0))) == {"fid_expost", "training_iteration", "timesteps_total"}


@pytest.mark.parametrize("method", ["setup", "log_trial_start", "log_trial_result", "log_trial_end"])
def test_a_tracker_that_fails_is_left_out_and_the_study_goes_on(tmp_path, method):
    class Broken:
        calls = 0

        def __getattr__(self, name):
            def call(*given, **named):
                if name == method:
                    Broken.calls += 1
                    raise ConnectionError("no server there\nand a long story")

            return call

    console = Console(file=io.StringIO())
    tracker = Tracker("mlflow", Broken(), tmp_path, console)
    follow(tracker, Trial(PACK[0]), result(5, fid=8.0), result(10, fid=6.0))
    assert Broken.calls == 1
    assert console.file.getvalue() == "ray.trackers=mlflow: no server there; the study goes on without it\n"


def test_a_missing_package_is_refused_with_the_line_that_installs_it(monkeypatch, capsys):
    from gimtune.__main__ import main
    from gimtune.tuning import trackers as module

    monkeypatch.setitem(module._PACKAGES, "mlflow", "no_such_package")
    assert main(["ray.trackers=[mlflow]", "dry_run=true"]) == 2
    assert capsys.readouterr().err == "ray.trackers=mlflow: needs a package more: pip install no_such_package\n"


def test_wandb_without_a_key_is_refused(monkeypatch):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        check(load(["ray.trackers=[wandb]"]))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check(load(["ray.trackers=[wandb]"]))


@pytest.mark.parametrize("value", ["[neptune]", "[mlflow,mlflow]", "tensorboard"])
def test_trackers_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match=r"ray\.trackers"):
        load([f"ray.trackers={value}"])
