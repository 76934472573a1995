# %% [markdown]
# # One trial taken apart
#
# The terms of its loss, what brackets its mutual information, its samples; and its weights, opened and measured again.
# Reads the run folder that `$GIMTUNE_RUN` names, or the newest under `results/`, and there the front's knee, or else
# its first row, of those whose weights are there. The last part needs torch.

# %%
# %matplotlib inline
import pandas as pd

from gimtune.analysis import front, load
from gimtune.analysis.figures.members import static_course, static_pictures
from gimtune.analysis.figures.views import bracket, chosen, terms
from gimtune.results.load import newest

study = load(newest())
best = front(study.trials, study.objectives)
rows = chosen(best)
# members that were taken over may have come without their weights
rows = rows.assign(kept=rows["checkpoint"].notna()).sort_values(["kept", "knee"], ascending=False, kind="stable")
row = rows.iloc[0].to_dict()
trial = row["trial"]
pd.Series(row)[
    ["trial", "model", "side", "prior", "weight", "latent_dim", *study.varied, "seed", "encoder", *best.objectives]
]

# %% [markdown]
# ## How it went

# %%
static_course(study.reports, trial)

# %% [markdown]
# ## What its loss is made of
#
# `loss = -likelihood + sum of weight x divergence`. A flag says that a number is not to be trusted.

# %%
print(f"likelihood {row['likelihood']:.4g}   restriction {row['restriction']:.4g}   loss {row['loss']:.4g} nats")
terms(row)

# %% [markdown]
# ## What brackets its information
#
# `mi_lower` and `mi_upper` bracket the information of the codes as they are. The index code, a bound that holds
# for every distribution, cannot exceed ln N; `mi_lower` goes beyond it where a mixture of Gaussians fits q(z).
# `mi_q` takes q(z) for one Gaussian, and overshoots where the posterior is narrow. `mi_noised` is of codes with
# noise on each of them: another quantity, which may lie below `mi_lower`.

# %%
bracket(row).round(3)

# %% [markdown]
# ## Samples and reconstructions

# %%
static_pictures(best, study.run, rows.head(1))

# %% [markdown]
# ## Its weights, opened again
#
# The same weights and the same draws give the stored numbers of the test split; the last column is the difference.

# %%
from gimtune.study.opened import opened

pack, measures = opened(study.run, trial)
again = measures.row(pack, 0, ("test",))
keys = [key for key in again if key.startswith("test_") and pd.notna(row.get(key))]
table = pd.DataFrame({"stored": [row[key] for key in keys], "again": [again[key] for key in keys]}, index=keys)
table.assign(difference=table["again"] - table["stored"])
