"""Each published weight against its authors' own formula, written as their paper or code has it.

Both losses are taken of the same networks on the same minibatch, in float64, at the member's weight 1. Losses of models
with critics differ by what the divergence is reported as, so there it is the gradients that are equal, up to the one
factor that the conversion states; a model whose parts have separate losses is compared part by part.
"""

import math

import pytest
import torch
from helpers import member
from torch.nn.functional import binary_cross_entropy, mse_loss, softplus

from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.objective import Constants, Objective

CPU = torch.device("cpu")
LATENT, SIDE, BATCH = 5, 8, 12
PIXELS = SIDE * SIDE


class World:
    """A model at weight 1 on one batch: its loss, and what its authors' formula is made of."""

    def __init__(self, name, parameters=None, weight=1.0, **options):
        options = {
            "latent_dim": LATENT,
            "critic": {"hidden": [9]},
            "network": {"name": "mlp", "hidden": [8]},
            **options,
        }
        one = member(name, weight, parameters, **options)
        self.objective = Objective(one, (1, SIDE, SIDE))
        self.weights = {
            module: {key: (2 * value).double().requires_grad_() for key, value in values.items()}
            for module, values in self.objective.initial(9, CPU).items()
        }
        source = torch.Generator().manual_seed(3)
        domain = torch.rand(40, PIXELS, generator=source) if self.objective.prior.images else None
        weights, prior, _ = self.objective.constants(one, CPU, domain)
        exact = torch.tensor([w for *_, w in one.restrictions], dtype=torch.float64)
        assert torch.allclose(weights.double(), exact)
        self.constants = Constants(exact, {key: value.double() for key, value in prior.items()})
        self.noise = {key: v.double() for key, v in self.objective.noise(("test",), BATCH, 1, CPU).items()}
        self.x = torch.rand(BATCH, 1, SIDE, SIDE, generator=source, dtype=torch.float64)
        self.sample = self.objective.sample(self.weights, self.constants, self.x, self.noise)
        self.mu, self.sigma, self.z = self.sample.posterior
        self.output = self.objective.decode(self.weights, self.z)
        self.loss = self.objective.loss("model", self.weights, self.constants, self.x, self.noise)

    @property
    def prior_z(self):
        return self.sample.prior_z

    @property
    def made(self):
        """Images generated from the prior."""
        return self.sample.generated

    @property
    def seen(self):
        """Reconstructions."""
        return self.objective.likelihood.mean(self.output)

    def logit(self, key, *inputs):
        """The critic's logit T = log q/p of images and codes side by side."""
        flat = torch.cat([value.flatten(1) for value in inputs], -1)
        return self.objective._call(key, self.weights, flat)

    def features(self, images):
        """What the likelihood of VAE-GAN compares."""
        return self.objective._call("data_js", self.weights, images.flatten(1), True)

    def gradients(self, loss, *modules):
        leaves = [value for module in modules for value in self.weights[module].values()]
        return torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


def same(world, theirs, factor=1.0, modules=("encoder", "decoder"), ours=None):
    """The gradient of our loss is ``factor`` times that of theirs, in every weight of the modules; and not 0."""
    mine = world.gradients(world.loss if ours is None else ours, *modules)
    expected = world.gradients(theirs, *modules)
    size = max(float(g.abs().max()) for g in expected)
    assert size > 1e-6
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, factor * b, rtol=0, atol=1e-11 * factor * size)


def rate(mu, sigma):
    """KL of N(mu, sigma^2) from N(0, I), as every paper prints it."""
    return (-0.5 * (1 + 2 * sigma.log() - mu.square() - sigma.square())).sum(1).mean()


def cross_entropy(world):
    return binary_cross_entropy(world.seen, world.x, reduction="none").flatten(1).sum(1).mean()


def squared(a, b):
    return (a - b).square().flatten(1).sum(1).mean()


# Without a critic


def test_vae():
    # Kingma & Welling 2014, eq. 10: the sum over pixels of the cross-entropy, and the KL in closed form
    world = World("vae")
    same(world, cross_entropy(world) + rate(world.mu, world.sigma))


@pytest.mark.parametrize("normalised", [0.1, 1.0, 20.0])
def test_beta_vae(normalised):
    # Higgins et al. 2017, eq. 4; their beta_norm = beta M / N, M latent dimensions and N pixels (section 4.2)
    beta = normalised * PIXELS / LATENT
    world = World("beta_vae", weight=beta)
    per_pixel_and_unit = cross_entropy(world) / PIXELS + normalised * rate(world.mu, world.sigma) / LATENT
    same(world, per_pixel_and_unit, factor=PIXELS)


def wae_kernels(a, b):
    """tolstikhin/wae, wae.py, mmd_penalty: C / (C + r^2) over seven scales of 2 d sigma_p^2."""
    distances = torch.cdist(a, b).square()
    return sum(scale * 2 * LATENT / (scale * 2 * LATENT + distances) for scale in (0.1, 0.2, 0.5, 1, 2, 5, 10))


