"""The recommender that comes with rcjax: it ranks the generated shop, and from cached blocks as in full."""

import pytest
from rich.console import Console

from rcjax.config import CatalogueSettings, Settings, ShapeSettings, ShapeSize
from rcjax.evaluation.evaluation import EvalOptions, evaluate
from rcjax.evaluation.gate import METRIC
from rcjax.model.location import shipped_adapters
from rcjax.model.spec import load_model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.startup import adapter_notes

TILED = ShapeSize(fresh_tokens=20, num_pages=48, tiles=20, tile_pages=8)


def test_it_ranks_and_cached_blocks_rank_as_full_recompute():
    settings = Settings(dtype="float32", shapes=ShapeSettings(rank=(TILED, (2560, 0)), build=((512, 16),)))
    assert (settings.adapter, settings.default_arm) == ("embedded", "parallel")
    found = evaluate(Console(quiet=True), settings, EvalOptions(num_requests=16, arms=("parallel",)))
    cached = found.summaries["parallel"]
    chance, best = (found.bounds[name][METRIC] for name in ("chance", "best possible"))
    assert cached.fidelity.max_score_difference < 1e-4
    assert cached.metrics[METRIC].value > chance + 0.85 * (best - chance)


def test_it_is_small():
    files = [path for path in shipped_adapters()["embedded"].iterdir() if path.is_file()]
    assert {path.name for path in files} == {"adapter_config.json", "adapter_model.safetensors", "rcjax.json"}
    assert sum(path.stat().st_size for path in files) <= 20_000_000


OTHER_SHOP = (
    "adapter 'embedded' was taught the embedded shop alone; for another catalogue set adapter: null, or train one "
    "(docs/training.md)"
)


@pytest.mark.parametrize(("catalogue", "told"), [("embedded", []), ("jsonl", [OTHER_SHOP])])
def test_it_says_that_it_knows_one_shop_only(catalogue, told):
    paths = {} if catalogue == "embedded" else {"folder": "mine"}
    settings = Settings(catalogue=CatalogueSettings(format=catalogue, paths=paths))
    model = load_model(settings.model, adapter=settings.adapter)
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, 20)
    assert adapter_notes(settings, model, builder) == told
