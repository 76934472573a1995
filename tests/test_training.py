"""Packs, checkpoints, players: a member's numbers are its own, whatever happens beside it or to the process."""

import dataclasses
import errno
import json
import math
import threading
import time

import numpy as np
import pytest
import torch
from conftest import CPU
from helpers import DEFAULTS, combinations, member, numbers, reasons
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.func import vmap

from gimtune.algebra.objective import batches, slice_noise
from gimtune.algebra.priors import PRIORS
from gimtune.data.binarized import binarized
from gimtune.metrics import Evaluation
from gimtune.study.opened import opened
from gimtune.training import Pack, loop, pack_name, run, samples, save
from gimtune.training.adam import Adam
from gimtune.training.device import Resident
from gimtune.vocabulary import LATE, METRICS, Member, Status

CRITIC = (("latent", "js", 1.0),)


def several(count, model="vae", prior="normal", **options):
    """Members of one pack that differ in weight, prior scale and seed."""
    return [
        member(model, weight=0.1 * (i + 1), seed=i, prior={"name": prior, **scale(prior, 0.5 + 0.1 * i)}, **options)
        for i in range(count)
    ]


def scale(prior, value):
    """The option that spreads a prior, where it has one."""
    known = {field.name for field in dataclasses.fields(PRIORS[prior])} & {"scale", "spread"}
    return dict.fromkeys(known, value)


def some_combinations():
    """Every model once and every prior once, with what fits it."""
    models, priors = set(), set()
    for model, prior in combinations():
        if model not in models or prior not in priors:
            models.add(model)
            priors.add(prior)
            yield model, prior


def trained(members, evaluation, epochs):
    """A pack after some epochs, in float32 on any machine."""
    pack = Pack(members, evaluation.data, torch.float32)
    for _ in range(epochs):
        pack.train_epoch()
    return pack


def largest_difference(one, other):
    """Over the weights of two members, as `Pack.one` returns them."""
    pairs = [(value, other[module][name]) for module, values in one.items() for name, value in values.items()]
    return max(float((a - b).abs().max()) for a, b in pairs)


# A member alone and in a pack


@pytest.mark.parametrize(("model", "prior"), list(some_combinations()), ids=lambda value: value)
def test_a_member_alone_equals_itself_in_a_pack_of_eight(small, model, prior):
    members = several(8, model, prior)
    pack = trained(members, small, 3)
    for i in (0, 7):
        alone = trained(members[i : i + 1], small, 3)
        difference = largest_difference(alone.one(0), pack.one(i))
        if torch.backends.cpu.get_cpu_capability() == "AVX2":
            assert difference == 0  # as seen there; what a matrix product rounds to is the library's to choose
        # a gradient's rounding of 1e-9 moves Adam by a tenth of its step of 1e-3 where the gradient itself vanishes
        assert difference < 2e-4


@pytest.mark.parametrize("model", ["vae", "wae_gan", "infogan"])
def test_where_a_member_stands_in_a_pack_does_not_matter(small, model):
    # a code, a logit and their biases fill no processor's vectors: the last few of an array may be rounded otherwise
    odd = {"latent_dim": 3, "network": {"name": "mlp", "hidden": [32]}, "critic": {"hidden": [32]}}
    members = [member(model, seed=seed, **odd) for seed in range(8)]
    last = trained(members, small, 3).one(7)
    for pack, place in ((members[::-1], 0), (members[5:], 2), (members[7:], 0)):
        difference = largest_difference(trained(pack, small, 3).one(place), last)
        assert difference == 0 if torch.backends.cpu.get_cpu_capability() == "AVX2" else difference < 2e-4


