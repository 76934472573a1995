"""Our losses against pythae 0.1.2's: the same weights, batch and noise in both, in float64.

What changes between the scales, k and the constant c being those of the reconstruction (`SCALES`), d the latent size:

    pythae                                              ours
    recon_loss, "bce"                                   -log p(x|z), bernoulli                    k = 1, c = 0
    recon_loss, "mse": half the squared error           k (-log p(x|z) - c), gaussian             k = 1/2, c = P/2 ln pi
    WAE's recon_loss: scale x the squared error         scale (-log p(x|z) - c), gaussian
    VAEGAN's recon_loss: half the error of features     -log p(f|z) - K/2 ln 2 pi of K features
    weight w beside recon_loss                          weight w / k
    kernel_bandwidth b                                  the prior's scale: both kernels have C = 2 d b^2
    BCE(D, 1) and BCE(D, 0) of a probability D          softplus(-+T) of the logit T = log q/p
    label 1: the prior's codes (AAE), data (VAEGAN)     D = sigmoid(-T) in AAE, where q is the encoder's; sigmoid(T)
    discriminator_loss                                  the critic's loss; the JS we report is ln 2 - half of it

sigma^2 = sigma_start^2 exp(s) + sigma_min^2 is ours, sigma_start here 1, and pythae's encoder here puts out the log of
it. pythae's BCE goes by D: log D stops at -100, and log(1 - D) loses digits as D nears 1 and stops where D rounds to 1
(from a logit of 37 on, in float32 of 17); softplus does neither. The critics' logits here are below 8.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import member
from torch import nn
from torch.nn.functional import binary_cross_entropy, leaky_relu, relu, softplus

from gimtune.algebra.likelihoods import Features, Gaussian
from gimtune.algebra.objective import Constants, Objective

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
#: Not square and of two colours, so that an image flattened in another order would show.
IMAGE = (2, 3, 4)
PIXELS = math.prod(IMAGE)
LATENT, BATCH, SIGMA_MIN = 3, 12, 0.05
CRITIC = (9, 6)
LN2 = math.log(2)
#: By pythae's reconstruction_loss: our likelihood, k and c.
SCALES = {"bce": ("bernoulli", 1.0, 0.0), "mse": ("gaussian", 0.5, 0.5 * PIXELS * math.log(math.pi))}
RECONSTRUCTIONS = pytest.mark.parametrize("reconstruction", SCALES)


@pytest.fixture(scope="module")
def pythae():
    """Its models, and the modules that they take, written anew over weights of ours."""
    pytest.importorskip("pythae", reason="pip install pythae==0.1.2", exc_type=ImportError)
    models = pytest.importorskip("pythae.models", exc_type=ImportError)
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
    from pythae.trainers import CoupledOptimizerAdversarialTrainer

    class Encoder(BaseEncoder):
        def __init__(self, weights, variational):
            super().__init__()
            self.layers, self.variational = linears(weights), variational

        def forward(self, x):
            out = through(self.layers, x.flatten(1), relu)
            if not self.variational:
                return ModelOutput(embedding=out, log_covariance=torch.zeros_like(out))
            mu, log_variance = out.chunk(2, -1)
            return ModelOutput(embedding=mu, log_covariance=(log_variance.exp() + SIGMA_MIN**2).log())

    class Decoder(BaseDecoder):
        def __init__(self, weights):
            super().__init__()
            self.layers = linears(weights)

        def forward(self, z):
            return ModelOutput(reconstruction=through(self.layers, z, relu).sigmoid().reshape(-1, *IMAGE))

    class Discriminator(BaseDiscriminator):
        """``sign`` is that of the label which our q has."""

        def __init__(self, weights, sign):
            super().__init__()
            self.layers, self.sign = linears(weights), sign
            self.depth = len(self.layers)

        def forward(self, inputs, output_layer_levels=()):
            out, output = inputs.flatten(1), ModelOutput()
            for level, layer in enumerate(self.layers[:-1], 1):
                out = leaky_relu(layer(out), 0.2)
                if level in output_layer_levels:
                    output[f"embedding_layer_{level}"] = out
            output["embedding"] = (self.sign * self.layers[-1](out)).sigmoid()
            return output

    return SimpleNamespace(
        models=models,
        Encoder=Encoder,
        Decoder=Decoder,
        Discriminator=Discriminator,
        Trainer=CoupledOptimizerAdversarialTrainer,
    )


def linears(weights):
    """Dense layers with the values of (weight, bias, weight, bias, ...)."""
    values = list(weights.values())
    layers = nn.ModuleList()
    for weight, bias in zip(values[::2], values[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers


def through(layers, out, activation):
    for layer in layers[:-1]:
        out = activation(layer(out))
    return layers[-1](out)


@pytest.fixture(autouse=True)
def float64():
    # pythae makes its labels in the default dtype
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class World:
    """A model of ours on one batch; `theirs` gives pythae's output on the same."""

    def __init__(self, name, of_pixels=None, **options):
        one = member(
            name,
            latent_dim=LATENT,
            sigma_min=SIGMA_MIN,
            sigma_start=1.0,
            network={"name": "mlp", "hidden": [8, 7]},
            **{"critic": {"hidden": CRITIC}, **options},
        )
        self.objective = Objective(one, IMAGE, likelihood=of_pixels)
        self.gaussian = one.encoder == "gaussian"
        # twice torch's own, for images that are not all grey; the seed, for logits of order 1, some of them negative
        self.weights = {
            module: {name: (2 * value).requires_grad_() for name, value in values.items()}
            for module, values in self.objective.initial(9, CPU).items()
        }
        prior = self.objective.prior.parameters(LATENT)
        self.constants = Constants(torch.tensor([w for *_, w in one.restrictions]), prior)
        self.noise = self.objective.noise(("test",), BATCH, 1, CPU)
        if "prior" in self.noise:
            self.noise["prior"].requires_grad_()
            self.prior_z = self.objective.prior.sample(prior, self.noise["prior"])
        self.x = torch.rand(BATCH, *IMAGE, generator=torch.Generator().manual_seed(1))
        self.terms = self.objective.terms(self.weights, self.constants, self.x, self.noise)

    def divergence(self, key):
        """Value of one restriction, by its column's name."""
        return self.terms.divergences[[r.key for r in self.objective.restrictions].index(key)]

    def loss(self, player):
        return self.objective.loss(player, self.weights, self.constants, self.x, self.noise)

    def gradients(self, loss, module):
        """Of a loss of ours, in the weights of a module."""
        return gradients(loss, list(self.weights[module].values()))

    def logits(self, key):
        """The critic's, under q and under p."""
        sample = self.objective.sample(self.weights, self.constants, self.x, self.noise)
        (restriction,) = (r for r in self.objective.restrictions if r.key == key)
        under_q, under_p = restriction.logits(sample, self.objective._logits(key, self.weights))
        for logits in (under_q, under_p):
            # where 1 - sigmoid has its digits, and where the curvature of softplus shows
            assert 0.3 < logits.abs().max() < 8
        return under_q, under_p

    def theirs(self, pythae, monkeypatch, model, draws, critic="", sign=1, **settings):
        """pythae's model and its output; ``draws`` are what it draws, in turn."""
        name, config = model
        settings = {"input_dim": IMAGE, "latent_dim": LATENT, **settings}
        modules = {
            "encoder": pythae.Encoder(self.weights["encoder"], self.gaussian),
            "decoder": pythae.Decoder(self.weights["decoder"]),
        }
        if critic:
            modules["discriminator"] = pythae.Discriminator(self.weights[critic], sign)
        rival = getattr(pythae.models, name)(getattr(pythae.models, config)(**settings), **modules)
        queue = list(draws)

        def randn_like(like, **_):
            draw = queue.pop(0)
            assert draw.shape == like.shape
            return draw

        with monkeypatch.context() as patched:
            patched.setattr(torch, "randn_like", randn_like)
            output = rival({"data": self.x})
        assert not queue
        assert output.loss.dtype == torch.float64
        return rival, output


