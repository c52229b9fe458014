"""The parts that make the site's pages, one by one."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs_site"))

pytest.importorskip("griffe", reason="needs rcjax[docs]")

from configuration_page import configuration_page, sections  # noqa: E402
from grpc_page import grpc_page  # noqa: E402
from repository import with_links_to_pages, without_links_to_files  # noqa: E402
from tables import table  # noqa: E402


@pytest.mark.parametrize(
    ("markdown", "shown"),
    [
        ("[overlap.py](../rcjax/cache/placement/overlap.py)", "`rcjax/cache/placement/overlap.py`"),
        ("[`configs/accuracy`](../configs/accuracy)", "`configs/accuracy`"),
        ("[a notebook](../notebooks/accuracy.py)", "a notebook, `notebooks/accuracy.py`"),
        ("[models](models.md#weights)", "[models](models.md#weights)"),
        ("![plot](../docs/placement.png)", "![plot](../docs/placement.png)"),
        ("```\n[a](../Makefile)\n```", "```\n[a](../Makefile)\n```"),
    ],
)
def test_links_to_files_become_their_paths(markdown: str, shown: str) -> None:
    assert without_links_to_files(markdown, "training.md") == shown


def test_a_link_to_a_file_that_is_not_there_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mkdocs"):
        without_links_to_files("[x](../rcjax/gone.py)", "training.md")
    assert "training.md links to rcjax/gone.py" in caplog.text


def test_pages_that_code_speaks_of_become_links() -> None:
    text = "see docs/glossary.md (docs/models.md), `docs/a.md`, [docs](docs/b.md)"
    linked = "see [glossary](../glossary.md) ([models](../models.md)), `docs/a.md`, [docs](docs/b.md)"
    assert with_links_to_pages(text, "reference/grpc.md") == linked


def test_a_pipe_ends_no_cell() -> None:
    assert table(("a", "b"), [("x|y", "`x|y`\nz")]).splitlines()[2] == r"| x\|y | `x|y` z |"


def test_the_api_has_its_comments_and_lays_out_what_they_lay_out() -> None:
    page = grpc_page(ROOT / "rcjax/serving/v1/rcjax.proto")
    assert "\n```text\nINVALID_ARGUMENT    BadRequest" in page
    assert "stream of [RecommendStreamRequest](#rcjax.v1.RecommendStreamRequest) → stream of" in page
    assert "`candidate` is one of `item_id`, `item`. One of the two is required." in page
    assert (
        "| optional double | 6 | Finite and not negative, in the catalogue's currency; absent where unknown. |" in page
    )
    assert "| `LENGTH` | 2 | max_new_tokens are there. |" in page


class Odd(BaseModel):
    what: complex = 0j


class Bounded(BaseModel):
    what: Annotated[int, Field(multiple_of=3)] = 3


@pytest.mark.parametrize("model", [Odd, Bounded])
def test_what_it_has_no_words_for_is_an_error(model: type[BaseModel]) -> None:
    assert [section.path for section in sections(model)] == [""]
    with pytest.raises(ValueError, match="give it some here"):
        configuration_page(model, "")
