"""Feature networks of one's own as files of torch.export: what they compute, what is refused, what a run keeps."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from gimtune.__main__ import main
from gimtune.analysis import load as read
from gimtune.metrics import features
from gimtune.metrics.exported import Exported
from gimtune.study.composition import load
from gimtune.study.messages import ConfigError
from gimtune.study.opened import opened
from gimtune.tuning.launch import _new_run
from gimtune.tuning.plan import preflight

CPU = torch.device("cpu")
TINY = [
    *("study=tradeoff", "models=[vae]", "space.prior=normal", "space.weight=1", "space.seed=0", "network.hidden=[32]"),
    *("budget.epochs=1", "budget.evaluate_every=1", "metrics.ruler=never", "metrics.fid_samples=400"),
    *("ray.dashboard=false", "resources.cpu=1", "metrics.fid_features=exported"),
]


class Network(nn.Module):
    """Convolutions, batch statistics, views of the batch's size, a constant, several outputs of one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.linear = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 6)
        self.constant = torch.tensor([0.5, 2.0])

    def forward(self, x):
        seen = nn.functional.gelu(self.norm(self.convolution(x)), approximate="tanh")
        left, right = seen.reshape(x.shape[0], -1).chunk(2, 1)
        return self.linear(torch.cat([right, left], 1)).masked_fill(x.mean((1, 2, 3))[:, None] < 0, -torch.inf) * (
            self.constant.sum()
        )


def written(path, network=None, shape=(1, 8, 8), counted=True):
    torch.manual_seed(0)
    network = (network or Network()).eval()
    sizes = ({0: torch.export.Dim("count")},) if counted else None
    torch.export.save(torch.export.export(network, (torch.rand(2, *shape),), dynamic_shapes=sizes), path)
    return network


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "mine.pt2"
    return path, written(path)