def gradients(loss, tensors):
    return torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=True)


def agree(ours, theirs):
    """Equal but for rounding in float64: within 1e-12 of a tensor's largest value. Not all of them are 0."""
    if isinstance(ours, torch.Tensor):
        ours, theirs = [ours], [theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12 * float(other.detach().abs().max()))
    assert any(other.detach().abs().max() > 1e-4 for other in theirs)


def same_gradients(world, ours, rival, theirs, *modules):
    """The gradients of a loss of ours and one of pythae's, in every weight of these modules."""
    for module in modules:
        named = module if module in ("encoder", "decoder") else "discriminator"
        expected = gradients(theirs, list(getattr(rival, named).parameters()))
        agree(world.gradients(ours, module), expected)


# Without a critic


@RECONSTRUCTIONS
@pytest.mark.parametrize(("name", "beta"), [("vae", 1.0), ("beta_vae", 1.0), ("beta_vae", 0.25), ("beta_vae", 4.0)])
def test_vae_and_beta_vae(pythae, monkeypatch, name, beta, reconstruction):
    likelihood, k, c = SCALES[reconstruction]
    world = World(name, weight=beta / k, likelihood=likelihood)
    model = ("VAE", "VAEConfig") if name == "vae" else ("BetaVAE", "BetaVAEConfig")
    settings = {} if name == "vae" else {"beta": beta}
    rival, output = world.theirs(
        pythae, monkeypatch, model, [world.noise["posterior"]], reconstruction_loss=reconstruction, **settings
    )
    agree(k * (-world.terms.likelihood - c), output.recon_loss)
    agree(world.divergence("posterior_kl"), output.reg_loss)
    agree(k * (world.terms.loss - c), output.loss)
    same_gradients(world, k * world.terms.loss, rival, output.loss, "encoder", "decoder")


