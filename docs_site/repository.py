"""The repository's files, as pages speak of them."""

import logging
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>\.\./[^)\s#]+)(?:#[^)]*)?\)")
_FENCE = re.compile(r"(^```.*?^```[^\S\n]*$)", re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"(?<![\w/`\[.])(?<!\]\()docs/(?P<name>[a-z-]+)\.md")

log = logging.getLogger("mkdocs.hooks.repository")


def without_links_to_files(markdown: str, page: str) -> str:
    """The same with links that lead out of docs/ as the paths of the files that they are of.

    The repository has no address that the site could name. A file that is not there is a warning, as a broken link is.
    """

    def path_of(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link["target"]))
        if path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not in the repository", page, path)
        text = link["text"].strip("`")
        return f"`{path}`" if text in path else f"{text}, `{path}`"

    return "".join(part if part.startswith("```") else _LINK.sub(path_of, part) for part in _FENCE.split(markdown))


def with_links_to_pages(text: str, page: str) -> str:
    """The same with each `docs/NAME.md` that code speaks of as a link to that page."""
    up = "../" * page.count("/")
    return _PAGE.sub(lambda found: f"[{found['name']}]({up}{found['name']}.md)", text)
