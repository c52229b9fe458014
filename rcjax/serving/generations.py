"""Generations under way: what a slice tells of its tokens, for a reader on the event loop."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from rcjax.errors import ResourceExhaustedError
from rcjax.request import GeneratedPiece, GenerateRequest, GenerateResult, TokenCounts
from rcjax.serving.parts import GenerationPlanned, Worker
from rcjax.serving.text_pieces import TextPieces

MAX_UNREAD_TOKENS = 256


class Generation:
    """One request to continue something, from its call to its last piece; made on the event loop of its reader.

    The slice's thread puts tokens, the reader takes them. Where `MAX_UNREAD_TOKENS` wait for the reader the generation
    ends with a `ResourceExhaustedError`: pages of the device are not held for a reader who does not read.
    """

    def __init__(self, request: GenerateRequest, clock: Callable[[], float]):
        self.request = request
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._lock = threading.Lock()  # of all below
        self._attempt: _Attempt | None = None
        self._slice_index = 0
        self._tokens = TokenCounts()
        self._unread: list[int] = []
        self._first_s: float | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether its reader has, or will have, a token of it: it cannot begin again then."""
        return self._first_s is not None

    def submit(
        self, worker: Worker, index: int, plan: GenerationPlanned, deadline_s: float | None
    ) -> Future[list[int]]:
        """Hands it to the slice `index`; what slices tell that had it before counts for nothing from now on."""
        attempt = _Attempt(self)
        with self._lock:
            self._attempt, self._slice_index = attempt, index
        return worker.generate(plan.source, plan.sampling, deadline_s=deadline_s, listener=attempt)

    async def read(
        self, future: Future[list[int]], arrival_s: float, decode: Callable[[Sequence[int]], str]
    ) -> AsyncGenerator[GeneratedPiece | GenerateResult, None]:
        """Its pieces as they come, and its result; `future` gets all its tokens, and is cancelled with the reader."""
        text = TextPieces(decode)
        done = asyncio.wrap_future(future)
        done.add_done_callback(lambda _: self._changed.set())
        try:
            while not done.done():
                await self._changed.wait()
                self._changed.clear()
                if token_ids := self._take():
                    yield GeneratedPiece(token_ids, text.push(token_ids))
            last = self._take()  # those that came with the end
            rest = text.push(last)
            if not done.cancelled() and done.exception() is None:
                rest += text.rest()
            if last or rest:
                yield GeneratedPiece(last, rest)
            yield self._result(await done, arrival_s)
        finally:
            if not done.cancel() and not done.cancelled():
                done.exception()  # which nobody need hear of who does not read on

    def _result(self, new: Sequence[int], arrival_s: float) -> GenerateResult:
        return GenerateResult(
            num_new_tokens=len(new),
            is_complete=len(new) < self.request.max_new_tokens,
            tokens=self._tokens,
            ttft_ms=0.0 if self._first_s is None else (self._first_s - arrival_s) * 1e3,
            total_ms=(self._clock() - arrival_s) * 1e3,
            slice_index=self._slice_index,
        )

    def _take(self) -> tuple[int, ...]:
        with self._lock:
            token_ids = tuple(self._unread)
            self._unread.clear()
        return token_ids

    def put_prompt(self, attempt: "_Attempt", tokens: TokenCounts) -> None:
        with self._lock:
            if attempt is self._attempt:
                self._tokens = tokens

    def put_token(self, attempt: "_Attempt", token_id: int) -> None:
        with self._lock:
            if attempt is not self._attempt:
                return
            if len(self._unread) == MAX_UNREAD_TOKENS:
                raise ResourceExhaustedError(
                    f"{MAX_UNREAD_TOKENS} tokens of this generation wait to be read, which is the limit; read faster"
                )
            if self._first_s is None:
                self._first_s = self._clock()
            self._unread.append(token_id)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody reads any more
            self._loop.call_soon_threadsafe(self._changed.set)


class _Attempt:
    """The listener of one slice (`rcjax.engine.generation.Listener`)."""

    def __init__(self, generation: Generation):
        self._generation = generation

    def on_prompt(self, tokens: Any) -> None:
        self._generation.put_prompt(self, tokens)

    def on_token(self, token_id: int) -> None:
        self._generation.put_token(self, token_id)
