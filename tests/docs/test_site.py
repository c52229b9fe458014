"""The site as mkdocs builds it, and what its reference pages must have."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

pytest.importorskip("mkdocs", reason="needs rcjax[docs]")

import rcjax
from rcjax.commands.app import app
from rcjax.config import Settings
from rcjax.serving.v1 import rcjax_pb2

ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "object": "data"}


class Page(HTMLParser):
    """A page's ids, what it loads, its links with their text, and all its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag in LOADING and given.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.append(given.get(LOADING[tag], ""))
        if tag == "a":
            self.links.append((given.get("href", ""), ""))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.lasttag == "a" and self.links:
            href, text = self.links[-1]
            self.links[-1] = href, text + data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # Whatever a build loads would come through a proxy, and there is none at this address.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def keys(model: type, path: str = "") -> Iterator[str]:
    """The settings' keys as the JSON schema has them, without the page's own walk over annotations."""
    schema = model.model_json_schema()  # type: ignore[attr-defined]
    seen: set[str] = set()

    def visit(node: dict, path: str) -> Iterator[str]:
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[1]
            if name in seen:
                return
            seen.add(name)
            node = schema["$defs"][name]
        for name, field in node.get("properties", {}).items():
            here = f"{path}.{name}" if path else name
            yield here
            yield from visit(field, here)
        for inner in node.get("anyOf", ()):
            yield from visit(inner, path)
        if isinstance(node.get("additionalProperties"), dict):
            yield from visit(node["additionalProperties"], f"{path}.NAME")
        if "items" in node:
            yield from visit(node["items"], f"{path}[]")

    return visit(schema, path)


def test_every_setting_is_on_its_page(site: Path) -> None:
    wanted = set(keys(Settings))
    assert {"model", "cache.disk.folder", "arms.NAME.layout", "shapes.rank[].tiles", "train.lora.rank"} <= wanted
    assert wanted <= Page(site / "reference/configuration.html").ids


def test_every_command_has_a_page_with_its_options(site: Path) -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        text = Page(site / f"reference/commands/{name}.html").text
        assert f"rcjax {name}" in text
        options = {"--" + argument.replace("_", "-") for argument in command.callback.__annotations__} - {"--return"}
        renamed = {"--json-file": "--json"}
        assert not [option for option in options if renamed.get(option, option) not in text]


def test_every_rpc_and_field_is_on_the_page_of_the_api(site: Path) -> None:
    ids = Page(site / "reference/grpc.html").ids
    for service in rcjax_pb2.DESCRIPTOR.services_by_name.values():
        assert {method.full_name for method in service.methods} <= ids
    for message in rcjax_pb2.DESCRIPTOR.message_types_by_name.values():
        assert {message.full_name, *(field.full_name for field in message.fields)} <= ids


def test_every_name_of_the_package_is_on_its_page(site: Path) -> None:
    assert {f"rcjax.{name}" for name in rcjax.__all__} <= Page(site / "reference/python.html").ids


def test_every_page_of_docs_is_in_the_navigation(site: Path) -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w./-]+\.md", str(settings["nav"])))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named
    linked = {href for href, _ in Page(site / "index.html").links}
    assert {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*.md")} <= linked | {"index.html"}


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for path in pages:
        page = Page(path)
        assert not [url for url in page.loaded if re.match(r"(?:\w+:)?//", url)], path
        # The theme's script would load Mermaid for these.
        assert 'class="mermaid"' not in path.read_text(encoding="utf-8"), path
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


def test_diagrams_are_pictures(site: Path) -> None:
    pictures = [url for url in Page(site / "architecture.html").loaded if url.startswith("diagrams/")]
    assert len(pictures) == (ROOT / "docs/architecture.md").read_text(encoding="utf-8").count("```mermaid") > 0
    text = (site / pictures[0]).read_text(encoding="utf-8")
    assert "SliceWorker: one thread" in text
    assert "<script" not in text


def test_shapes_and_intervals_are_text(site: Path) -> None:
    interval = re.compile(r"^[\s\[]*(?:[-+]?\.?\d|[A-Z](?:, [A-Z])+\b)")
    for path in site.rglob("*.html"):
        page = Page(path)
        assert not [link for link in page.links if interval.match(link[1])], path
    assert "[.643, .683]" in Page(site / "accuracy.html").text
