"""Replayed train steps: the same bits as the steps as they are written, or the steps as they are written."""

import pytest
import torch
from helpers import combinations, member
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from gimtune import register
from gimtune.algebra.models import MODELS
from gimtune.algebra.restrictions import RESTRICTIONS, Restriction
from gimtune.training import Pack, run
from gimtune.training import replay as module
from gimtune.training.replay import Step

NETWORKS = {
    "mlp": {"name": "mlp", "hidden": [32]},
    "conv": {"name": "conv", "channels": [4, 8], "hidden": [16]},
}
#: A prior that fits each model, "normal" where it may.
PRIORS = dict(reversed([*combinations()]))


class Counting(Pack):
    """A pack that counts how often its formula is computed as it is written."""

    written = 0

    def _losses(self, *given):
        self.written += 1
        return super()._losses(*given)


def members(model, count, seed, **options):
    """Members of one pack, four minibatches of one size and seven of another an epoch."""
    stated = {"prior": {"name": PRIORS[model]}, "batch_size": 20, **options}
    return [member(model, weight=0.1 * (seed + i + 1), seed=seed + i, **stated) for i in range(count)]


def as_written(pack):
    """The same pack, without replays."""
    pack._steps = {player: Step("as it is written") for player in pack._steps}
    return pack


def bits(tensors):
    """What tensors hold, NaN and the sign of zero included."""
    return [tensor.detach().numpy().tobytes() for tensor in tensors]


def state(pack):
    """Weights and moments, bit for bit."""
    kept = pack.state()
    return bits(tree_leaves((kept["parameters"], kept["optimisers"])))


