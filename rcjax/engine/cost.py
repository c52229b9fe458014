"""The cost model: what passes and transfers take in seconds, learnt from those that were run."""

from collections.abc import Mapping
from dataclasses import dataclass

from rcjax.engine.origin import Origin
from rcjax.engine.shape import Shape
from rcjax.engine.transfer_rate import TransferRate
from rcjax.model.config import ModelConfig
from rcjax.model.selection import Measure, Quantity

_NEW_SHARE = 0.2  # of an estimate that the newest observation makes
_FADING = 0.002  # of what a pass is thought to take beyond its fastest, for each pass of its purpose in another shape
_ASSUMED_FLOPS_PER_S = 5e10  # until the first pass has been timed
_ASSUMED_BYTES_PER_S = 1e9  # until the first transfer has
_ASSUMED_FETCH = {  # seconds to begin with, and bytes a second, until the first of its kind has come
    Origin.SLICE: (1e-3, 1e10),
    Origin.HOST: (1e-3, 2e9),
    Origin.DISK: (5e-3, 5e8),
}


@dataclass(frozen=True, slots=True)
class Program:
    """What a pass runs: `rank`, `build`, `decode` or `probe`, its shape, and what a probe measures."""

    purpose: str
    shape: Shape
    measure: Measure | None = None


