"""Frechet distances against pytorch-fid and closed forms; feature networks that are what they are said to be."""

import dataclasses
import inspect
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CPU
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytorch_fid import fid_score, inception
from scipy import linalg

from gimtune import data
from gimtune.metrics import features, frechet, kernel, lenet, precision_recall
from gimtune.metrics.view import spaced


def moments(rng, dimensions):
    """A mean and a covariance whose condition number is at most 100."""
    vectors, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    return rng.normal(size=dimensions), (vectors * rng.uniform(0.1, 10, dimensions)) @ vectors.T


def statistics(mean, covariance):
    return frechet.Statistics(torch.from_numpy(mean), torch.from_numpy(covariance), None)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize("dimensions", [2, 16, 84, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frechet_equals_pytorch_fid(dimensions, seed, monkeypatch):
    if "disp" not in inspect.signature(linalg.sqrtm).parameters:
        # which pytorch-fid passes, and SciPy no longer has: the root, and an error that is not looked at
        monkeypatch.setattr(fid_score, "linalg", SimpleNamespace(sqrtm=lambda a, disp: (linalg.sqrtm(a), None)))
    rng = np.random.default_rng(seed)
    (m1, c1), (m2, c2) = moments(rng, dimensions), moments(rng, dimensions)
    theirs = fid_score.calculate_frechet_distance(m1, c1, m2, c2)
    # the bound: SciPy's matrix root of a product that is not symmetric loses a few digits
    assert frechet.frechet(statistics(m1, c1), statistics(m2, c2)) == pytest.approx(theirs, rel=1e-8)


def test_frechet_with_the_cached_root_is_the_same():
    rng = np.random.default_rng(3)
    one, two = (torch.from_numpy(rng.normal(size=(500, 20)) @ np.diag(rng.uniform(0.5, 2, 20))) for _ in range(2))
    cached = frechet.frechet(frechet.statistics(one), frechet.statistics(two, root=True))
    assert cached == frechet.frechet(frechet.statistics(one), frechet.statistics(two))


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.floats(0.05, 5), st.floats(0.05, 5))
def test_frechet_of_shifted_diagonal_gaussians(shift, s1, s2):
    scales = np.array([1.0, 0.5, 2.0, 0.1])
    one, two = np.diag((s1 * scales) ** 2), np.diag((s2 * scales) ** 2)
    expected = np.square(shift).sum() + ((s1 - s2) ** 2 * scales**2).sum()
    value = frechet.frechet(statistics(np.array(shift), one), statistics(np.zeros(4), two))
    # traces of up to 131 cancel where the two are equal
    assert value == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_frechet_of_a_set_with_itself_is_zero():
    features = torch.randn(400, 84, generator=torch.Generator().manual_seed(0))
    found = frechet.statistics(features, root=True)
    assert abs(frechet.frechet(found, found)) < 1e-12 * float(found.covariance.trace())  # rounding of 84 roots


def test_frechet_of_a_singular_covariance():
    # 50 images, 84 features: roots of zero eigenvalues are zero, where a general matrix root turns complex
    features = torch.randn(50, 84, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = frechet.statistics(features, root=True)
    # 34 zero eigenvalues come out at 1e-14, and their roots at 1e-7
    assert abs(frechet.frechet(found, found)) < 34 * 2e-7
    assert frechet.frechet(frechet.statistics(features + 1), found) == pytest.approx(84, abs=34 * 2e-7)


def test_statistics_equal_numpy():
    features = torch.randn(100, 5, generator=torch.Generator().manual_seed(2))
    found = frechet.statistics(features, root=True)
    np.testing.assert_allclose(found.mean, features.double().numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(features.double().numpy().T), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found.root @ found.root, found.covariance, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("features", [torch.zeros(1, 3), torch.tensor([[0.0, float("nan")], [1.0, 2.0]])])
def test_statistics_refuse_what_has_none(features):
    with pytest.raises(ValueError, match="two or more images, all finite"):
        frechet.statistics(features)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 0.3), (1.5, 0.0)])