def test_the_half_squared_error_is_variance_one(pythae, monkeypatch):
    # at our variance 1/2 it takes weight 2 (above); at variance 1 the losses differ by a constant alone
    world = World("vae", of_pixels=Gaussian(variance=1.0))
    _, output = world.theirs(pythae, monkeypatch, ("VAE", "VAEConfig"), [world.noise["posterior"]])
    agree(world.terms.loss, output.loss + 0.5 * PIXELS * math.log(2 * math.pi))


WAE = ("WAE_MMD", "WAE_MMD_Config")


@pytest.mark.parametrize(("kernel", "divergence"), [("imq", "mmd"), ("rbf", "mmd_rbf")])
@pytest.mark.parametrize(("bandwidth", "scale", "weight"), [(1.0, 1.0, 3e-2), (1.0, 0.05, 10.0), (1.7, 1.0, 5.0)])
def test_wae_mmd(pythae, monkeypatch, kernel, divergence, bandwidth, scale, weight):
    # Both are unbiased: within a sample without the diagonal, between them over all n^2 (wae_mmd_model.py, 95-99).
    # The encoders are deterministic, as the paper's.
    # pythae draws from N(0, I) whatever the bandwidth (67); here its draws are those of our prior.
    world = World(
        "wae_mmd",
        likelihood="gaussian",
        prior={"name": "normal", "scale": bandwidth},
        restrictions=(("latent", divergence, weight / scale),),
    )
    rival, output = world.theirs(
        pythae,
        monkeypatch,
        WAE,
        [world.prior_z],
        kernel_choice=kernel,
        kernel_bandwidth=bandwidth,
        reconstruction_loss_scale=scale,
        reg_weight=weight,
    )
    constant = SCALES["mse"][2]
    agree(scale * (-world.terms.likelihood - constant), output.recon_loss)
    agree(world.divergence(f"latent_{divergence}"), output.mmd_loss)
    agree(scale * (world.terms.loss - constant), output.loss)
    same_gradients(world, scale * world.terms.loss, rival, output.loss, "encoder", "decoder")


def test_the_published_weight_of_wae_mmd(pythae, monkeypatch):
    # lambda 10 beside 0.05 x the squared error, as in the paper's code: the defaults of our declaration
    world = World("wae_mmd", likelihood="gaussian")
    settings = {"reconstruction_loss_scale": 0.05, "reg_weight": 10.0}
    _, output = world.theirs(pythae, monkeypatch, WAE, [world.prior_z], **settings)
    agree(0.05 * (world.terms.loss - SCALES["mse"][2]), output.loss)


