"""A server of the tiny engine, as a process of its own: `python served_process.py FOLDER`, told on standard input.

`damage` turns a page's keys around before the self-test, `hold` makes each pass take two seconds, `kill` ends the
slice at its next pass.
"""

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

import typer
from tiny_engine import event, item, tiny_model, tiny_settings

from rcjax.catalog.types import User
from rcjax.commands.cli.options import friendly_errors
from rcjax.config import ArmSettings, ShapeSettings
from rcjax.engine.executor import Executor, ExecutorLostError
from rcjax.serving.server import Server, serve
from rcjax.serving.startup import start_engine


@friendly_errors()
def main(folder: Path, is_damaged: bool = False) -> None:
    arms = {"parallel": ArmSettings(layout="parallel", scoring="anchor")}
    shapes = ShapeSettings(rank=((144, 64),), build=((96, 8),))
    settings = tiny_settings(folder, arms=arms, default_arm="parallel", shapes=shapes)
    if is_damaged:
        damage_builds()

    def factory() -> Any:
        engine = start_engine(settings, model=tiny_model(), self_test=True)
        engine.put_items([item(number) for number in range(4)])
        engine.put_user(User("u", (event(0),)))
        threading.Thread(target=obey, args=(engine,), daemon=True).start()
        return engine.router

    def say(line: str) -> None:
        print(line, flush=True)

    asyncio.run(
        serve(
            Server(factory, grace_s=30.0),
            on_listening=lambda addresses: say(f"listening {addresses.main}"),
            on_ready=lambda info: say("ready"),
        )
    )
    say("stopped")


def damage_builds() -> None:
    """Has every block's KV written a token too late, as a wrong index would."""
    build = Executor.build

    def shifted(self: Executor, batch: Any, source: Any, destination: Any, shape: Any) -> Any:
        wrong = source.copy()
        wrong[:, 1:] = source[:, :-1]
        return build(self, batch, wrong, destination, shape)

    Executor.build = shifted  # type: ignore[method-assign]


def obey(engine: Any) -> None:
    executor = engine.router.workers[0].cache.executor
    rank = executor.rank
    for line in sys.stdin:
        if line.strip() == "hold":

            def slow(*args: Any) -> Any:
                time.sleep(2.0)
                return rank(*args)

            executor.rank = slow
        elif line.strip() == "kill":

            def die(*args: Any) -> Any:
                raise ExecutorLostError("the device fell off")

            executor.rank = die
        print(f"did {line.strip()}", flush=True)


if __name__ == "__main__":
    typer.run(main)
