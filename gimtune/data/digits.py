"""The digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from gimtune.data.dataset import Dataset, data_set, from_splits, stratified


@data_set((1, 8, 8))
def digits(seed: int) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels and 17 grey values, split by 60, 20 and 20 %.

    Source: Alpaydin & Kaynak 1998.
    """
    from sklearn.datasets import load_digits

    flat, classes = load_digits(return_X_y=True)
    pictures, labels = flat.reshape(-1, 1, 8, 8).astype(np.uint8), classes.astype(np.uint8)
    rest, test = stratified(labels, 0.2, seed)
    train, validation = (rest[part] for part in stratified(labels[rest], 0.25, seed + 1))
    splits = {"train": train, "validation": validation, "test": test}
    return from_splits(
        "digits", {s: pictures[i] for s, i in splits.items()}, {s: labels[i] for s, i in splits.items()}, 16.0
    )
