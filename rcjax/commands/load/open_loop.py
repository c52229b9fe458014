"""The open loop: requests are sent when they are due, whatever became of those before."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from rcjax.commands.load.schedule import Arrival
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest, RecommendResult

Ask = Callable[[RecommendRequest], Awaitable[RecommendResult]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one request; seconds from the start. `error` is the type of a failure, else empty.

    `ttft_ms` is the server's own figure. `latency_ms` is the caller's, from when the request was *due*, not from when
    it was sent: what a slow server or a slow sender holds up has waited (no coordinated omission).
    """

    due_s: float
    sent_s: float
    done_s: float
    ttft_ms: float | None = None
    error: str = ""

    @property
    def latency_ms(self) -> float:
        return (self.done_s - self.due_s) * 1e3

    @property
    def late_ms(self) -> float:
        """How late the load test itself was."""
        return (self.sent_s - self.due_s) * 1e3


async def run_open_loop(
    ask: Ask,
    arrivals: Sequence[Arrival],
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> list[Sample]:
    """Sends each request when it is due, and waits for all; samples in the order of arrivals."""
    start_s = clock()

    async def send(arrival: Arrival) -> Sample:
        sent_s = clock() - start_s
        try:
            result = await ask(arrival.request)
        except RcjaxError as error:
            return Sample(arrival.at_s, sent_s, clock() - start_s, error=type(error).__name__)
        return Sample(arrival.at_s, sent_s, clock() - start_s, ttft_ms=result.times.ttft_ms)

    async with asyncio.TaskGroup() as sent:
        tasks = []
        for arrival in arrivals:
            wait_s = start_s + arrival.at_s - clock()
            if wait_s > 0:
                await sleep(wait_s)
            tasks.append(sent.create_task(send(arrival)))
    return [task.result() for task in tasks]