def changed(source, target, name, content):
    """A copy of an archive with another content of one of its files."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            stored = old.read(info)
            new.writestr(info, content(stored) if info.filename.endswith(name) else stored)
    return target


@torch.no_grad()
def test_a_file_gives_the_features_of_the_network_that_it_was_made_of(exported):
    path, network = exported
    images = torch.rand(7, 1, 8, 8)
    read_, loaded = Exported(path.read_bytes(), CPU), torch.export.load(path).module()
    assert read_(images).equal(network(images))
    assert read_(images).equal(loaded(images))
    assert read_(images[:1]).equal(network(images[:1]))


class Code:
    def __reduce__(self):
        return (Path.touch, (Path(self.at),))

    def __init__(self, at):
        self.at = str(at)


def test_no_code_of_a_file_is_run(exported, tmp_path):
    path, _ = exported
    trace = tmp_path / "run"
    poison = pickle.dumps(Code(trace))
    # torch.export.load unpickles a file's sample inputs where they are no plain tensors: here they are not read
    poisoned = changed(path, tmp_path / "inputs.pt2", "sample_inputs/model.pt", lambda _: poison)
    Exported(poisoned.read_bytes(), CPU)
    # and evaluates the sizes of its tensors
    touch = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def evaluated(text):
        return text.replace(b"Symbol('", f"{touch} or Symbol('".encode())

    sizes = changed(path, tmp_path / "sizes.pt2", "model.json", evaluated)
    Exported(sizes.read_bytes(), CPU)
    assert not trace.exists()


def pickled(text):
    stored = json.loads(text)
    stored["config"]["linear.bias"]["use_pickle"] = True
    return json.dumps(stored).encode()


def of(target):
    return lambda text: text.replace(b"torch.ops.aten.linear.default", target)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("weights_config.json", pickled, "linear.bias is pickled, and may be any code"),
        ("model.json", of(b"torch.hub.load"), "its operation torch.hub.load is none of torch.ops.aten"),
        ("model.json", of(b"torch.ops.aten.__class__.default"), "none of torch.ops.aten"),
        ("model.json", of(b"_operator.methodcaller"), "its operation _operator.methodcaller is none"),
        ("model.json", lambda text: text.replace(b'"as_string": "tanh"', b'"as_string": "/etc/passwd"'), "/etc/passwd"),
        ("model.json", lambda text: text.replace(b'"major": 8', b'"major": 7'), "(schema 7, not 8): export it anew"),
        ("model.json", lambda text: text[:1000], "it cannot be read (JSONDecodeError"),
        ("weight_0", lambda stored: stored[:8], "it cannot be read (RuntimeError"),
    ],
)
def test_what_is_no_list_of_operations_on_tensors_is_refused(exported, tmp_path, name, content, said):
    given = changed(exported[0], tmp_path / "other.pt2", name, content)
    with pytest.raises(ConfigError) as refused:
        preflight(load([*TINY, f"storage_path={tmp_path}", f"metrics.features_file={given}"]))
    assert str(refused.value).startswith(f"metrics.features_file={given}: ")
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


class Noisy(nn.Module):
    def forward(self, x):
        return x.flatten(1) + torch.rand_like(x.flatten(1))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"shape": (3, 9, 9), "network": nn.Flatten()}, "it takes images (3, 9, 9), and those of digits are (1, 8, 8)"),
        ({"counted": False}, "it is of 2 images at a time; export it with dynamic_shapes"),
        ({"network": nn.Identity()}, "and not finite features (n, k)"),
        ({"network": Noisy()}, "it gives other features of the same images"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_ray_starts(tmp_path, how, said):
    written(tmp_path / "other.pt2", **how)
    with pytest.raises(ConfigError) as refused:
        preflight(load([*TINY, f"metrics.features_file={tmp_path / 'other.pt2'}"]))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "metrics.features_file=FILE.pt2 is to say where it is"),
        (["metrics.features_file=/nowhere.pt2"], "metrics.features_file=/nowhere.pt2: [Errno 2] No such file"),
        ([f"metrics.features_file={__file__}"], "it cannot be read (BadZipFile"),
    ],
)
def test_a_file_that_is_none_is_refused(given, said):
    with pytest.raises(ConfigError) as refused:
        preflight(load([*TINY, *given]))
    assert said in str(refused.value)


def test_members_are_named_after_the_content(exported, tmp_path):
    path = tmp_path / "mine.pt2"
    shutil.copyfile(exported[0], path)

    def named():
        return preflight(load([*TINY, f"metrics.features_file={path}"])).listed[0][0].trial

    first = named()
    assert named() == first
    written(path, nn.Flatten())
    assert named() != first


def test_a_run_keeps_all_of_it(exported, tmp_path):
    path = tmp_path / "mine.pt2"
    shutil.copyfile(exported[0], path)
    plan = preflight(load([*TINY, f"metrics.features_file={path}", f"storage_path={tmp_path}"]))
    run = _new_run(plan)
    settings = plan.listed[0][0].metrics
    features.begin(plan.data, settings, run)
    images = torch.rand(3, 1, 8, 8)
    network = features.load(plan.data, settings, run, CPU)
    with torch.no_grad():
        # gone, or another by now: a resume compares by what the run has
        for change in (path.unlink, lambda: written(path, nn.Flatten())):
            change()
            again = preflight(load([f"resume={run}"]))
            kept = features.load(again.data, again.listed[0][0].metrics, run, CPU)
            assert kept.name == network.name
            assert kept(images).equal(exported[1](images))
    # and where the run has none yet, it is asked for
    shutil.rmtree(run / "features")
    path.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        preflight(load([f"resume={run}"]))


@pytest.mark.slow
def test_a_study_is_measured_by_it_and_its_members_anew(exported, tmp_path):
    path = tmp_path / "mine.pt2"
    shutil.copyfile(exported[0], path)
    assert main([*TINY, f"metrics.features_file={path}", f"storage_path={tmp_path}"]) == 0
    path.unlink()
    (run,) = tmp_path.glob("tradeoff/*")
    study = read(run)
    assert study.trials["fid_features"].tolist() == [Exported(exported[0].read_bytes(), CPU).name]
    pack, evaluation = opened(run, study.trials["trial"][0])
    again = evaluation.measure(pack.objective, pack.one(0), pack.members[0], ("test",))
    assert again["test_fid"] == study.trials["test_fid"][0]
