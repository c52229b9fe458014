"""How an explanation is shown: as a table, as HTML in a notebook, and as a figure."""

from collections.abc import Iterator, Sequence
from html import escape
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rcjax.serving.explanation import ExplainedBlock, Explanation

COLOURS = {"cached": "#9ecae1", "selected": "#fdae6b", "fresh": "#e6550d"}
TABLE_WIDTH = 110
SHOWN_TEXT_LEN = 36
_LANE_PX, _MIN_HEIGHT_PX = 9, 30


class Run(NamedTuple):
    """Tokens in a row that have the same state, a key of `COLOURS`, and where they are drawn."""

    lane: int
    start: int  # a position
    length: int
    state: str
    block: "ExplainedBlock"


def runs(explanation: "Explanation") -> Iterator[Run]:
    """The prompt as bars: a lane for each segment, in which positions do not overlap."""
    lanes = {segment: lane for lane, segment in enumerate(dict.fromkeys(b.segment for b in explanation.blocks))}
    for block in explanation.blocks:
        code = np.select([block.is_cached, block.is_selected], [0, 1], 2)
        edges = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(block)]
        for start, end in pairwise(edges):
            if start < end:
                state = tuple(COLOURS)[code[start]]
                yield Run(lanes[block.segment], int(block.positions[start]), end - start, state, block)


def summary(explanation: "Explanation") -> str:
    """What there is to know beside the blocks."""
    tokens = explanation.tokens
    where = f"slice {explanation.slice_index}: {tokens.prompt_len:,} tokens"
    counts = f"{tokens.cached:,} cached, {tokens.selected:,} selected, {tokens.fresh:,} fresh"
    text = f"arm {explanation.arm} ({explanation.layout}, {explanation.scoring}) on {where}, {counts}"
    if explanation.num_to_select:
        text += (
            f"; the {explanation.num_to_select:,} selected ones are chosen by {explanation.selection} when the request "
            "runs, and shown as cached"
        )
    return text


def text_of(explanation: "Explanation") -> str:
    """A table for a terminal, a line for each block."""
    table = Table(title=summary(explanation), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("block", "of"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("positions", "seg", "hor", *COLOURS):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("text", no_wrap=True, overflow="ellipsis")
    for block in explanation.blocks:
        counts = (block.num_cached, block.num_selected, block.num_fresh)
        table.add_row(
            block.kind.value,
            block.owner,
            _positions(block),
            str(block.segment),
            str(block.horizon),
            *(f"{number:,}" if number else "" for number in counts),
            _source(block),
            _short(block.text),
        )
    console = Console(file=StringIO(), width=TABLE_WIDTH, color_system=None, markup=False, force_jupyter=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def html_of(explanation: "Explanation") -> str:
    """The prompt to scale, for a notebook; what a block is shows where the mouse rests."""
    return (
        f'<div style="font-family:sans-serif;font-size:12px"><p>{escape(summary(explanation))}</p>'
        f"<p>{legend_html()}</p>{lanes_svg(explanation)}</div>"
    )


def legend_html() -> str:
    return " ".join(f'<span style="background:{c};padding:0 0.5em">{name}</span>' for name, c in COLOURS.items())


def lanes_svg(explanation: "Explanation") -> str:
    """The prompt by position, with a lane for each segment."""
    bars = list(runs(explanation))
    num_lanes = 1 + max((bar.lane for bar in bars), default=0)
    width = max((bar.start + bar.length for bar in bars), default=1)
    return _svg(bars, width, max(_MIN_HEIGHT_PX, num_lanes * _LANE_PX), num_lanes)


def strip_svg(explanation: "Explanation", num_tokens: int) -> str:
    """The prompt as one strip, its tokens end to end, on a scale that ends at `num_tokens`."""
    bars, start = [], 0
    for bar in runs(explanation):
        bars.append(bar._replace(lane=0, start=start))
        start += bar.length
    return _svg(bars, num_tokens, _MIN_HEIGHT_PX, 1)


def _svg(bars: Sequence[Run], width: int, height_px: int, num_lanes: int) -> str:
    rects = "".join(
        f'<rect x="{bar.start}" y="{bar.lane + 0.05}" width="{bar.length}" height="0.9" fill="{COLOURS[bar.state]}">'
        f"<title>{escape(_tip(bar))}</title></rect>"
        for bar in bars
    )
    size = f'width="100%" height="{height_px}" viewBox="0 0 {width} {num_lanes}" preserveAspectRatio="none"'
    return f"<svg {size}>{rects}</svg>"


def figure(explanation: "Explanation") -> "Figure":
    """Above, the prompt to scale; below, which share of a block (column) the tokens of another (row) see."""
    try:
        from matplotlib import pyplot
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("a plot needs matplotlib; install rcjax[plot] or rcjax[notebook]") from error
    bars = list(runs(explanation))
    num_lanes = 1 + max((bar.lane for bar in bars), default=0)
    ratio = (min(3.0, 0.6 + 0.12 * num_lanes), 5.0)
    drawn, (above, below) = pyplot.subplots(
        2, 1, figsize=(9, 2 + sum(ratio)), height_ratios=ratio, layout="constrained"
    )
    for bar in bars:
        above.barh(bar.lane, bar.length, left=bar.start, height=0.9, color=COLOURS[bar.state])
    above.set(ylim=(num_lanes - 0.4, -0.6), yticks=[], xlabel="position in the prompt")
    above.margins(x=0)
    above.set_title(summary(explanation), fontsize=9, loc="left", wrap=True)
    legend = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    drawn.legend(handles=legend, ncols=3, fontsize=8, loc="outside upper right")
    shares = seen_shares(explanation)
    image = below.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    drawn.colorbar(image, ax=below, label="share of its tokens that are seen")
    names = [_name(block) for block in explanation.blocks]
    step = 1 + len(names) // 40  # as many as can be read
    below.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=6)
    below.set_yticks(range(0, len(names), step), names[::step], fontsize=6)
    below.set(xlabel="seen", ylabel="by")
    pyplot.close(drawn)  # a notebook would show what is still open a second time
    return drawn


def seen_shares(explanation: "Explanation") -> Float[np.ndarray, "blocks blocks"]:
    """The share of the pairs of tokens of two blocks in which that of the row's block sees that of the column's."""
    starts = explanation.starts
    seen = explanation.visible().astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(seen, starts, axis=0), starts, axis=1)
    lengths = np.array([len(block) for block in explanation.blocks])
    return np.asarray(sums / np.outer(lengths, lengths))


def _name(block: "ExplainedBlock") -> str:
    return f"{block.kind.value} {block.owner}".rstrip()


def _positions(block: "ExplainedBlock") -> str:
    return f"{block.positions[0]}-{block.positions[-1]}" if len(block) else "-"


def _source(block: "ExplainedBlock") -> str:
    slices = f" {','.join(map(str, block.held_by))}" if block.held_by else ""
    return block.source + slices


def _tip(bar: Run) -> str:
    return f"{_name(bar.block)}: {bar.length} {bar.state}, {_source(bar.block) or 'computed'}; {_short(bar.block.text)}"


def _short(text: str) -> str:
    """One line of it."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_TEXT_LEN else line[: SHOWN_TEXT_LEN - 1] + "…"
