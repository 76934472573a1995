"""Fixtures of all rooms; the environment stands before anything imports Ray."""

import os

os.environ["RAY_AUTH_MODE"] = "token"

import dataclasses
import shutil
from pathlib import Path

import hypothesis
import pytest
import torch
from helpers import STUDY, TINY, Driver, finished

from gimtune import data, tuning  # noqa: F401 - tuning sets the other switches of Ray
from gimtune.metrics import Evaluation, lenet
from gimtune.results.backup import back_up
from gimtune.results.store import Store
from gimtune.study.composition import load
from gimtune.training import run as train
from gimtune.tuning.launch import _new_run
from gimtune.tuning.plan import preflight

torch.set_num_threads(1)
# the same examples in every run, and no limit on an example's time on a busy machine
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")

CPU = torch.device("cpu")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture(scope="session")
def evaluation(digits, tmp_path_factory):
    """Measurements on digits, on the CPU."""
    return Evaluation(digits, lenet.classifier(digits, tmp_path_factory.mktemp("features"), CPU), CPU)


@pytest.fixture(scope="session")
def small(digits, evaluation):
    """The same on a fifth of the images: for what is about the run and not about the numbers."""

    def fifth(arrays):
        return {split: a[::5] for split, a in arrays.items()}

    part = dataclasses.replace(digits, images=fifth(digits.images), labels=fifth(digits.labels))
    return Evaluation(part, evaluation.network, CPU)


@pytest.fixture(scope="session")
def mnist_root():
    """A folder with MNIST's IDX files; the test is skipped where there is none."""
    places = [os.environ.get("GIMTUNE_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in filter(None, places):
        if data.find("mnist", str(place)):
            return str(place)
    pytest.skip("no MNIST: neither $GIMTUNE_DATA nor ../shared/data holds its IDX files")


@pytest.fixture(scope="session")
def store_server():
    """A server of S3's protocol; the environment that leads to it."""
    moto = pytest.importorskip("moto.server", reason="no server of S3's protocol: .ci/run says how moto is installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    port = server.get_host_and_port()[1]
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    server.stop()


@pytest.fixture
def drive():
    """Starts drivers, which end with the test."""
    drivers: list[Driver] = []

    def start(*arguments) -> Driver:
        drivers.append(Driver(*arguments))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.end()


@pytest.fixture(scope="session")
def _killed(small, tmp_path_factory):
    study = [*TINY, "space.seed={grid: [0, 1, 2]}", "resources.members=1", "budget.epochs=3"]
    plan = preflight(load([*study, f"storage_path={tmp_path_factory.mktemp('killed')}"]))
    folder = _new_run(plan)
    ended, running, _ = plan.packs
    with Store(folder / "study.db", create=True) as store:
        batches = train(ended, small, folder)
        store.report(next(batches))
        back_up(folder)
        # all of this is newer than the copy
        for batch in batches:
            store.report(batch)
        shutil.rmtree(folder / "packs")
        batches = train(running, small, folder)
        store.report(next(batches))
        store.report(next(batches))
    return folder


@pytest.fixture
def killed_run(_killed, tmp_path):
    """A copy of the run folder that a killed driver left: a member has ended, one runs, one has not begun."""
    return shutil.copytree(_killed, tmp_path / "run (copy)")


@pytest.fixture
def browser():
    """A headless Chromium of the test's own: the system's, or playwright's. One that has closed its page may hang."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright")
    with api.sync_playwright() as player:
        path = next(filter(None, map(shutil.which, BROWSERS)), player.chromium.executable_path)
        if not Path(path).is_file():
            pytest.skip("no Chromium, neither the system's nor one by `playwright install chromium`")
        with player.chromium.launch(executable_path=path, args=["--no-sandbox"]) as started:
            yield started


@pytest.fixture(scope="session")
def undisturbed_study(tmp_path_factory):
    """`STUDY` from beginning to end."""
    return finished(tmp_path_factory.mktemp("undisturbed_study"), *STUDY)