@pytest.mark.parametrize(
    "network",
    [
        {"name": "conv", "channels": [4, 8], "hidden": [16]},
        {"name": "mlp", "hidden": [512, 512]},  # above the bound below which the map is kept for one member
    ],
    ids=lambda network: network["name"],
)
def test_metrics_of_other_networks_differ_by_rounding(evaluation, network):
    # a posterior that starts narrow has steep gradients there, which carry rounding further
    members = several(4, network=network, sigma_start=1.0)
    pack, alone = trained(members, evaluation, 3), trained(members[:1], evaluation, 3)
    assert alone.mapped == (network["name"] == "conv")
    one, other = (evaluation.row(p, 0, ("validation",)) for p in (alone, pack))
    # rounding of 6e-8, carried through 51 steps of Adam: 8e-7 was seen
    for key in ("likelihood_x", "restriction/posterior_kl", "loss", "mi_q", "mi_lower", "sigma_mean", "fid"):
        assert one[key] == pytest.approx(other[key], rel=1e-5), key


@pytest.mark.parametrize("model", ["vae", "aae", "infogan"])
def test_members_of_a_pack_have_rates_of_their_own(small, model):
    settings = [(1e-3, 0.5), (1e-3, 0.9), (4e-3, 0.9), (4e-3, 0.9), (1e-3, 0.5)]
    odd = {"latent_dim": 3, "network": {"name": "mlp", "hidden": [32]}, "critic": {"hidden": [32]}}
    members = [member(model, seed=1, learning_rate=rate, beta1=beta1, **odd) for rate, beta1 in settings]
    pack = trained(members, small, 2)
    pack.drop(members[1:2])
    pack.train_epoch()
    for place, i in enumerate((0, 2, 3, 4)):
        difference = largest_difference(trained(members[i : i + 1], small, 3).one(0), pack.one(place))
        assert difference == 0 if torch.backends.cpu.get_cpu_capability() == "AVX2" else difference < 2e-4
    assert largest_difference(pack.one(0), pack.one(3)) == largest_difference(pack.one(1), pack.one(2)) == 0
    assert largest_difference(pack.one(0), pack.one(1)) > 1e-2


@pytest.mark.parametrize("model", ["vae", "avb", "aae", "infogan"])
def test_members_of_a_pack_have_bounds_of_sigma_of_their_own(small, model):
    settings = [(0.03, 1e-3), (1.0, 1e-3), (0.03, 0.3)]
    members = [member(model, seed=1, sigma_start=start, sigma_min=least) for start, least in settings]
    pack = trained(members, small, 1)
    for i in range(3):
        alone = trained(members[i : i + 1], small, 1)
        difference = largest_difference(alone.one(0), pack.one(i))
        assert difference == 0 if torch.backends.cpu.get_cpu_capability() == "AVX2" else difference < 2e-4
        one, other = (small.measure(p.objective, alone.one(0), members[i], ("validation",)) for p in (alone, pack))
        assert one["mi_noised"] == other["mi_noised"]
        assert one["likelihood"] == other["likelihood"]
        assert one["sigma_mean"] == pytest.approx(other["sigma_mean"], abs=0, nan_ok=True)
    # another start is another training, but for AVB, whose posterior has none
    assert (largest_difference(pack.one(0), pack.one(1)) > 1e-3) == (model != "avb")
    assert largest_difference(pack.one(0), pack.one(2)) > 0 or model in ("avb", "infogan")


def test_members_of_a_pack_start_apart_and_stay_apart(small):
    pack = trained([member(seed=0), member(seed=1), member(seed=0, weight=2.0)], small, 0)
    assert largest_difference(pack.one(0), pack.one(1)) > 0.01
    assert largest_difference(pack.one(0), pack.one(2)) == 0
    pack.train_epoch()
    assert largest_difference(pack.one(0), pack.one(2)) > 1e-4


