"""Compilations, counted, and the cache that makes the second start fast."""

from pathlib import Path

import jax

_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"


class CompilationCounter:
    """Counts programs compiled by this process from `start()` on; one read from the persistent cache counts too.

    JAX offers no way to unregister one listener, so make one counter per process and keep it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._start = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def start(self) -> None:
        """Counts from zero again: what was compiled before, in warm-up, is meant."""
        self._start = self._count

    def __call__(self) -> int:
        return self._count - self._start

    def _on_duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == _BACKEND_COMPILE:
            self._count += 1


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in `folder` across processes, small and quickly compiled ones too."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
