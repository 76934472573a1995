"""Makes the feature networks that come with the package: ``python -m gimtune.metrics.shipped digits mnist``.

What was compared by the former weights does not compare with what is by the new: this is run for a new data set, or for
a new recipe of `gimtune.metrics.lenet`, and the files are committed.
"""

from __future__ import annotations

import sys

from gimtune import data
from gimtune.metrics.lenet import SHIPPED, LeNet, file_name, train_classifier, write


def make(names: list[str]) -> None:
    """Train the `LeNet` of each data set, in the split of seed 0, and write its weights to `SHIPPED`."""
    for name in names:
        known = data.load(name)
        state = train_classifier(known)
        write(SHIPPED / file_name(known), state)
        network = LeNet(known.image[0], known.classes).take(state)
        print(f"{SHIPPED / file_name(known)}: {network.name}, test accuracy {network.test_accuracy:.4f}")


if __name__ == "__main__":
    make(sys.argv[1:])