@pytest.mark.parametrize("network", [{"name": "mlp", "hidden": [16]}, {"name": "conv", "channels": [4], "hidden": []}])
def test_a_step_equals_torchs_adam_member_by_member(small, network):
    # vmap returns some gradients transposed in memory; the fused kernel once took them as they lie
    members = several(3, network=network)
    pack = Pack(members, small.data, torch.float32)
    x = small.data.scaled("train", slice(64))
    leaves = [value for values in pack.parameters.values() for value in values.values()]
    # two of them step alike
    rates, decays = [1e-3, 1e-3, 4e-3], [0.9, 0.9, 0.5]
    ours = Adam(leaves, rates, decays)
    singles = [[leaf.detach()[i].clone().requires_grad_() for leaf in leaves] for i in range(3)]
    theirs = [torch.optim.Adam(single, rates[i], (decays[i], 0.999)) for i, single in enumerate(singles)]
    for step in range(4):
        draws = [pack.objective.noise((m.seed, "train", step), 64, 1, CPU) for m in members]
        noise = slice_noise({k: torch.stack([d[k] for d in draws]) for k in draws[0]}, slice(0, 64), 0)
        losses = vmap(lambda p, c, n: pack.objective.loss("model", p, c, x, n))(pack.parameters, pack.constants, noise)
        gradients = torch.autograd.grad(losses.sum(), leaves, retain_graph=True)
        for i, (single, optimiser) in enumerate(zip(singles, theirs, strict=True)):
            for leaf, gradient in zip(single, gradients, strict=True):
                leaf.grad = gradient[i].clone(memory_format=torch.contiguous_format)
            optimiser.step()
        ours.step(losses.sum())
        for i, single in enumerate(singles):
            for leaf, stacked in zip(single, leaves, strict=True):
                # the fused kernel orders one step's operations differently: units of the last place of the step
                torch.testing.assert_close(leaf.detach(), stacked.detach()[i], rtol=1e-6, atol=1e-8)


def test_minibatches_are_shared_by_the_members_and_follow_their_seed(small):
    # one loss that depends on the order alone: the same member under two orders
    packs = [trained([member(shuffle_seed=s), member(shuffle_seed=s, seed=1)], small, 1) for s in (0, 1)]
    assert largest_difference(packs[0].one(0), packs[1].one(0)) > 1e-4
    again = trained([member(shuffle_seed=0), member(shuffle_seed=0, seed=1)], small, 1)
    assert largest_difference(packs[0].one(0), again.one(0)) == 0


@given(st.integers(1, 5000), st.integers(2, 600))
def test_minibatches_are_nearly_equal_and_leave_nothing_out(count, size):
    parts = batches(count, size)
    sizes = [part.stop - part.start for part in parts]
    assert parts[0].start == 0
    assert [part.stop for part in parts[:-1]] == [part.start for part in parts[1:]]
    assert parts[-1].stop == count
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


# Divergence


def test_a_diverging_member_leaves_the_others_untouched(small):
    options = {"epochs": 3, "evaluate_every": 1}
    # 1e39 is infinite in float32, so that the first loss is
    bad, healthy = member(weight=1e39, seed=9, **options), member(weight=1.0, seed=9, **options)
    others = several(2, **options)
    disturbed = list(run([others[0], bad, others[1]], small))
    quiet = list(run([others[0], healthy, others[1]], small))
    for one in others:
        histories = [[r for rows in history for r in rows if r["trial"] == one.trial] for history in (disturbed, quiet)]
        left, right = histories
        assert [r["status"] for r in left] == ["running", "running", "done"]
        for a, b in zip(left, right, strict=True):
            if torch.backends.cpu.get_cpu_capability() == "AVX2":
                assert numbers(a) == numbers(b)  # as above: the pack has two members instead of three
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)  # as above, rounding after 51 steps
    (row,) = [r for rows in disturbed for r in rows if r["trial"] == bad.trial]
    assert row["status"] == Status.DIVERGED
    assert row["diverged"] == 1
    assert row["epoch"] == 1
    assert row["error"] == "the loss was not finite in epoch 1"
    for key in METRICS:
        for name in (key, f"test_{key}"):
            assert math.isnan(row[name]), name
            assert reasons(row)[name] == row["error"], name


def test_poisoned_weights_stay_with_their_member(small):
    packs = [Pack(several(3), small.data, torch.float32) for _ in range(2)]
    for pack in packs:
        pack.train_epoch()
    with torch.no_grad():
        packs[0].parameters["decoder"]["0.weight"][1, 0, 0] = math.nan
    for pack in packs:
        pack.train_epoch()
    assert packs[0].diverged() == [packs[0].members[1]]
    assert packs[1].diverged() == []
    packs[0].drop(packs[0].diverged())
    # the same shapes up to here, hence the same bits on any machine
    assert largest_difference(packs[0].one(0), packs[1].one(0)) == 0
    assert largest_difference(packs[0].one(1), packs[1].one(2)) == 0
    assert [m.seed for m in packs[0].members] == [0, 2]
    packs[0].train_epoch()
    assert packs[0].diverged() == []