def wae_penalty(z, prior_z):
    off = 1 - torch.eye(BATCH).double()
    within = ((wae_kernels(z, z) + wae_kernels(prior_z, prior_z)) * off).sum() / (BATCH * BATCH - BATCH)
    return within - 2 * wae_kernels(z, prior_z).sum() / BATCH**2


def test_wae_mmd():
    # configs.py: lambda 10 (MNIST), cost l2sq; wae.py: 0.05 x the squared error summed over pixels
    world = World("wae_mmd", likelihood="gaussian")
    assert not world.objective.encoder.varies
    theirs = 0.05 * squared(world.x, world.seen) + 10 * wae_penalty(world.z, world.prior_z)
    same(world, theirs, factor=20)


@pytest.mark.parametrize("name", ["bernoulli", "continuous_bernoulli", "laplace", "gaussian"])
def test_another_likelihood_costs_at_least_what_the_published_weight_stands_beside(name):
    # at weight 1 the likelihood is everywhere at least `cost` times the squared error beside which lambda was published
    likelihood = LIKELIHOODS[name]
    logits = torch.linspace(-9, 9, 181, dtype=torch.float64)
    means = likelihood.mean(logits)
    x = means[:, None, None]
    excess = likelihood.log_prob(x, logits[:, None, None])[:, None] - likelihood.log_prob(
        x.repeat_interleave(181, 0), logits.repeat(181)[:, None, None]
    ).reshape(181, 181)
    apart = (means[:, None] - means).square()
    ratio = (excess / apart)[apart > 1e-6]
    assert float(ratio.min()) >= likelihood.cost * (1 - 1e-6)
    # and no larger factor would do
    assert float(ratio.min()) <= likelihood.cost * 1.03
    wae = World("wae_gan", likelihood=name)
    assert float(wae.constants.weights) == pytest.approx(200 * likelihood.cost)


def infovae_kernel(x, y):
    """ShengjiaZhao/InfoVAE, mmd_vae_eval.py, compute_kernel: the mean over dimensions, divided by their number."""
    dim = x.shape[1]
    return torch.exp(-(x[:, None] - y[None]).square().mean(2) / dim)


@pytest.mark.parametrize(("mi", "reg_size"), [(0.0, 1000.0), (0.5, 50.0)])
def test_info_vae(mi, reg_size):
    # mmd_vae_eval.py: loss_nll + (reg_size + mi - 1) loss_mmd + (1 - mi) loss_elbo, all summed over pixels and units.
    # Its loss_mmd keeps the diagonals, k = 1, so its mean is larger by (2 - E k(z, z') - E k(p, p')) / n; ours is
    # unbiased. The paper's setting is alpha 0, lambda 1000 (section 5).
    world = World("info_vae", {"alpha": mi, "lambda": reg_size})
    within = [(infovae_kernel(a, a).sum() - BATCH) / (BATCH * (BATCH - 1)) for a in (world.z, world.prior_z)]
    loss_mmd = sum(within) - 2 * infovae_kernel(world.z, world.prior_z).mean()
    kept = infovae_kernel(world.z, world.z).mean() + infovae_kernel(world.prior_z, world.prior_z).mean()
    kept = kept - 2 * infovae_kernel(world.z, world.prior_z).mean()
    assert float((kept - loss_mmd).detach()) == pytest.approx(float((2 - sum(within)).detach()) / BATCH)
    theirs = cross_entropy(world) + (reg_size + mi - 1) * loss_mmd + (1 - mi) * rate(world.mu, world.sigma)
    same(world, theirs)
    assert World("info_vae").constants.weights.tolist() == [1.0, 999.0]


def test_the_kernel_follows_the_scale_of_the_prior():
    # of codes and a prior that are both twice as wide it is the same; the authors' prior is N(0, I) alone
    one, two = (World("info_vae", prior={"name": "normal", "scale": scale}) for scale in (1.0, 2.0))
    restriction = one.objective.restrictions[1]
    double = one.objective.sample(one.weights, two.constants, one.x, one.noise)
    double.posterior = one.sample.posterior._replace(z=2 * one.z)
    torch.testing.assert_close(restriction.value(double, None), restriction.value(one.sample, None))


# With a critic, of probabilities D


def test_wae_gan():
    # Tolstikhin et al. 2018, algorithm 1: c(x, G(z)) - lambda log D(z), D the probability of the prior
    world = World("wae_gan", likelihood="gaussian")
    assert not world.objective.encoder.varies
    d = torch.sigmoid(-world.logit("latent_js", world.z))
    same(world, 0.05 * squared(world.x, world.seen) - 10 * d.log().mean(), factor=20)


