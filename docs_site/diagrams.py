"""Mermaid's diagrams as pictures: the site neither loads its script nor needs one."""

import re

import mermaidx

_FENCE = re.compile(r"^```mermaid\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CONFIG = {"flowchart": {"wrappingWidth": 190, "nodeSpacing": 25, "rankSpacing": 35}}


def drawn(markdown: str, page: str) -> tuple[str, dict[str, str]]:
    """The same with a picture for each diagram, which is a link to itself, and the pictures' SVG by path."""
    pictures: dict[str, str] = {}
    name = page.removesuffix(".md").replace("/", "-")

    def picture(fence: re.Match[str]) -> str:
        file = f"diagrams/{name}-{len(pictures) + 1}.svg"
        svg = mermaidx.render(fence["source"], theme="neutral", config=_CONFIG).svg()
        pictures[file] = svg.replace("background-color: transparent", "background-color: white")
        about = _HEADING.findall(markdown, 0, fence.start())[-1]
        target = "../" * page.count("/") + file
        return f'[![{about}]({target} "{about}")]({target})'

    return _FENCE.sub(picture, markdown), pictures
