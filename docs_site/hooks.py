"""What mkdocs builds beyond docs/: the reference's pages, diagrams, and links to files that the site does not have.

mkdocs loads this file by its path and finds the modules beside it; nothing in rcjax/ knows of them.
"""

from command_pages import FOLDER, command_pages
from configuration_page import configuration_page
from diagrams import drawn
from grpc_page import grpc_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from python_page import python_page
from repository import ROOT, without_links_to_files

import rcjax
from rcjax.config import Settings


def reference_pages() -> dict[str, str]:
    """The Markdown of the generated pages, by their paths in docs/."""
    sample = (ROOT / "configs/embedded.yaml").read_text(encoding="utf-8")
    return {
        "reference/configuration.md": configuration_page(Settings, sample),
        "reference/grpc.md": grpc_page(ROOT / "rcjax/serving/v1/rcjax.proto"),
        "reference/python.md": python_page(rcjax.__all__),
        **command_pages(),
    }


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for path, markdown in reference_pages().items():
        files.append(File.generated(config, path, content=markdown))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the commands' pages into the section of the navigation that has their index."""
    index, *commands = command_pages()
    for section in config.nav or ():
        for entry in section.get("Reference", ()) if isinstance(section, dict) else ():
            if entry.get("Commands") == [index]:
                entry["Commands"] = [index, *commands]
                return config
    raise ValueError(f"mkdocs.yml: nav has no Reference with `Commands: [{FOLDER}/index.md]`, where their pages go")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    markdown, diagrams = drawn(markdown, page.file.src_uri)
    for path, svg in diagrams.items():
        files.append(File.generated(config, path, content=svg))
    return without_links_to_files(markdown, page.file.src_uri)
