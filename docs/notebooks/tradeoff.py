# %% [markdown]
# # The trade-off
#
# What a study says of generation (FID) against representation (linear probe, mutual information): the source's claims
# with verdicts, and its plots. Reads the run folder that `$GIMTUNE_RUN` names, or the newest under `results/`; a study
# that still runs is read as it stands. All logic is in `analysis`; every figure here is also in the run folder's
# `figures/`, and for the screen as `FIGURES[name].interactive(best, study.run)`.

# %%
# %matplotlib inline
import numpy as np

from gimtune.analysis import front, load
from gimtune.analysis.figures.gallery import FIGURES
from gimtune.analysis.statistics.claims import claims
from gimtune.results.load import newest

study = load(newest())
best = front(study.trials, study.objectives)
print(f"{len(study.trials)} trials, {len(best.points)} considered, {len(best.rows)} on the front")
print("left out:", best.left_out or "none")


def show(name):
    """A figure, or why there is none."""
    kind = FIGURES[name]
    figure = kind.static(best, study.run)
    print(kind.caption if figure is not None else f"{kind.title}: this study has no data for it")
    return figure


# %% [markdown]
# ## Claims
#
# Each with an effect (positive where it holds) and an interval over configurations; see
# `analysis/statistics/claims.py`.

# %%
verdicts = claims(study.trials, np.random.default_rng(0))
columns = ["key", "statement", "verdict", "effect", "value", "low", "high", "configurations"]
verdicts.table()[columns].set_index("key").round(2)

# %% [markdown]
# ## FID, probe accuracy and information

# %%
show("information")

# %%
show("mi")

# %% [markdown]
# ## Rate and distortion

# %%
show("rate_distortion")

# %% [markdown]
# ## What the weight does

# %%
show("weights_fid")

# %%
show("weights_probe_codes")

# %%
show("weights_mi_noised")
