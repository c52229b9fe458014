"""Fetching: blocks that miss come from the cheapest place, which another slice or a tier may be."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from rcjax.cache.tiers import KVTiers
from rcjax.engine.claim import Build
from rcjax.engine.executor import NOWHERE, TRANSFER_PAGES, Executor
from rcjax.engine.fetch import Delivery, Fetch, Order, Peers, Source
from rcjax.engine.origin import Origin
from rcjax.engine.transfers import Transfers

logger = logging.getLogger(__name__)

MAX_UNDER_WAY = 4
FETCH_PAGES = 4 * TRANSFER_PAGES  # of a fetch, or one block if that is larger: what is staged on devices is bounded
PATIENCE = 20.0  # times the estimate, after which a fetch is given up
PATIENCE_PASSES = 10  # of the longest kind; a lender's device copies pages after what it runs
MIN_PATIENCE_S = 1.0
MAX_DISTRUSTED = 4096


class Fetches:
    """Chooses where blocks that miss come from, and gets those that another slice or a tier holds.

    A source that turns out not to have a block, or does not answer, is not asked for it again, so every block is
    fetched or computed in the end. The worker's thread uses it; `on_landed` is called on another one with each fetch
    that is over, for the worker to `land`. `num_waiting` says how many calls wait for the slice.
    """

    def __init__(
        self,
        executor: Executor,
        transfers: Transfers,
        on_landed: Callable[[Fetch], None],
        clock: Callable[[], float],
        *,
        num_waiting: Callable[[], int],
        peers: Peers | None,
        tiers: KVTiers | None,
    ):
        self._executor = executor
        self._cost = executor.cost
        self._transfers = transfers
        self._on_landed = on_landed
        self._clock = clock
        self._num_waiting = num_waiting
        self._peers = peers
        self._tiers = tiers
        self._waiting: list[Fetch] = []
        self._under_way: dict[Fetch, None] = {}
        self._distrusted: OrderedDict[bytes, None] = OrderedDict()
        self.num_blocks: Counter[Origin] = Counter()  # that came, by where from
        self.num_pages: Counter[Origin] = Counter()

    def __len__(self) -> int:
        """Fetches that wait or are under way."""
        return len(self._waiting) + len(self._under_way)

    # ---- choosing

    def distrust(self, key: bytes) -> None:
        """Has a block computed and not fetched from now on: where it came from, others may have it too."""
        self._distrusted[key] = None
        if len(self._distrusted) > MAX_DISTRUSTED:
            self._distrusted.popitem(last=False)

    def assign(self, builds: Sequence[Build]) -> list[Build]:
        """Begins to fetch the blocks for which that is cheaper; returns those that are to be computed."""
        to_compute = [build for build in builds if build.num_cached or build.cached.key in self._distrusted]
        groups: dict[Source, list[Build]] = {}
        wanted = [build for build in builds if not (build.num_cached or build.cached.key in self._distrusted)]
        for build, source in zip(wanted, self._sources(wanted), strict=True):
            if source is None:
                to_compute.append(build)
            else:
                groups.setdefault(source, []).append(build)
        for source, group in groups.items():
            num_pages = sum(len(build.cached.pages) for build in group)
            if self._cost.origin_s(source.origin, num_pages) < self._build_s(group):
                self._queue(source, group)
            else:
                self._cost.pass_over(source.origin)
                to_compute += group
        self._start_some()
        return to_compute

    def _build_s(self, group: Sequence[Build]) -> float:
        """What computing blocks costs.

        A request that waits for them has a pass to itself, however few they are, and all that wait for the slice wait
        for that pass, as nobody does for a copy. Were it to count once, slow copies would lead to passes, for which
        copies wait still longer: at half of their load slices would stay busy with blocks that others have.
        """
        num_tokens = sum(len(build.block) for build in group)
        if not any(build.is_urgent for build in group):
            return self._cost.build_s(num_tokens)
        return self._cost.build_alone_s(num_tokens) * max(self._num_waiting(), 1)

    def _sources(self, builds: Sequence[Build]) -> list[Source | None]:
        """The cheapest place that is said to have each block, if there is one that was not tried."""
        keys = [build.cached.key for build in builds]
        holders = self._peers.holders(keys) if self._peers is not None and keys else [()] * len(keys)
        chosen: list[Source | None] = []
        for build, lenders in zip(builds, holders, strict=True):
            places = [(Source(Origin.SLICE, lender), lender.load_s) for lender in lenders]
            tier = None if self._tiers is None else self._tiers.find(build.cached.key)
            if tier is not None:
                places.append((Source(Origin(tier)), 0.0))
            num_pages = len(build.cached.pages)
            costs = [
                (self._cost.origin_s(source.origin, num_pages), load_s, source)
                for source, load_s in places
                if source not in build.tried
            ]
            chosen.append(min(costs, key=lambda one: one[:2])[2] if costs else None)
        return chosen

    def _queue(self, source: Source, builds: Iterable[Build]) -> None:
        group: list[Build] = []
        num_pages = 0
        for build in builds:
            if group and num_pages + len(build.cached.pages) > FETCH_PAGES:
                self._add(Fetch(source, group, num_pages))
                group, num_pages = [], 0
            group.append(build)
            num_pages += len(build.cached.pages)
        self._add(Fetch(source, group, num_pages))

    def _add(self, fetch: Fetch) -> None:
        for build in fetch.builds:
            build.fetch = fetch
        self._waiting.append(fetch)

    # ---- asking

    def _start_some(self) -> None:
        while self._waiting and len(self._under_way) < MAX_UNDER_WAY:
            urgent = (fetch for fetch in self._waiting if any(build.is_urgent for build in fetch.builds))
            fetch = next(urgent, self._waiting[0])
            self._waiting.remove(fetch)
            fetch.builds = fetch.open_builds
            if fetch.builds:
                self._start(fetch)

    def _start(self, fetch: Fetch) -> None:
        fetch.start_s = self._clock()
        expected_s = self._cost.origin_s(fetch.source.origin, fetch.num_pages)
        passes_s = PATIENCE_PASSES * self._cost.longest_pass_s
        fetch.give_up_s = fetch.start_s + max(MIN_PATIENCE_S, PATIENCE * expected_s, passes_s)
        self._under_way[fetch] = None
        lender = fetch.source.lender
        if lender is None:
            self._transfers.put(partial(self._bring, fetch))
            return
        try:
            fetch.lent = lender.lend(fetch.wanted)
        except Exception as error:
            fetch.lent = Future()
            fetch.lent.set_exception(error)
        fetch.lent.add_done_callback(lambda _: self._transfers.put(partial(self._bring, fetch)))

    def _bring(self, fetch: Fetch) -> None:
        """Gets the KV onto the devices; runs on the thread of `transfers`."""
        try:
            found = self._of_tiers(fetch) if fetch.lent is None else fetch.lent.result()
            # Waited for here: pages that a failed copy is written into would be lost.
            fetch.delivery = replace(found, parts=self._executor.bring(found.parts))
        except BaseException as error:
            fetch.error = error
        self._on_landed(fetch)

    def _of_tiers(self, fetch: Fetch) -> Delivery:
        assert self._tiers is not None
        kept = [self._tiers.read(planned.key, planned.block.token_ids) for planned in fetch.wanted]
        return Delivery(
            tuple(one is not None for one in kept),
            tuple(None if one is None else one.order for one in kept),
            self._executor.in_parts([one.pages for one in kept if one is not None]),
        )

    # ---- taking back

    def land(self, fetch: Fetch) -> tuple[dict[Build, Order | None], list[Build]]:
        """Ends a fetch: the builds whose KV is in their pages now, with their orders, and those to look for elsewhere.

        Both are empty for one that was given up before.
        """
        # Its callback has the fetch, which has it: the copies would be there until the garbage collector came by.
        fetch.lent = None
        delivery, fetch.delivery = fetch.delivery, None
        if fetch not in self._under_way:
            return {}, []
        del self._under_way[fetch]
        arrived: dict[Build, Order | None] = {}
        if delivery is not None:
            arrived = self._write(fetch, delivery)
        elif fetch.error is not None:
            logger.warning("%d blocks could not be fetched from a %s: %r", *_about(fetch), fetch.error)
        missing = [build for build in fetch.open_builds if build not in arrived]
        self._end(fetch, missing)
        for build in arrived:
            build.fetch = None
            build.origin = fetch.source.origin
        self._start_some()
        return arrived, missing

    def _write(self, fetch: Fetch, delivery: Delivery) -> dict[Build, Order | None]:
        """Puts what came into pages, and returns the builds that it was for."""
        arrived: dict[Build, Order | None] = {}
        pages: list[int] = []
        for build, is_found, order in zip(fetch.builds, delivery.is_found, delivery.orders, strict=True):
            if is_found and build.fetch is fetch:
                arrived[build] = order
                pages += build.cached.pages
            elif is_found:  # given up meanwhile: its pages are somebody else's by now
                pages += [NOWHERE] * self._executor.num_pages_for(len(build.block))
        if not arrived:
            return {}
        try:
            self._executor.start_write(pages, delivery.parts)
        except Exception:
            self._executor.check()
            logger.exception("%d blocks came from a %s, and could not be written", *_about(fetch))
            return {}
        origin = fetch.source.origin
        self._cost.observe_fetch(origin, len(pages), self._clock() - fetch.start_s)
        self.num_blocks[origin] += len(arrived)
        self.num_pages[origin] += len(pages)
        return arrived

    def give_up_late(self) -> list[Build]:
        """Ends the fetches that take too long; returns the builds that need another source."""
        now_s = self._clock()
        late = [fetch for fetch in self._under_way if now_s >= fetch.give_up_s]
        missing: list[Build] = []
        for fetch in late:
            logger.warning("%d blocks did not come from a %s within %.1f s", *_about(fetch), now_s - fetch.start_s)
            del self._under_way[fetch]
            if fetch.lent is not None:
                fetch.lent.cancel()
            builds = fetch.open_builds
            self._end(fetch, builds)
            missing += builds
        self._start_some()
        return missing

    @property
    def wait_s(self) -> float | None:
        """Seconds until a fetch is to be given up; None where none is under way."""
        if not self._under_way:
            return None
        return max(0.0, min(fetch.give_up_s for fetch in self._under_way) - self._clock())

    def _end(self, fetch: Fetch, missing: Iterable[Build]) -> None:
        for build in missing:
            build.fetch = None
            build.tried += (fetch.source,)


def _about(fetch: Fetch) -> tuple[int, Origin]:
    return len(fetch.builds), fetch.source.origin
