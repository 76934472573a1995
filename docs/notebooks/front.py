# %% [markdown]
# # The front
#
# Who is not dominated, who would be missed, how much of it is luck of a seed, and how two studies compare. Reads the
# run folder that `$GIMTUNE_RUN` names, or the newest under `results/`.

# %%
# %matplotlib inline
import numpy as np

from gimtune.analysis import front, fronts_by, load
from gimtune.analysis.figures.gallery import FIGURES
from gimtune.analysis.statistics.attainment import attainment, attainment_difference, mean_front
from gimtune.results.load import newest
from gimtune.results.pareto import contributions

study = load(newest())
best = front(study.trials, study.objectives)
objectives = [*best.objectives]
FIGURES["front"].static(best, study.run)

# %% [markdown]
# Its members, what the hypervolume and the front's coverage lose with each, and the knee. Chosen on the validation
# split; the columns `test_...` are the same trials on the test split.

# %%
setting = ["model", "prior", "weight", *study.varied]
rows = best.rows[["trial", *setting, "seed", *objectives, *(f"test_{key}" for key in objectives)]]
rows.join(contributions(best)).set_index("trial").round(4)

# %% [markdown]
# ## By model and by prior
#
# Hypervolumes from one reference point, so that they compare.

# %%
for by in ("model", "prior"):
    groups = fronts_by(study.trials, by, best.objectives, reference=best.reference)
    for name, own in sorted(groups.items(), key=lambda item: -item[1].hypervolume):
        print(f"{by} {name:<12} volume {own.hypervolume:9.4g}  {len(own.rows)} of {len(own.points)} on its front")

# %% [markdown]
# ## Over seeds
#
# What lies behind the best surface is attained by some seed, behind the worst by all; and the front of the
# configurations' means, with bootstrap intervals.

# %%
surfaces = attainment(study.trials, best.objectives)
print("points of each seed:", surfaces.sets)
surfaces.surfaces.set_index("surface").round(4)

# %%
means = mean_front(study.trials, best.objectives, generator=np.random.default_rng(0))
print(f"hypervolume of the means' front {means.hypervolume:.4g} ({means.low:.4g} to {means.high:.4g})")
wanted = [*setting, "seeds", *(k + e for k in objectives for e in ("", "_low", "_high"))]
means.points[means.points["on_front"]][[*wanted, "front_share"]].sort_values(objectives[0]).set_index("model").round(4)

# %% [markdown]
# ## Two studies
#
# Where one attains more than the other: `attainment_difference(load(a).trials, load(b).trials, best.objectives)`.
# Here, for want of a second study, the two seeds or halves of this one: a difference that is chance alone.

# %%
seeds = sorted(study.trials["seed"].unique())
first, second = (study.trials[study.trials["seed"].isin(part)] for part in (seeds[::2], seeds[1::2]))
if len(seeds) > 1:
    difference = attainment_difference(first, second, best.objectives)
    print(f"mean hypervolume of seeds {seeds[::2]} less that of {seeds[1::2]}: {difference.hypervolume:.4g}")

# %% [markdown]
# ## Along the front

# %%
FIGURES["samples"].static(best, study.run)

# %%
FIGURES["latents"].static(best, study.run)

# %%
FIGURES["parallel"].static(best, study.run)