def test_a_pack_whose_members_all_diverge_ends(small, tmp_path):
    members = [member(weight=w, epochs=3, evaluate_every=2) for w in (1e39, 2e39)]
    (rows,) = run(members, small, tmp_path)
    assert [r["status"] for r in rows] == ["diverged", "diverged"]
    # and is not begun again
    again = list(run(members, small, tmp_path))
    assert [[numbers(r) for r in rows] for rows in again] == [[numbers(r) for r in rows]]


# Checkpoints


CASES = {
    "two members": several(2, epochs=4),
    "mmd": [member("wae_mmd", epochs=3, prior={"name": "laplace"})],
    "critic": [
        dataclasses.replace(member(epochs=3, network={"name": "mlp", "hidden": [8]}), model="aae", restrictions=CRITIC)
    ],
    "a diverging member": [*several(1, epochs=3), member(weight=1e39, epochs=3)],
}


@pytest.fixture(scope="module")
def undisturbed(small):
    return {case: [[numbers(r) for r in rows] for rows in run(ms, small)] for case, ms in CASES.items()}


def interrupted(members, evaluation, folder, after, note=lambda text: None, **options):
    """The rows of a run that is stopped after some evaluations."""
    running, rows = run(members, evaluation, folder, note, **options), []
    for _ in range(after):
        rows.append([numbers(r) for r in next(running)])
    running.close()
    return rows


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_starts_again_gives_the_same_rows(small, tmp_path, undisturbed, case, after):
    before = interrupted(CASES[case], small, tmp_path, after)
    assert before == undisturbed[case][:after]
    again = [[numbers(r) for r in rows] for rows in run(CASES[case], small, tmp_path)]
    # the rows of the checkpoint come once more, for a reader who died before writing them down
    assert again == undisturbed[case][after - 1 :]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [1, 2])
def test_what_is_written_while_training_goes_on_is_the_same(small, tmp_path, undisturbed, case, after):
    plain, apart = tmp_path / "plain", tmp_path / "apart"
    assert [len(rows) for rows in run(CASES[case], small, plain)] == [len(rows) for rows in undisturbed[case]]
    before = interrupted(CASES[case], small, apart, after, overlap=True)
    again = [[numbers(r) for r in rows] for rows in run(CASES[case], small, apart, overlap=True)]
    assert before == undisturbed[case][:after]
    assert again == undisturbed[case][after - 1 :]

    def files(folder):
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.p[tn]*") if "packs" not in p.parts}

    assert files(plain).keys() == files(apart).keys()
    pictures = [name for name, content in files(plain).items() if name.suffix == ".png"]
    assert all(files(plain)[name] == files(apart)[name] for name in pictures)


def test_rows_are_told_when_what_they_speak_of_is_written(small, tmp_path, monkeypatch):
    members, written, begun = several(2, epochs=8, evaluate_every=4), [], []
    whole = [[numbers(r) for r in rows] for rows in run(members, small)]

    def slowly(state, folder):
        begun.append(state["epoch"])
        assert go.wait(60)
        keep(state, folder)
        written.append(state["epoch"])

    go, keep, epochs = threading.Event(), loop.keep, []
    train_epoch = Pack.train_epoch

    def counted(pack, stopping):
        epochs.append(pack.epoch)
        if pack.epoch == 6:
            go.set()  # two epochs have been trained while the first checkpoint waited
        return train_epoch(pack, stopping)

    monkeypatch.setattr(loop, "keep", slowly)
    monkeypatch.setattr(Pack, "train_epoch", counted)
    running = run(members, small, tmp_path, overlap=True)
    first = [numbers(r) for r in next(running)]
    assert first == whole[0]
    assert begun == written == [4]
    assert epochs[:7] == [*range(7)]
    assert [[numbers(r) for r in rows] for rows in running] == whole[1:]