def test_the_standard_error_is_the_deviation_of_independent_redraws(scale, shift):
    source = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=source)

    def features(count):
        # rectified, so that they are no Gaussians
        return (torch.randn(count, 12, generator=source) @ mixing).relu()

    values, errors = [], []
    for _ in range(150):
        made, real = features(1000) * scale + shift, features(200)
        values.append(frechet.frechet(frechet.statistics(made), frechet.statistics(real)))
        errors.append(frechet.standard_error(made, real))
    deviation, stated = float(np.std(values, ddof=1)), float(np.mean(errors))
    covered = np.mean(np.abs(np.array(values) - np.mean(values)) < 1.96 * np.array(errors))
    # of 150 redraws the deviation is known to 6 %, and 95 % to 2; where the two are equal it is cautious
    assert 0.82 * deviation < stated < (2 if (scale, shift) == (1.0, 0.0) else 1.25) * deviation
    assert covered > 0.89


def test_the_standard_error_of_fewer_images_than_features_is_a_number():
    source = torch.Generator().manual_seed(1)
    made, real = torch.randn(30, 84, generator=source), torch.randn(40, 84, generator=source)
    known = frechet.statistics(made), frechet.statistics(real)
    assert 0 < frechet.standard_error(made, real) < frechet.frechet(*known)
    assert frechet.standard_error(made, real, *known) == frechet.standard_error(made, real)


# KID, precision and recall


def test_kid_equals_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 4)), rng.normal(size=(7, 4)) + 0.5
    k = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    within = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    value, error = kernel.kernel_distance(torch.from_numpy(x), torch.from_numpy(y))
    assert value == pytest.approx(expected, rel=1e-12)

    def variance(sets, which):
        left = [
            kernel.kernel_distance(*(torch.from_numpy(np.delete(s, i, 0) if s is which else s) for s in sets))[0]
            for i in range(len(which))
        ]
        return np.var(left) * (len(which) - 1)

    assert error == pytest.approx(np.sqrt(variance((x, y), x) + variance((x, y), y)), rel=1e-9)


def test_kid_equals_torchmetrics():
    theirs = pytest.importorskip("torchmetrics.image.kid", reason="no torchmetrics: .ci/run says how it is installed")
    source = torch.Generator().manual_seed(2)
    x, y = (torch.randn(60, 12, generator=source, dtype=torch.float64) for _ in range(2))
    assert kernel.kernel_distance(x, y + 0.3)[0] == pytest.approx(float(theirs.poly_mmd(x, y + 0.3)), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_kid_is_unbiased_and_its_error_that_of_redraws(shift):
    source = torch.Generator().manual_seed(3)
    drawn = [
        kernel.kernel_distance(torch.randn(80, 5, generator=source) + shift, torch.randn(60, 5, generator=source))
        for _ in range(200)
    ]
    values, errors = np.array(drawn).T
    big = kernel.kernel_distance(*(torch.randn(3000, 5, generator=source) + s for s in (shift, 0.0)))
    exact, known = (0.0, 0.0) if not shift else big
    assert abs(values.mean() - exact) < 4 * np.hypot(values.std() / np.sqrt(200), known)
    # the jackknife counts the second order twice, which is all there is where the two are equal
    assert 0.85 * values.std() < errors.mean() < (1.3 if shift else 2) * values.std()


def test_precision_and_recall_equal_their_definition():
    rng = np.random.default_rng(4)
    real, made = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) * 0.5 + 0.8

    def share(points, cloud):
        radii = [np.sort([np.linalg.norm(a - b) for b in cloud])[3] for a in cloud]
        return np.mean([any(np.linalg.norm(p - c) <= r for c, r in zip(cloud, radii, strict=True)) for p in points])

    found = [
        precision_recall.covered(torch.from_numpy(a), torch.from_numpy(b)) for a, b in ((made, real), (real, made))
    ]
    assert found == [share(made, real), share(real, made)]
    assert 0 < found[1] < found[0] < 1  # a narrow cloud lies among the real ones and does not reach them all


# LeNet


@pytest.fixture(scope="module")
def others(digits):
    """Digits that do not come with the package: somebody's own."""
    return dataclasses.replace(digits, digest="others")


