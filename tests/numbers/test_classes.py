"""Classes covered, of generated images that are real ones of known classes; and classes as categories name them."""

import math
from types import SimpleNamespace

import pytest
import torch

from gimtune.metrics.classes import classes_covered, code_accuracy
from gimtune.metrics.features import features_of
from gimtune.study.composition import load
from gimtune.study.resolve import members


def view(evaluation, digits, keep):
    """Real test images of some classes, as if they had been generated."""
    labels = evaluation.data.labels["test"]
    chosen = torch.cat([evaluation.data.scaled("test", slice(None))[labels == label] for label in keep])
    features = features_of(evaluation.network, chosen)
    return SimpleNamespace(network=evaluation.network, generated_features=features, labels=labels)


@pytest.mark.parametrize("keep", [(3,), (0, 1, 4, 7), tuple(range(10))])
def test_real_images_of_some_classes_cover_these(evaluation, digits, keep):
    assert classes_covered(view(evaluation, digits, keep)).value == len(keep)


def test_a_stray_image_covers_no_class(evaluation, digits):
    made = view(evaluation, digits, (0,))
    one = view(evaluation, digits, (7,)).generated_features[:1]
    # one in two hundred, where half a class' share is one in twenty
    made.generated_features = torch.cat([made.generated_features.repeat(6, 1), one])
    assert classes_covered(made).value == 1


def test_a_network_that_recognises_nothing_covers_none(evaluation, digits):
    made = view(evaluation, digits, (0,))
    made.network = SimpleNamespace(name="inception")
    found = classes_covered(made)
    assert math.isnan(found.value)
    assert found.reason == "the feature network inception recognises no classes"


def test_the_papers_gans_are_planned_with_their_networks():
    small = ["network.channels=[8]", "network.hidden=[16]", "critic.hidden=[16]", "space.weight=1", "space.seed=0"]
    found = members(load(["study=gan_papers", "data=digits", *small]))
    assert [one.model for one in found] == ["infogan", "aim", "alice", "veegan", "vae_gan"]
    assert {(one.network["name"], one.latent_dim, one.restore) for one in found} == {("conv", 64, "objectives")}


def named(known, found, labels, training, categories=3):
    def coded(chosen):
        return SimpleNamespace(
            mu=torch.cat([torch.eye(categories)[torch.tensor(chosen)], torch.rand(len(chosen), 2)], 1)
        )

    return SimpleNamespace(
        encoder=SimpleNamespace(categories=categories),
        training=coded(known),
        posterior=coded(found),
        labels=torch.tensor(labels),
        training_labels=torch.tensor(training),
    )


def test_categories_name_classes_as_they_do_on_training_images():
    # category 0 is class 2, 1 is 0 and 2 is 1; one held-out image in four is of another class than its category's
    made = named([0, 0, 1, 1, 2], [0, 1, 2, 2], [2, 0, 1, 0], [2, 2, 0, 0, 1])
    found = code_accuracy(made)
    assert (found.value, found.error) == (0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 4)))


def test_a_category_stands_for_one_class_at_most_and_so_does_a_class():
    # both categories see mostly class 0: the second has to take what is left; a third names nothing
    made = named([0, 0, 0, 1, 1, 1], [0, 1, 1, 2], [0, 0, 1, 1], [0, 0, 0, 0, 0, 1])
    assert code_accuracy(made).value == 0.5


def test_codes_without_a_category_name_nothing(evaluation, digits):
    made = named([0], [0], [0], [0])
    made.encoder = SimpleNamespace()
    assert code_accuracy(made).reason == "codes have no category"
