"""Where parts come in: ``from gimtune import register`` gives a decorator, or a function, for every kind of part.

    @register.network
    def wide(image, latent_dim, outputs, *, width: int = 16) -> Networks: ...

    register.restriction(Restriction("latent", "cramer_wold", ...))

    @register.metric(Metric("spread", "none", "code units", "largest deviation of a latent dimension"))
    def spread(view: View) -> float: ...

Each raises `gimtune.parts.PartError`, in one line, where a part does not keep its contract, which
``python -m gimtune parts NAME`` prints. docs/howto/extending.md has an example of each.
"""

from __future__ import annotations

from gimtune.algebra.encoders import ENCODERS
from gimtune.algebra.likelihoods import LIKELIHOODS
from gimtune.algebra.models import MODELS
from gimtune.algebra.priors import PRIORS
from gimtune.algebra.restrictions import RESTRICTIONS
from gimtune.data import DATASETS
from gimtune.metrics import FEATURES, metric
from gimtune.networks import NETWORKS

__all__ = ["data", "encoder", "features", "likelihood", "metric", "model", "network", "prior", "restriction"]

#: A function (seed, options by name) -> `gimtune.data.Dataset`.
data = DATASETS.register
#: A function (image, latent_dim, outputs, options by name) -> `gimtune.networks.Networks`.
network = NETWORKS.register
#: A subclass of `gimtune.algebra.priors.Prior`.
prior = PRIORS.register
#: A subclass of `gimtune.algebra.encoders.Encoder`.
encoder = ENCODERS.register
#: A subclass of `gimtune.algebra.likelihoods.Likelihood`.
likelihood = LIKELIHOODS.register
#: A `gimtune.algebra.restrictions.Restriction`.
restriction = RESTRICTIONS.register
#: A `gimtune.vocabulary.Model`.
model = MODELS.register
#: A subclass of `gimtune.metrics.FeatureSource`.
features = FEATURES.register
