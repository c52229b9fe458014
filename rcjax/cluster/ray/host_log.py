"""The log of writes of a cluster: every host that lives keeps what a write changes before it is answered."""

from collections.abc import Callable
from typing import Any

from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.records import record_of
from rcjax.engine.plan import WritePlan
from rcjax.errors import UnavailableError
from rcjax.serving.fan_out import when_all


class HostLog:
    """Sends writes to hosts (`rcjax.serving.write_log.WriteLog`); `lost` is told of those that do not take one.

    `hosts` are by name, and whoever changes them makes another dict.
    """

    def __init__(self, lost: Callable[[HostHandle, str], None]):
        self.hosts: dict[str, HostHandle] = {}
        self._lost = lost

    def append(self, plan: Any, then: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        assert isinstance(plan, WritePlan)
        records = tuple(record_of(change, plan.version) for change in plan.commit)
        asked = [(host, host.ask("record", records)) for host in self.hosts.values()]

        def finish() -> None:
            try:
                num_kept = 0
                for host, future in asked:
                    try:
                        future.result()
                        num_kept += 1
                    except UnavailableError as error:
                        self._lost(host, str(error))
                if not num_kept:
                    raise UnavailableError("no host is there to keep this write")
                then()
            except Exception as error:
                failed(error)

        when_all([future for _, future in asked], finish)
