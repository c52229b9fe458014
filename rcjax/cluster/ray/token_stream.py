"""Tokens of a generation on their way from a slice's thread to the event loop that sends them."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future

from rcjax.cluster.ray.answer import Answer
from rcjax.engine.state import public
from rcjax.request import TokenCounts


class TokenStream:
    """Hears of a generation (`rcjax.engine.generation.Listener`), and gives on what it hears."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._told: asyncio.Queue[TokenCounts | int | Answer | None] = asyncio.Queue()
        self._future: Future[list[int]] | None = None

    def on_prompt(self, tokens: TokenCounts) -> None:
        self._loop.call_soon_threadsafe(self._told.put_nowait, tokens)

    def on_token(self, token_id: int) -> None:
        self._loop.call_soon_threadsafe(self._told.put_nowait, token_id)

    def follow(self, future: "Future[list[int]]") -> None:
        """The generation, whose end ends the stream."""
        self._future = future
        future.add_done_callback(self._on_done)

    async def read(self) -> AsyncIterator[TokenCounts | int | Answer]:
        """What is heard, and at last the error, if it ended with one; leaving it ends the generation."""
        try:
            while (told := await self._told.get()) is not None:
                yield told
        finally:
            if self._future is not None:
                self._future.cancel()

    def _on_done(self, future: "Future[list[int]]") -> None:
        error = None if future.cancelled() else future.exception()
        last = None if error is None else Answer(error=public(error))
        for told in [last, None] if last is not None else [None]:
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)