class CostModel:
    """Estimates seconds; one for scheduler, batcher, admission, eviction and fetching of a slice.

    A program that has been timed takes what it took: an average that leans to the newest, and fades to the fastest
    while others of its purpose are run. One that has not takes its floating-point operations at the rate of all passes
    so far. Workers' threads observe, any thread asks; of two passes observed at once one may not count.
    """

    def __init__(self, config: ModelConfig, page_tokens: int, page_bytes: int):
        self._config = config
        self._page_tokens = page_tokens
        self._page_bytes = page_bytes
        self._seconds: dict[Program, float] = {}
        self._fastest: dict[Program, float] = {}
        self._flops = 0.0
        self._flops_s = 0.0
        self._page_s: float | None = None  # of a transfer
        self._build: Program | None = None  # the longest build program, which fills most blocks
        self._fetches = {
            origin: TransferRate(begin_s, page_bytes / bytes_per_s)
            for origin, (begin_s, bytes_per_s) in _ASSUMED_FETCH.items()
        }

    def pass_s(self, purpose: str, shape: Shape, measure: Measure | None = None) -> float:
        program = Program(purpose, shape, measure)
        timed = self._seconds.get(program)
        if timed is not None:
            return timed
        rate = self._flops / self._flops_s if self._flops_s else _ASSUMED_FLOPS_PER_S
        return self._program_flops(program) / rate

    @property
    def longest_pass_s(self) -> float:
        """Seconds of the longest program that has been timed; 0 before the first."""
        return max(self._seconds.values(), default=0.0)

    def build_s(self, num_tokens: int) -> float:
        """Seconds to compute the KV of blocks of so many tokens, in passes that others fill too."""
        if self._build is None:
            return self.pass_s("build", Shape(num_tokens, 0))
        return self._seconds[self._build] * num_tokens / self._build.shape.fresh_tokens

    def build_alone_s(self, num_tokens: int) -> float:
        """Seconds to compute the KV of blocks of so many tokens in passes that nobody else fills.

        The longest build program as often as they fill it, and the fastest one that holds the rest.
        """
        pass_s = {p.shape.fresh_tokens: s for p, s in self.timed().items() if p.purpose == "build"}
        if not pass_s:
            return self.build_s(num_tokens)
        longest = max(pass_s)
        num_full, rest = divmod(num_tokens, longest)
        rest_s = min(seconds for fresh_tokens, seconds in pass_s.items() if fresh_tokens >= rest) if rest else 0.0
        return num_full * pass_s[longest] + rest_s

    def fetch_s(self, num_tokens: int) -> float:
        """Seconds from asking another slice for the KV of blocks of so many tokens until it is here."""
        return self.origin_s(Origin.SLICE, -(-num_tokens // self._page_tokens))

    def host_s(self, num_tokens: int) -> float:
        """Seconds to bring the KV of so many tokens back from the host tier."""
        return self.origin_s(Origin.HOST, -(-num_tokens // self._page_tokens))

    def disk_s(self, num_tokens: int) -> float:
        """Seconds to bring the KV of so many tokens back from the disk tier."""
        return self.origin_s(Origin.DISK, -(-num_tokens // self._page_tokens))

    def origin_s(self, origin: Origin, num_pages: int) -> float:
        """Seconds to bring so many pages here; ValueError for `Origin.BUILT`, which `build_s` is for."""
        if origin is Origin.BUILT:
            raise ValueError("what is built comes from nowhere; ask build_s")
        return self._fetches[origin].seconds(num_pages)

    def transfer_s(self, num_pages: int) -> float:
        """Seconds to move so many pages between host and device."""
        page_s = self._page_bytes / _ASSUMED_BYTES_PER_S if self._page_s is None else self._page_s
        return num_pages * page_s

    def timed(self) -> dict[Program, float]:
        """The programs that have been timed, and what a pass of each takes; for a simulation to be fitted to."""
        return dict(self._seconds)

    def learn(self, timed: Mapping[Program, float]) -> None:
        """Takes what `timed` says of passes that run elsewhere, in place of what was known of them."""
        for program, seconds in timed.items():
            self._seconds[program] = seconds
            self._fastest[program] = min(seconds, self._fastest.get(program, seconds))
            is_longest = self._build is None or self._build.shape.fresh_tokens < program.shape.fresh_tokens
            if program.purpose == "build" and is_longest:
                self._build = program

    def observe(self, purpose: str, shape: Shape, seconds: float, measure: Measure | None = None) -> None:
        """Learns from a pass that took `seconds`."""
        program = Program(purpose, shape, measure)
        self._flops += self._program_flops(program)
        self._flops_s += seconds
        before = self._seconds.get(program, seconds)
        self._seconds[program] = before + _NEW_SHARE * (seconds - before)
        self._fastest[program] = min(seconds, self._fastest.get(program, seconds))
        self._fade_others(program)
        if purpose == "build" and (self._build is None or self._build.shape.fresh_tokens < shape.fresh_tokens):
            self._build = program

    def _fade_others(self, seen: Program) -> None:
        """Lets other programs of that purpose look a little faster, so that they are tried again in time.

        Else one pass that was held up could end the use of its shape, as nothing new would be learnt.
        """
        for program, seconds in list(self._seconds.items()):  # another slice's worker may add one meanwhile
            if program.purpose == seen.purpose and program != seen:
                self._seconds[program] = seconds - _FADING * (seconds - self._fastest[program])

    def observe_transfer(self, num_pages: int, seconds: float) -> None:
        """Learns from a transfer that took `seconds`."""
        if num_pages:
            page_s = seconds / num_pages
            before = page_s if self._page_s is None else self._page_s
            self._page_s = before + _NEW_SHARE * (page_s - before)

    def observe_fetch(self, origin: Origin, num_pages: int, seconds: float) -> None:
        """Learns from pages that were here `seconds` after they were asked for."""
        self._fetches[origin].observe(num_pages, seconds)

    def pass_over(self, origin: Origin) -> None:
        """Notes that an origin was left for building: its estimate falls a little, so that it is tried again in time.

        Else one slow fetch, such as the first, would end all fetching, as nothing new would be learnt.
        """
        self._fetches[origin].fade()

    def _program_flops(self, program: Program) -> float:
        shape = program.shape
        context = (shape.num_pages + shape.tile_pages) * self._page_tokens + shape.fresh_tokens / 2
        layers = _layers(program.measure, self._config)
        return layers * shape.batch * shape.fresh_tokens * layer_flops(self._config, context)


def layer_flops(config: ModelConfig, context: float) -> float:
    """Floating-point operations of one layer for one token that sees `context` others."""
    c = config
    projections = c.d_model * c.head_dim * (2 * c.num_heads + 2 * c.num_kv_heads) + 3 * c.d_model * c.d_ff
    return 2.0 * projections + 4.0 * c.num_heads * c.head_dim * context


def _layers(measure: Measure | None, config: ModelConfig) -> int:
    """The layers that a pass runs."""
    if measure is None or measure.quantity is Quantity.MEAN_DEVIATION:
        return config.num_layers
    if measure.quantity is Quantity.QUERY_ATTENTION:
        return measure.layer or config.num_layers
    return measure.layer + 1
