"""What the likelihood of VAE-GAN, features of its critic, makes of held-out images."""

import pytest
import torch
from helpers import member

from gimtune.algebra.likelihoods import Features
from gimtune.networks import CriticNetwork
from gimtune.training.pack import Pack


def explained(pack, data, split):
    """Share of the variance that reconstructions explain: of the critic's features, and of pixels."""
    objective, parameters, x = pack.objective, pack.one(0), data.scaled(split, slice(None))
    noise = objective.noise(("test",), len(x), 1, x.device)["posterior"]
    with torch.no_grad():
        z = objective.posterior(parameters, x, noise).z
        seen = objective.likelihood.mean(objective.decode(parameters, z))
        features = [objective._call("data_js", parameters, images.flatten(1), True) for images in (x, seen)]
    return [float(1 - (a - b).square().sum() / (a - a.mean(0)).square().sum()) for a, b in (features, (x, seen))]


@pytest.mark.slow
def test_reconstructions_explain_the_features_of_held_out_images(evaluation):
    # features of the last hidden layer at unit variance left half the trace of their covariance, 1 to 3 nats, to gain:
    # reconstructions explained less than nothing
    one = member(
        "vae_gan", latent_dim=8, network={"name": "mlp", "hidden": [128, 128]}, critic={"hidden": [128, 128]}, epochs=60
    )
    pack = Pack([one], evaluation.data)
    for _ in range(one.epochs):
        pack.train_epoch()
    of_features, of_pixels = explained(pack, evaluation.data, "validation")
    assert of_features > 0.5
    assert of_pixels > 0.5


def test_the_unit_of_features_does_not_matter():
    source = torch.Generator().manual_seed(0)
    real, seen = torch.randn(2, 20, 6, generator=source, dtype=torch.float64)
    nats = Features().log_prob(real, seen)
    assert torch.allclose(Features().log_prob(9 * real + 4, 9 * seen + 4), nats)
    assert not torch.allclose(Features(standardised=False).log_prob(9 * real, 9 * seen), nats)
    # half a nat a feature, and the constant, is what the mean feature leaves
    mean = Features().log_prob(real, real.mean(0).expand_as(real)).mean()
    assert float(mean) == pytest.approx(-0.5 * 6 * (1 + torch.tensor(2 * torch.pi).log().item()))


@pytest.mark.parametrize(("channels", "width"), [((), 9), ((3, 5), 5 * 2 * 2)])
def test_features_are_an_early_layer(channels, width):
    network = CriticNetwork((1, 8, 8), 0, [9, 7], channels).to_empty(device="cpu")
    for value in network.parameters():
        torch.nn.init.normal_(value)
    images = torch.rand(4, 64)
    features = network(images, True)
    assert features.shape == (4, width)
    # what comes after it has no part in it
    with torch.no_grad():
        network.dense[-2].weight.zero_()
    assert network(images, True).equal(features)