# Train steps


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("network", ["mlp", pytest.param("conv", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_replayed_steps_give_the_bits_of_the_steps_as_they_are_written(small, model, network, precision):
    # the programs are those of other members, so that nothing of theirs can stand in them
    others = Pack(members(model, 2, 10, network=NETWORKS[network]), small.data, precision)
    others.train_epoch()
    chosen = members(model, 2, 0, network=NETWORKS[network])
    replayed, written = Counting(chosen, small.data, precision), as_written(Pack(chosen, small.data, precision))
    replayed._steps = others._steps
    for pack in (replayed, written):
        pack.train_epoch()
    assert state(replayed) == state(written)
    assert replayed.eager is None
    assert replayed.written == 0
    for pack in (replayed, written):
        pack.drop(pack.members[:1])  # a stack of one is another shape
        pack.train_epoch()
    assert state(replayed) == state(written)
    assert replayed.eager is None


class Fixed:
    """What a CUDA graph is to its user, on any device: the same memory is read and written at every launch."""

    def __init__(self, changed=False):
        self.captured = self.launched = 0
        self.changed = changed

    def __call__(self, function):
        self.captured += 1
        made = function()
        # what was made while it was captured is there after a launch alone
        for tensor in made:
            tensor.fill_(0)

        def launch():
            self.launched += 1
            for tensor, now in zip(made, function(), strict=True):
                tensor.copy_(now + 1 if self.changed else now)

        return launch, made


@pytest.mark.parametrize("model", MODELS)
def test_steps_in_one_launch_give_the_same_bits(small, model, monkeypatch):
    fixed = Fixed()
    monkeypatch.setitem(module.CAPTURES, "cpu", fixed)
    chosen = members(model, 2, 0, network=NETWORKS["mlp"])
    launched, written = Counting(chosen, small.data), as_written(Pack(chosen, small.data))
    for _ in range(2):
        launched.train_epoch()
        written.train_epoch()
    assert state(launched) == state(written)
    assert launched.eager is None
    # one for each player and size of a minibatch, where weights and constants stay where they are
    assert 0 < fixed.captured <= 2 * len(launched.objective.players)
    assert fixed.launched > 4 * len(launched.objective.players)
    for pack in (launched, written):
        pack.drop(pack.members[:1])  # their weights are other tensors now
        pack.train_epoch()
    for pack in (launched, written):
        pack.restore(pack.state())
        pack.train_epoch()
    assert state(launched) == state(written)
    assert launched.eager is None


def test_what_lies_elsewhere_is_copied_and_results_are_not_written_over(monkeypatch):
    fixed = Fixed()
    monkeypatch.setitem(module.CAPTURES, "cpu", fixed)
    step, stays = Step(), torch.ones(3)
    found = []
    for i in range(8):
        x = torch.full((3,), float(i))
        # what stays is changed in place, as weights are, and is another tensor from the sixth step on
        stays = stays.clone() if i == 6 else stays.add_(1)
        found.append((step(lambda x=x, stays=stays: (x * stays, x + stays), [x, stays]), x * stays, x + stays))
    assert not step.loose
    assert fixed.captured == 2
    for (product, total), *expected in found:
        assert bits([product, total]) == bits(expected)


@pytest.mark.parametrize("capture", [Fixed(changed=True), lambda function: 1 / 0], ids=["other bits", "an error"])
def test_a_launch_that_cannot_be_had_is_not_and_the_row_says_so(small, monkeypatch, capture):
    monkeypatch.setitem(module.CAPTURES, "cpu", capture)
    chosen = members("vae", 2, 0, network=NETWORKS["mlp"])
    launched, written = Pack(chosen, small.data), as_written(Pack(chosen, small.data))
    for pack in (launched, written):
        pack.train_epoch()
    assert state(launched) == state(written)
    assert launched.eager in ("one launch gave other bits", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize("hidden", [32, 512], ids=["mapped", "without the map"])
def test_a_member_alone_is_replayed_from_the_fourth_step_of_a_size(small, hidden):
    network = {"name": "mlp", "hidden": [hidden, hidden]}
    alone = Counting(members("aae", 1, 0, network=network), small.data)
    written = as_written(Pack(alone.members, small.data))
    for pack in (alone, written):
        for _ in range(3):
            pack.train_epoch()
    assert alone.mapped == (hidden == 32)
    assert state(alone) == state(written)
    # two players and two sizes of a minibatch: recorded, which computes it twice, and compared twice
    assert (alone.eager, alone.written) == (None, 2 * 2 * 4)


def test_a_pack_goes_on_in_the_precision_that_it_stands_in(small):
    chosen = members("vae", 2, 0)
    first = Pack(chosen, small.data, torch.bfloat16)
    first.train_epoch()
    resumed, written = Pack(chosen, small.data, torch.float32), as_written(Pack(chosen, small.data, torch.bfloat16))
    resumed.train_epoch()
    resumed.restore(first.state())
    written.train_epoch()
    for pack in (resumed, written):
        pack.train_epoch()
    assert state(resumed) == state(written)


def test_a_diverging_member_is_replayed_too(small):
    chosen = members("vae", 2, 0)
    replayed, written = Pack(chosen, small.data), as_written(Pack(chosen, small.data))
    for pack in (replayed, written):
        with torch.no_grad():
            next(iter(pack.parameters["encoder"].values()))[0] = torch.nan
        pack.train_epoch()
    assert replayed.eager is None
    assert state(replayed) == state(written)
    assert replayed.diverged() == written.diverged() == replayed.members[:1]


# What others wrote


def test_parts_of_others_are_computed_as_they_are_written_and_the_rows_say_so(small):
    calls = []

    def annealed(sample):
        calls.append(None)
        return min(1.0, len(calls) / 20) * sample.posterior.mu.square().sum(-1).mean()

    with RESTRICTIONS.without():
        register.restriction(Restriction("latent", "annealed", "nats", "closed form", "nobody", annealed))
        chosen = [member("ae", restrictions=(("latent", "annealed", 1.0),), seed=seed, epochs=1) for seed in (0, 1)]
        calls.clear()
        (rows,) = [rows for rows in run(chosen, small) if rows[0]["status"] == "done"]
    assert {row["eager"] for row in rows} == {
        "restriction latent/annealed: written by others, who may decide otherwise at another step"
    }
    (rows,) = [rows for rows in run(members("vae", 1, 0, epochs=1), small) if rows[0]["status"] == "done"]
    assert rows[0]["eager"] is None


# Any function


def called(function, inputs, times=6, change=None):
    """A step of a function of tensors; what it gave and what it should have given, by call."""
    step, given, expected = Step(), [], []
    for i in range(times):
        inputs = [torch.sin(tensor + i) for tensor in inputs]
        given.append(bits(step(lambda: function(*inputs), inputs)))  # noqa: B023 - called at once
        expected.append(bits(function(*inputs)))
    return step, given, expected


def x(*shape):
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).clone()


def draws(a):
    return (a + torch.rand(4),)


def looks(a):
    return (a * 2 if a.sum().item() > 0 else a * 3,)


def branches(a):
    return (a * 2 if a.sum() > 0 else a * 3,)


def changes(a):
    return (a.clone().add_(1), a[1:].zero_())


@pytest.mark.parametrize(
    ("function", "why"),
    [(draws, "draws at random"), (looks, "looks at a number"), (branches, "looks at a number")],
)
def test_what_a_list_of_operations_cannot_say_is_computed_as_it_is_written(function, why):
    torch.manual_seed(0)
    step, given, expected = called(function, [x(4)])
    assert why in step.eager
    assert function is draws or given == expected


def test_a_step_that_changes_its_inputs_is_computed_as_it_is_written():
    step, tensor = Step(), x(4)
    step(lambda: changes(tensor), [tensor])
    assert "changes in place what it is given" in step.eager


def test_inputs_that_share_memory_are_not_told_apart_by_it():
    step, tensor = Step(), x(4)
    step(lambda: (tensor + 1,), [tensor, tensor[:]])
    assert "share memory" in step.eager


def test_what_python_counts_is_found_when_replays_are_compared():
    counted = []

    def counting():
        counted.append(None)
        return (tensor * len(counted),)

    step, tensor = Step(), x(4)
    found = [step(counting, [tensor])[0] for _ in range(5)]
    assert step.eager == "a replay gave other bits"
    # every call gave what the function as it is written makes; recording called it once more
    assert [float(value[-1]) for value in found] == [1, 3, 4, 5, 6]


def test_a_step_of_many_bytes_is_computed_as_it_is_written(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 1000)
    step, given, expected = called(lambda a: ((a + 1) * (a + 2),), [x(100)])
    assert step.eager == "more than 0 MiB in a step"
    assert given == expected


def test_an_error_of_the_function_is_its_own():
    step, tensor = Step(), x(4)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            step(lambda: (tensor / (1 // 0),), [tensor])
    assert step.eager == ""


def test_results_of_equal_numbers_are_tensors_of_their_own():
    step, tensor = Step(), x(4)
    for _ in range(4):
        one, other = step(lambda: (tensor + 1, tensor + 1), [tensor])
        one.zero_()
        assert torch.equal(other, tensor + 1)
    assert step.eager == ""


def test_constants_and_gradients_are_replayed():
    table = torch.arange(4.0)

    def function(a):
        a = a.clone().requires_grad_()
        loss = ((a - table).square() * torch.tensor([1.0, 2.0, 3.0, float("inf")])[:3].sum() + a.exp()).sum()
        return loss[None].detach(), *torch.autograd.grad(loss, [a])

    step, given, expected = called(function, [x(4)])
    assert step.eager == ""
    assert given == expected


OPERATIONS = {
    "add": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "matrices": lambda a, b: a @ b,
    "cast": lambda a, b: a.to(torch.bfloat16).to(torch.float32),
    "transpose": lambda a, b: a.t(),
    "rows": lambda a, b: a.clone().copy_(b),
    "same view": lambda a, b: a.view(4, 4) if a.is_contiguous() else a,
    "copy": lambda a, b: a.clone(),
    "halves": lambda a, b: torch.cat(a.split(2)[::-1]),
    "largest": lambda a, b: a.max(0)[0] + b,
    "in place": lambda a, b: a.add_(1),
    "part in place": lambda a, b: (a[1:].mul_(2), a)[1],
    "from b in place": lambda a, b: a.sub_(b),
}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99), st.integers(0, 99)), max_size=12))
def test_drawn_functions_are_replayed_bit_for_bit(plan):
    def function(a, b):
        made = [a * 1, b * 1]  # which may be changed in place
        for name, i, j in plan:
            made.append(OPERATIONS[name](made[i % len(made)], made[j % len(made)]))
        return tuple(tensor.contiguous().clone() for tensor in made)

    step, given, expected = called(function, [x(4, 4), x(4, 4) + 0.5])
    assert step.eager == ""
    assert given == expected