def test_a_stop_waits_for_what_is_being_written(small, tmp_path, monkeypatch):
    members, keep = several(2, epochs=8, evaluate_every=4), loop.keep
    whole = [[numbers(r) for r in rows] for rows in run(members, small)]
    asked = iter(range(10_000))

    def slowly(state, folder):
        time.sleep(0.5)
        keep(state, folder)

    monkeypatch.setattr(loop, "keep", slowly)
    steps = 4 * len(batches(len(small.data.images["train"]), members[0].batch_size))
    running = run(members, small, tmp_path, stopping=lambda: next(asked) > steps, overlap=True)
    assert [[numbers(r) for r in rows] for rows in running] == whole[:1]
    assert [[numbers(r) for r in rows] for rows in run(members, small, tmp_path)] == whole


def test_what_cannot_be_written_ends_the_run_and_no_checkpoint_comes_after_it(small, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(samples, "save_grid", full)
    members = several(2, epochs=4, evaluate_every=2)
    with pytest.raises(OSError, match="No space left"):
        list(run(members, small, tmp_path, overlap=True))
    kept = sorted(p.name for p in (tmp_path / "packs" / pack_name(members)).iterdir())
    assert kept == ["epoch-000002.pt"]


def test_a_finished_run_gives_its_last_rows(small, tmp_path, undisturbed):
    list(run(CASES["two members"], small, tmp_path))
    (again,) = run(CASES["two members"], small, tmp_path)
    assert [numbers(r) for r in again] == undisturbed["two members"][-1]


@pytest.mark.parametrize("cut", [0, 0.5])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(small, tmp_path, undisturbed, cut):
    members = CASES["two members"]
    interrupted(members, small, tmp_path, 3)
    newest = max((tmp_path / "packs" / pack_name(members)).glob("*.pt"))
    assert newest.name == "epoch-000003.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(cut * len(content))])
    notes = []
    again = [[numbers(r) for r in rows] for rows in run(members, small, tmp_path, notes.append)]
    assert again == undisturbed["two members"][1:]
    (note,) = notes
    assert note.startswith(str(newest))
    assert "cannot be read" in note
    assert "going on from the one before" in note


def test_a_checkpoint_of_another_format_is_not_read(small, tmp_path, undisturbed):
    members = CASES["two members"]
    interrupted(members, small, tmp_path, 1)
    (path,) = (tmp_path / "packs" / pack_name(members)).glob("*.pt")
    save({**torch.load(path, weights_only=True), "format": 0}, path)
    notes = []
    again = [[numbers(r) for r in rows] for rows in run(members, small, tmp_path, notes.append)]
    assert again == undisturbed["two members"]
    assert "format 0; this version writes 3" in notes[0]


def test_what_a_run_leaves_behind(small, tmp_path):
    members = CASES["two members"]
    *_, last = run(members, small, tmp_path)
    kept = sorted(p.name for p in (tmp_path / "packs" / pack_name(members)).iterdir())
    assert kept == ["epoch-000003.pt", "epoch-000004.pt"]  # the last two, and no temporary file
    state = torch.load(tmp_path / "packs" / pack_name(members) / kept[-1], weights_only=True)
    assert state["members"] == []  # all have ended
    pack = trained(members, small, 0)
    for i, (one, row) in enumerate(zip(members, last, strict=True)):
        assert row["checkpoint"] == f"members/{one.trial}.pt"
        path = tmp_path / row["checkpoint"]
        found = torch.load(path, weights_only=True)
        assert Member.from_json(found["member"]) == one
        for module, values in found["parameters"].items():
            for name, value in values.items():
                assert value.equal(state["parameters"][module][name][i]), name
        # the weights, the row and 8 kB of frame: a slice that brought its stack would be as long as the pack
        size = 4 * sum(v.numel() for values in pack.one(0).values() for v in values.values())
        assert path.stat().st_size < size + len(found["row"]) + 8000
        with Image.open(tmp_path / "samples" / f"{one.trial}.png") as picture:
            assert picture.size == (400, 400)
        with Image.open(tmp_path / "samples" / f"{one.trial}-reconstructed.png") as picture:
            shown = torch.from_numpy(np.array(picture.resize((80, 80), Image.Resampling.NEAREST)))
        # rows of test images: the first tile of the first row is the first of them, within its frame
        first = (small.data.scaled("test", slice(1))[0, 0] * 255).round()
        assert shown[1:9, 1:9].equal(first.byte())
        with np.load(tmp_path / "samples" / f"{one.trial}-latents.npz") as kept:
            x = small.data.scaled("validation", slice(None))
            means = pack.objective.posterior(found["parameters"], x, torch.zeros(len(x), one.latent_dim)).mu
            assert torch.from_numpy(kept["codes"]).float().allclose(means, rtol=1e-2, atol=1e-2)
            assert kept["labels"].tolist() == small.data.labels["validation"].tolist()


def test_a_kept_member_is_opened_with_its_numbers(evaluation, tmp_path):
    features = {"fid_features": "classifier", "inception_weights": None}
    (one,) = members = [member(epochs=1, metrics={**DEFAULTS["metrics"], **features})]
    row = [*run(members, evaluation, tmp_path)][-1][0]
    pack, measures = opened(tmp_path, one.trial)
    assert pack.members == [one]
    again = measures.row(pack, 0, ("test",))
    for key, value in again.items():
        if key.startswith("test_"):
            assert value == pytest.approx(row[key], rel=1e-4, abs=1e-5, nan_ok=True), key
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no weights"):
        opened(tmp_path, "none")


def test_saving_leaves_the_old_file_or_the_new(tmp_path):
    path = tmp_path / "folder" / "state.pt"
    save({"epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        save({"epoch": (i for i in range(3))}, path)  # a generator cannot be pickled
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [p.name for p in path.parent.iterdir()] == ["state.pt"]


def test_rows_say_how_far_and_how_fast(small):
    (first, last) = (rows[0] for rows in run([member(epochs=5, evaluate_every=3)], small))
    assert (first["epoch"], last["epoch"]) == (3, 5)
    assert (first["status"], last["status"]) == ("running", "done")
    assert 0 < first["seconds"] < last["seconds"]
    assert last["examples_per_second"] > 5 * len(small.data.images["train"]) / last["seconds"]
    assert json.loads(last["estimators"])["restriction/posterior_kl"] == "closed form"
    assert "test_fid" in last
    assert "test_fid" not in first


# Players


@pytest.fixture
def adversarial(small):
    members = [
        dataclasses.replace(member(seed=i, network={"name": "mlp", "hidden": [8]}), restrictions=(("latent", "js", w),))
        for i, w in enumerate((1.0, 30.0))
    ]
    return Pack(members, small.data, torch.float32)


def test_each_player_owns_its_modules(adversarial):
    owners = {p.name: p.modules for p in adversarial.objective.players}
    assert owners == {"model": ("encoder", "decoder"), "latent_js": ("latent_js",)}
    owned = [{id(leaf) for leaf in adversarial.optimisers[name].parameters} for name in owners]
    assert not owned[0] & owned[1]
    everything = {id(v) for values in adversarial.parameters.values() for v in values.values()}
    assert owned[0] | owned[1] == everything


def test_gradients_reach_their_player_alone(adversarial, small):
    objective, x = adversarial.objective, small.data.scaled("train", slice(64))
    parameters, constants = adversarial.one(0), adversarial.objective.constants(adversarial.members[0], CPU)
    parameters = {m: {k: v.clone().requires_grad_() for k, v in values.items()} for m, values in parameters.items()}
    noise = {k: v[0] if k == "directions" else v for k, v in objective.noise((0, "t"), 64, 1, CPU).items()}
    leaves = {m: list(values.values()) for m, values in parameters.items()}

    critic = objective.loss("latent_js", parameters, constants, x, noise)
    reached = torch.autograd.grad(critic, leaves["latent_js"], retain_graph=True)
    assert all(float(g.abs().max()) > 0 for g in reached)
    others = torch.autograd.grad(critic, leaves["encoder"] + leaves["decoder"], allow_unused=True)
    assert others == (None,) * len(others)

    model = objective.loss("model", parameters, constants, x, noise)
    reached = torch.autograd.grad(model, leaves["encoder"] + leaves["decoder"])
    assert all(float(g.abs().max()) > 0 for g in reached)


def test_one_players_step_moves_nobody_else(adversarial, small):
    before = {m: {k: v.detach().clone() for k, v in values.items()} for m, values in adversarial.parameters.items()}
    x = small.data.scaled("train", slice(64))
    draws = [adversarial.objective.noise((m.seed, "t"), 64, 1, CPU) for m in adversarial.members]
    noise = slice_noise({k: torch.stack([d[k] for d in draws]) for k in draws[0]}, slice(0, 64), 0)

    def moved():
        return {m for m, old in before.items() for k, v in old.items() if not v.equal(adversarial.parameters[m][k])}

    adversarial.optimisers["latent_js"].step(adversarial._losses("latent_js", x, noise).sum())
    assert moved() == {"latent_js"}
    before["latent_js"] = {k: v.detach().clone() for k, v in adversarial.parameters["latent_js"].items()}
    adversarial.optimisers["model"].step(adversarial._losses("model", x, noise).sum())
    assert moved() == {"encoder", "decoder"}


def test_adversarial_members_are_measured(adversarial, evaluation):
    for _ in range(2):
        adversarial.train_epoch()
    for i in range(2):
        row = evaluation.row(adversarial, i, ("validation",))
        # not before its end
        assert {*row["reasons"]} == {"log_px", "code_accuracy", "energy", "mig", *LATE}, row["reasons"]
        assert row["restriction/latent_js"] < math.log(2)
        named = "critic, a lower bound of the JS divergence; non-saturating gradient"
        assert row["estimators"]["restriction/latent_js"] == named


def test_a_member_that_cannot_be_measured_leaves_the_others_alone(small, tmp_path, monkeypatch):
    members = several(3, "vae", "normal")
    expected = list(run(members, small))[-1]
    measure = Evaluation.measure

    def broken(self, objective, parameters, member, *further):
        if member == members[1]:
            raise RuntimeError("eigenvalues did not converge")
        return measure(self, objective, parameters, member, *further)

    monkeypatch.setattr(Evaluation, "measure", broken)
    rows = list(run(members, small, tmp_path))
    (lost,) = [row for evaluation in rows for row in evaluation if row["trial"] == members[1].trial]
    assert (lost["status"], lost["error"]) == ("failed", "RuntimeError: eigenvalues did not converge")
    assert math.isnan(lost["fid"])
    assert [row["status"] for row in rows[-1]] == ["done", "done"]
    for row, whole in zip(rows[-1], (expected[0], expected[2]), strict=True):
        assert numbers(row) == numbers(whole)


# Pixels that training draws


def test_minibatches_are_drawn_anew_from_their_grey_levels(small):
    binary = Resident(binarized(small.data.dataset, "dynamic", 0), CPU)
    pack, index = Pack(several(2), binary), torch.arange(7)
    images, levels = binary.training(pack.objective), small.data.scaled("train", index)
    draws = torch.stack([binary.minibatch(images, index, 0, epoch, 3) for epoch in range(400)])
    assert set(draws.unique().tolist()) == {0, 1}
    assert torch.equal(draws[5], binary.minibatch(images, index, 0, 5, 3))
    assert not torch.equal(draws[5], binary.minibatch(images, index, 0, 5, 4))
    error = (levels * (1 - levels) / len(draws)).sqrt()
    assert ((draws.mean(0) - levels).abs() <= 5 * error).all()
    # what is measured stays as it was drawn once
    assert torch.equal(binary.images["train"], torch.from_numpy(binary.dataset.images["train"]))


def test_members_of_a_pack_see_the_same_draws(small):
    binary = Evaluation(binarized(small.data.dataset, "dynamic", 0), small.network, CPU)
    members = several(2)
    pack = trained(members, binary, 3)
    assert largest_difference(trained(members[1:], binary, 3).one(0), pack.one(1)) < 2e-4
    assert largest_difference(trained(members[1:], small, 3).one(0), pack.one(1)) > 1e-3