@pytest.fixture(scope="module")
def known(digits):
    """Weights that come with the package."""
    return torch.load(lenet.SHIPPED / lenet.file_name(digits), weights_only=True)


def test_the_classifier_is_trained_and_says_how_well(evaluation, digits):
    network = evaluation.network
    images = evaluation.data.scaled("test", slice(None))
    accuracy = (network.classify(images) == evaluation.data.labels["test"]).double().mean()
    assert network.test_accuracy == float(accuracy)
    # 97 % was seen; 5 standard errors on 360 images below it
    assert network.test_accuracy > 0.92
    assert features.features_of(network, images).shape == (len(images), 84)
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("name", "least"), [("digits", 0.96), ("mnist", 0.985), ("fashion_mnist", 0.86)])
def test_the_package_has_the_classifiers_of_its_data_sets(name, least, request, tmp_path, monkeypatch):
    options = {} if name == "digits" else {"root": request.getfixturevalue("mnist_root")}
    if options and not data.find(name, options["root"]):
        pytest.skip(f"no {name}")
    known = data.load(name, **options)
    monkeypatch.delattr(lenet, "train_classifier")
    lenet.provide(known, tmp_path / "cache", tmp_path / "run")
    found = lenet.classifier(known, tmp_path / "run", CPU)
    assert not [*tmp_path.iterdir()]
    images, labels = torch.tensor(known.images["test"]) / known.scale, torch.tensor(known.labels["test"])
    assert found.test_accuracy == float((found.classify(images) == labels).double().mean()) > least


def test_the_second_domain_has_no_part_in_the_classifier(digits, evaluation, tmp_path):
    pair = dataclasses.replace(digits, other=digits.images, digest=f"{digits.digest}-{digits.digest}")
    assert lenet.classifier(pair, tmp_path, CPU).name == evaluation.network.name


@pytest.mark.slow
def test_the_number_of_threads_is_no_part_of_the_classifier(others):
    names, before = [], torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        try:
            network = lenet.LeNet(1).take(lenet.train_classifier(others))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        names.append(network.name)
        # 97 % was seen; 5 standard errors on 360 images below it
        assert network.test_accuracy > 0.92
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize("image", [(1, 8, 8), (1, 28, 28), (3, 5, 6), (3, 32, 20)])
def test_features_are_those_of_the_layers_one_by_one(image):
    network = lenet.LeNet(image[0]).requires_grad_(False)
    images = torch.rand(230, *image, generator=torch.Generator().manual_seed(0))
    plain = network.train()(images)
    assert (network.eval()(images) - plain).abs().max() <= 2e-6 * plain.abs().max()


def test_features_do_not_depend_on_the_number_of_threads(evaluation):
    images, before = evaluation.data.scaled("test", slice(None)), torch.get_num_threads()
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        try:
            found.append(features.features_of(evaluation.network, images))
        finally:
            torch.set_num_threads(before)
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


def test_the_classifier_read_again_is_the_same(evaluation, others, known, tmp_path, monkeypatch):
    monkeypatch.setattr(lenet, "train_classifier", lambda data: known)
    assert lenet.classifier(others, tmp_path, CPU).name == evaluation.network.name
    (file,) = tmp_path.glob("lenet-digits-*.pt")
    written = file.stat().st_mtime_ns
    again = lenet.classifier(others, tmp_path, CPU)
    assert again.name == evaluation.network.name
    assert again.test_accuracy == evaluation.network.test_accuracy
    assert file.stat().st_mtime_ns == written
    images = evaluation.data.scaled("validation", slice(64))
    assert features.features_of(again, images).equal(features.features_of(evaluation.network, images))