@RECONSTRUCTIONS
@pytest.mark.parametrize(("alpha", "lbd"), [(0.0, 1000.0), (0.5, 3.0), (1.0, 10.0)])
@pytest.mark.parametrize(("kernel", "divergence"), [("imq", "mmd"), ("rbf", "mmd_rbf")])
def test_info_vae(pythae, monkeypatch, reconstruction, alpha, lbd, kernel, divergence):
    # pythae's own defaults, alpha 0 and lbd 1e-3 (info_vae_config.py), give the MMD weight -0.999, which we refuse; its
    # docstring has 0.5 and 3e-2, weight -0.47. The paper's are the first here.
    likelihood, k, c = SCALES[reconstruction]
    options = {"weight": 1 / k, "parameters": {"alpha": alpha, "lambda": lbd}, "likelihood": likelihood}
    # pythae's kernels are not the authors', which ours has
    options["restrictions"] = (("posterior", "kl", (1 - alpha) / k), ("latent", divergence, (alpha + lbd - 1) / k))
    world = World("info_vae", **options)
    rival, output = world.theirs(
        pythae,
        monkeypatch,
        ("INFOVAE_MMD", "INFOVAE_MMD_Config"),
        [world.noise["posterior"], world.prior_z],
        reconstruction_loss=reconstruction,
        kernel_choice=kernel,
        alpha=alpha,
        lbd=lbd,
    )
    agree(k * (-world.terms.likelihood - c), output.recon_loss)
    agree(world.divergence("posterior_kl"), output.reg_loss)
    agree(world.divergence(f"latent_{divergence}"), output.mmd_loss)
    agree(k * (world.terms.loss - c), output.loss)
    same_gradients(world, k * world.terms.loss, rival, output.loss, "encoder", "decoder")


# With a critic


@RECONSTRUCTIONS
@pytest.mark.parametrize("encoder", ["gaussian", "deterministic"])
@pytest.mark.parametrize(("scale", "weight"), [(1.0, 0.5), (1.0, 0.9), (0.3, 1.0)])
def test_aae(pythae, monkeypatch, reconstruction, encoder, scale, weight):
    # The model's term is non-saturating in both, BCE(D(z), 1) (adversarial_ae_model.py, 180-184). pythae's loss has its
    # value; ours has that of the JS divergence, with the same gradient: the loss is compared by its gradients.
    likelihood, k, c = SCALES[reconstruction]
    world = World("aae", weight=weight / (scale * k), likelihood=likelihood, encoder=encoder)
    rival, output = world.theirs(
        pythae,
        monkeypatch,
        ("Adversarial_AE", "Adversarial_AE_Config"),
        [world.noise["posterior"], world.prior_z],
        critic="latent_js",
        sign=-1,
        reconstruction_loss=reconstruction,
        deterministic_posterior=encoder == "deterministic",
        reconstruction_loss_scale=scale,
        adversarial_loss_scale=weight,
    )
    agree(k * (-world.terms.likelihood - c), output.recon_loss)
    # 188-196: both terms with weight 1, the prior's codes labelled 1
    agree(world.loss("latent_js"), output.discriminator_loss)
    same_gradients(world, world.loss("latent_js"), rival, output.discriminator_loss, "latent_js")
    agree(world.divergence("latent_js"), LN2 - 0.5 * output.discriminator_loss)
    under_q, _ = world.logits("latent_js")
    agree(softplus(under_q).mean(), (output.autoencoder_loss - scale * output.recon_loss) / weight)
    same_gradients(world, scale * k * world.terms.loss, rival, output.autoencoder_loss, "encoder", "decoder")


def vae_gan(pythae, monkeypatch, gamma, divergence="js", **settings):
    """Ours and pythae's, at the same ratio of adversarial to reconstruction weight; without our critic's R1 penalty.

    The penalty, 0.1/2 |dT/dx|^2 at the images, is a habit of ours for critics of images. pythae has none.
    """
    critic = {"hidden": CRITIC, "gradient_penalty": 0.0}
    ratio = (1 - gamma) / gamma
    options = {"parameters": {"gamma": gamma}}
    if divergence != "js":
        # the JS divergence is ln 2 - half the critic's loss, and pythae's decoder ascends the whole of it
        options = {"restrictions": (("posterior", "kl", 1.0), ("data", divergence, 2 * ratio))}
    # ours are in units of their deviation, as in the paper's critic with batch normalisation; pythae has none
    world = World("vae_gan", of_pixels=Features(standardised=False), critic=critic, **options)
    rival, output = world.theirs(
        pythae,
        monkeypatch,
        ("VAEGAN", "VAEGANConfig"),
        [world.noise["posterior"], world.prior_z],
        critic=f"data_{divergence}",
        # our features are the first hidden layer; pythae's default, -1, is D itself (vae_gan_model.py, 84-85)
        reconstruction_layer=1,
        adversarial_loss_scale=1 - gamma,
        **settings,
    )
    return world, rival, output


