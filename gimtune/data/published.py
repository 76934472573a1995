"""CelebA and dSprites, from their published files: images with several labels each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gimtune.data.arrays import Stored, names, reading, said
from gimtune.data.dataset import DATASETS, SPLITS, Dataset
from gimtune.data.encoded import Rows, listed_rows
from gimtune.data.kept import Batches, Listing, keep, stamps
from gimtune.data.own import shape_of
from gimtune.data.vision import places
from gimtune.files import cache

_CELEBA = ("list_attr_celeba.txt", "list_eval_partition.txt")
#: The middle 140 x 140 pixels of an aligned image.
_FACE = (19, 39, 159, 179)
_DSPRITES = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_DSPRITES_FROM = f"https://github.com/google-deepmind/dsprites-dataset/raw/master/{_DSPRITES}"
_FACTORS = ("colour", "shape", "scale", "orientation", "x", "y")
#: Of dSprites, which has no splits.
_HELD = 10_000


@DATASETS.register
def celeba(seed: int, root: str | None = None, download: bool = False, size: int | list[int] | None = None) -> Dataset:
    """202,599 faces with 40 attributes: the middle 140 x 140 pixels, scaled to 64 x 64 or ``size``, in its own splits.

    Files are as torchvision leaves them: a folder celeba with img_align_celeba, list_attr_celeba.txt and
    list_eval_partition.txt. Source: Liu et al. 2015; the crop is that of Tolstikhin et al. 2018.
    """
    shape = shape_of(size) or (64, 64)

    def fetch() -> None:
        from torchvision import datasets

        datasets.CelebA(str(root or cache()), download=True)

    place = _found("celeba", root, download, [*_CELEBA, "img_align_celeba"], fetch)
    lists = [place / name for name in _CELEBA]
    source = [shape, stamps([*lists, place / "img_align_celeba"], place)]
    return keep("celeba", f"data.root={place.parent}", source, seed, lambda: listed_rows(_faces(place), shape))


def _faces(place: Path) -> Rows:
    with reading(place / _CELEBA[0]):
        _, header, *lines = (place / _CELEBA[0]).read_text().splitlines()
        attributes = header.split()
        table = {name: values for name, *values in map(str.split, lines)}
        values = np.array(list(table.values()), np.int64)
    with reading(place / _CELEBA[1]):
        parts = dict(map(str.split, (place / _CELEBA[1]).read_text().splitlines()))
        splits = [SPLITS[int(parts.get(name, "0"))] for name in table]
    if values.shape != (len(table), len(attributes)):
        raise ValueError(f"{place / _CELEBA[0]}: {values.shape} values of {len(table)} images, {len(attributes)} names")
    files = [place / "img_align_celeba" / name for name in table]
    labels = {attribute: values[:, k] for k, attribute in enumerate(attributes)}
    return Rows(splits, files, lambda: iter(files), labels, _FACE)


@DATASETS.register
def dsprites(seed: int, root: str | None = None, download: bool = False) -> Dataset:
    """737,280 white shapes on black, 64 x 64 pixels, of five factors: 10,000 each are held out for the other splits.

    Source: Matthey et al. 2017.
    """

    def fetch() -> None:
        from torchvision.datasets.utils import download_url

        download_url(_DSPRITES_FROM, str(Path(root or cache()) / "dsprites"))

    file = _found("dsprites", root, download, [_DSPRITES], fetch) / _DSPRITES
    return keep("dsprites", f"data.root={file.parent}", stamps([file], file.parent), seed, lambda: _shapes(file, seed))


def _shapes(file: Path, seed: int) -> Listing:
    entries = names(file)
    if lacking := [name for name in ("imgs", "latents_classes") if name not in entries]:
        raise ValueError(f"{file}: no array {lacking[0]}; there are {', '.join(entries)}")
    with reading(file):
        pictures, classes = Stored(file, entries["imgs"]), Stored(file, entries["latents_classes"]).whole()
        if len(pictures.shape) != 3 or classes.shape != (pictures.shape[0], len(_FACTORS)):
            raise ValueError(f"imgs are {pictures.shape} and latents_classes {classes.shape}")
    count = len(classes)
    splits = np.full(count, "train", "U10")
    held = min(_HELD, count // 5)
    order = np.random.default_rng(seed).permutation(count)
    splits[order[:held]], splits[order[held : 2 * held]] = "validation", "test"

    def batches() -> Batches:
        for start, part in pictures.parts():
            if part.max() > 1:
                raise ValueError(f"{file}: imgs has a pixel of {part.max()}; allowed are 0 and 1")
            yield np.arange(start, start + len(part)), part[:, None]

    labels = {name: classes[:, k] for k, name in enumerate(_FACTORS)}
    return Listing(splits, labels, (1, *pictures.shape[1:]), batches, 1.0)


def _found(name: str, root: str | None, download: bool, needed: Sequence[str], fetch: Callable[[], None]) -> Path:
    """The folder with all files of a data set: one that is called so, in those that are looked in, or one of these."""

    def look() -> Path | None:
        folders = (folder for place in places(root) for folder in (place / name, place))
        return next((folder for folder in folders if all((folder / one).exists() for one in needed)), None)

    if (place := look()) is not None:
        return place
    told = f"{', '.join(needed)} in {', '.join(map(str, places(root)))}"
    if not download:
        raise FileNotFoundError(f"data={name}: no {told}; data.download=true fetches it")
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"data={name}: it cannot be downloaded ({said(error)})") from None
    if (place := look()) is None:
        raise FileNotFoundError(f"data={name}: no {told} after it was downloaded")
    return place