def test_callers_at_the_same_time_train_once(evaluation, others, known, tmp_path, monkeypatch):
    trained = []

    def counted(data):
        # takes a while, so that the others arrive meanwhile, and comes to known weights without the training
        trained.append(threading.get_ident())
        time.sleep(0.5)
        return known

    monkeypatch.setattr(lenet, "train_classifier", counted)
    names = []
    callers = [
        threading.Thread(target=lambda: names.append(lenet.classifier(others, tmp_path, CPU).name)) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(trained) == 1
    assert names == [evaluation.network.name] * 4
    assert not [p for p in tmp_path.iterdir() if p.suffix not in (".pt", ".lock")]


def test_a_damaged_classifier_is_made_anew_and_a_run_folder_gets_the_cached_one(
    evaluation, digits, others, known, tmp_path, monkeypatch
):
    whole = (lenet.SHIPPED / lenet.file_name(digits)).read_bytes()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / lenet.file_name(others)).write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(lenet, "train_classifier", lambda data: known)
    lenet.provide(others, tmp_path / "cache", tmp_path / "run")
    lenet.provide(others, tmp_path / "cache", tmp_path / "cache")
    for folder in ("cache", "run"):
        assert lenet.classifier(others, tmp_path / folder, CPU).name == evaluation.network.name


def test_features_depend_on_the_weights_name(evaluation):
    name = evaluation.network.name
    state = {k: v.clone() for k, v in evaluation.network.state_dict().items()}
    assert name == f"classifier:{features.digest(state)}"
    state["head.bias"][0] += 1
    assert name != f"classifier:{features.digest(state)}"


# Inception: pytorch-fid's own network and functions, with weights made here


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with random weights of pytorch-fid's InceptionV3, such that features are of order 1."""
    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    source = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=source)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """PNG files and the same images as tensors in [0, 1]: grey of 28 x 28 and colour of 40 x 24."""
    folder = tmp_path_factory.mktemp("png")
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in {"grey": (3, 28, 28), "colour": (3, 40, 24, 3)}.items():
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        files = [folder / f"{name}-{i}.png" for i in range(len(pixels))]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(file)
        images = torch.from_numpy(pixels)
        made[name] = files, (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()) / 255
    return made


@pytest.fixture(scope="module")
def theirs(weights, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setattr(inception, "FID_WEIGHTS_URL", weights.as_uri())
        return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])


@pytest.fixture(scope="module")
def ours(weights):
    return features.Inception(str(weights), CPU)


@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_inception_features_equal_pytorch_fids(pictures, theirs, ours, kind):
    files, images = pictures[kind]
    expected = fid_score.get_activations(files, theirs, batch_size=len(files), num_workers=0)
    found = features.features_of(ours, images)
    assert found.shape == (len(files), 2048)
    assert float(found.std(0).mean()) > 1e-3  # features that tell images apart
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))


def test_weights_that_cannot_be_fetched_are_said_to_be(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match=r"inception_weights=null: pytorch-fid's cannot be fetched \(no route\); FILE"):
        features.InceptionSource().check({"inception_weights": None})


def test_inception_from_an_address_is_that_of_the_file(weights, ours, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert features.Inception(weights.as_uri(), CPU).name == ours.name


@pytest.mark.parametrize("metric", [kernel.kid, precision_recall.precision_recall])
def test_a_split_of_two_halves_is_looked_at_in_both(metric, monkeypatch):
    """MNIST's test images are of two sources, one behind the other: the first of them do not stand for all."""
    monkeypatch.setattr(kernel, "_IMAGES", 40)
    monkeypatch.setattr(precision_recall, "_IMAGES", 40)
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(400, 6, generator=generator) + (torch.arange(400) < 200)[:, None] * 8
    made = torch.randn(400, 6, generator=generator)

    def found(features):
        told = {"features": features, "generated_features": made, "split": "test", "count": 400}
        view = SimpleNamespace(**told, kept=lambda key, make: make())
        result = metric(view)
        return [result["precision"], result["recall"]] if isinstance(result, dict) else [result.value]

    there, back = found(real), found(real.flip(0))
    assert there == pytest.approx(back)
    # half of the real images lie where none was generated
    assert metric is kernel.kid or there[1] < 0.6


@given(st.integers(1, 60), st.integers(1, 60))
def test_rows_are_spaced_over_all(count, most):
    rows = spaced(torch.arange(count), most)
    assert len(rows) == len(rows.unique()) == min(count, most)
    assert rows.tolist() == sorted(rows.tolist())
    if most > 1:
        assert (rows[0], rows[-1]) == (0, count - 1)
        assert rows.diff().max() <= -(-(count - 1) // (len(rows) - 1)) if len(rows) > 1 else True