def test_aae():
    # Makhzani et al. 2016, section 2: the reconstruction, and the encoder against D, the probability of the prior; the
    # phases summed, as most code has it
    world = World("aae")
    d = torch.sigmoid(-world.logit("latent_js", world.z))
    same(world, cross_entropy(world) + binary_cross_entropy(d, torch.ones(BATCH).double()))


def test_avb():
    # avb/avb/__init__.py: reconst_err + Td + logr - logz, the adversary's logit of standardised codes
    world = World("avb", sigma_min=0.0)
    mu, sigma = world.mu.detach(), world.sigma.detach()
    norm = (world.z - mu) / sigma
    logr = -0.5 * (norm.square() + 2 * sigma.log() + math.log(2 * math.pi)).sum(1)
    logz = -0.5 * (world.z.square() + math.log(2 * math.pi)).sum(1)
    td = world.logit("posterior_kl_contrast", world.x, norm)
    same(world, cross_entropy(world) + (td + logr - logz).mean(), modules=("encoder", "decoder", "basis"))


@pytest.mark.parametrize("gamma", [0.25, 1e-2])
def test_vae_gan(gamma):
    # andersbll/autoencoding_beyond_pixels, model/aegan.py: the decoder's gradients are recon_vs_gan_weight of the
    # reconstruction and 1 less it of the GAN's, the encoder has none of the latter. Its GAN loss is the saturating
    # minimax, ours the non-saturating one; the fakes are prior samples alone (its flag discriminate_sample_z). Its
    # NLLNormal has sigma 1, of features that batch normalisation has put in units of their deviation; ours have one.
    world = World("vae_gan", {"gamma": gamma})
    real, seen = world.features(world.x), world.features(world.seen)
    deviation = (real.detach() - real.detach().mean(0)).square().mean().sqrt()
    recon = 0.5 * squared(real / deviation, seen / deviation)
    gan = binary_cross_entropy(torch.sigmoid(world.logit("data_js", world.made)), torch.ones(BATCH).double())
    same(world, gamma * recon + (1 - gamma) * gan, factor=1 / gamma, modules=("decoder",))
    same(world, recon + rate(world.mu, world.sigma), modules=("encoder",))


def test_alice():
    # Li et al. 2017, eq. 3 and 8: ALI's game, labels swapped (toy_data/ALICE_l2.py, gen_loss_xz), and the cycle
    # -E log p(x|z) at weight 1; the toys' code takes a mean over its two dimensions, and the cycle of codes beside it
    world = World("alice")
    decoder, encoder = world.logit("joint_js", world.made, world.prior_z), world.logit("joint_js", world.x, world.z)
    game = softplus(-decoder).mean() + softplus(encoder).mean()
    same(world, game + cross_entropy(world))


def gaussian_nll(z, mu, sigma):
    return 0.5 * ((z - mu) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)


def test_infogan():
    # openai/InfoGAN, infogan_trainer.py: -E log D(G) - info_reg_coeff E log Q(c|G), the coefficient 1.0
    world = World("infogan")
    d = torch.sigmoid(world.logit("data_js", world.made))
    mu, sigma = world.objective.encode(world.weights, world.made)
    same(world, -d.log().mean() + 1.0 * gaussian_nll(world.prior_z, mu, sigma).sum(1).mean())


def test_aim():
    # alexanderhanboli/AIM, AIM_MNIST.py: BCE(D(G), 1) + the mean over the batch of the mean over dimensions
    world = World("aim")
    d = torch.sigmoid(world.logit("data_js", world.made))
    mu, sigma = world.objective.encode(world.weights, world.made)
    e_loss = gaussian_nll(world.prior_z, mu, sigma).mean(1).mean()
    same(world, binary_cross_entropy(d, torch.ones(BATCH).double()) + e_loss, factor=LATENT)


def test_veegan():
    # Srivastava et al. 2017, eq. 6, and its linked code (veegan_julia_mnist.ipynb, loss_g): the mean logit
    # log p(x, z) / q(x, z) and the squared error of codes, summed over dimensions
    world = World("veegan")
    logit = -world.logit("joint_kl_reverse", world.made, world.prior_z)
    mu, _ = world.objective.encode(world.weights, world.made)
    same(world, logit.mean() + squared(world.prior_z, mu), factor=0.5)


def test_cyclegan():
    # junyanz/CycleGAN, cycle_gan_model.lua: MSECriterion of D(G) and the real label, and lambda 10 x AbsCriterion, the
    # mean over pixels, of each cycle
    world = World("cyclegan")
    there = world.z
    back = world.seen
    again, _ = world.objective.encode(world.weights, world.made)
    cycles = (world.x - back).abs().mean() + (world.prior_z - again).abs().mean()
    fake_a, fake_b = world.logit("data_lsgan", world.made), world.logit("latent_lsgan", there)
    games = mse_loss(fake_a, torch.ones(BATCH).double()) + mse_loss(fake_b, torch.zeros(BATCH).double())
    same(world, games + 10.0 * cycles, factor=PIXELS / 10)