GAMMAS = pytest.mark.parametrize("gamma", [0.25, 0.2, 0.8])
FEATURES = 0.5 * CRITIC[0] * math.log(2 * math.pi)


@GAMMAS
def test_vae_gan(pythae, monkeypatch, gamma):
    world, rival, output = vae_gan(pythae, monkeypatch, gamma)
    agree(-world.terms.likelihood - FEATURES, output.recon_loss)
    agree(-world.terms.likelihood - FEATURES + world.divergence("posterior_kl"), output.encoder_loss)
    # fakes are decoded prior draws alone in both (208-230)
    agree(world.loss("data_js"), output.discriminator_loss)
    same_gradients(world, world.loss("data_js"), rival, output.discriminator_loss, "data_js")
    agree(world.divergence("data_js"), LN2 - 0.5 * output.discriminator_loss)
    # the encoder sees no critic but by its features, in both, though ours has one loss for encoder and decoder
    same_gradients(world, world.terms.loss, rival, output.encoder_loss, "encoder")


@GAMMAS
def test_the_decoder_of_vae_gan(pythae, monkeypatch, gamma):
    # pythae's is saturating, gamma x recon - (1 - gamma) x the discriminator's loss (232-234), as Larsen et al.'s code;
    # that of our vae_gan is not: softplus(-T) of a generated image in place of -softplus(T). So of the adversarial part
    # each image's gradient, whose only way to the loss is its code from the prior, differs by exp(-T), and by no more.
    world, rival, output = vae_gan(pythae, monkeypatch, gamma)
    _, under_p = world.logits("data_js")
    (ours,) = gradients(world.terms.loss, [world.noise["prior"]])
    (theirs,) = gradients(output.decoder_loss, [world.noise["prior"]])
    agree(ours, (theirs / gamma) * torch.exp(-under_p)[:, None])
    # in the weights: pythae's parts, with BCE(D, 1) as its AAE has it
    fake = rival.discriminator(rival.decoder(world.prior_z).reconstruction).embedding.flatten()
    generated = binary_cross_entropy(fake, torch.ones(BATCH))
    expected = output.recon_loss + (1 - gamma) / gamma * generated
    same_gradients(world, world.terms.loss, rival, expected, "decoder")


@GAMMAS
def test_vae_gan_with_a_saturating_decoder(pythae, monkeypatch, gamma):
    world, rival, output = vae_gan(pythae, monkeypatch, gamma, "js_saturating")
    agree(world.loss("data_js_saturating"), output.discriminator_loss)
    constant = FEATURES + 2 * (1 - gamma) / gamma * LN2
    agree(world.terms.loss - world.divergence("posterior_kl") - constant, output.decoder_loss / gamma)
    same_gradients(world, world.terms.loss, rival, output.decoder_loss / gamma, "decoder")
    same_gradients(world, world.terms.loss, rival, output.encoder_loss, "encoder")


@GAMMAS
def test_what_the_trainer_of_pythae_makes_of_vae_gan(pythae, monkeypatch, gamma):
    # A difference in training that its losses do not show. The trainer's step clears each module's gradient before that
    # module's own backward pass and steps after all three, while none of the losses is detached
    # (coupled_optimizer_adversarial_trainer.py, 228-254). So the encoder also descends the decoder's: features weigh
    # 1 + gamma there. And the decoder also descends the discriminator's, which leaves it gamma x recon + gamma x the
    # discriminator's loss: the sign of a helper, not of a rival. Our players have own gradients.
    # pythae skips the discriminator or the decoder where a cost is outside 0.68 -+ margin (vae_gan_model.py, 240-255),
    # which the margin here rules out; ours has no such rule.
    _, rival, output = vae_gan(pythae, monkeypatch, gamma, margin=100.0)
    losses = {
        "encoder": output.encoder_loss + gamma * output.recon_loss,
        "decoder": gamma * (output.recon_loss + output.discriminator_loss),
        "discriminator": output.discriminator_loss,
    }
    weights = {module: list(getattr(rival, module).parameters()) for module in losses}
    expected = {module: gradients(loss, weights[module]) for module, loss in losses.items()}
    optimisers = {f"{module}_optimizer": torch.optim.SGD(values, lr=0.0) for module, values in weights.items()}
    pythae.Trainer._optimizers_step(SimpleNamespace(**optimisers), output)
    for module, values in weights.items():
        agree([value.grad for value in values], expected[module])
