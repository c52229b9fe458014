"""The table of `rcjax cluster status`."""

import pytest

pytest.importorskip("ray")

from rcjax.cluster.ray.update import ClusterStatus, HostStatus
from rcjax.commands.cli.cluster import _show


def host(number: int) -> HostStatus:
    return HostStatus(
        name=f"rcjax-host-{number}",
        node="192.0.2.2",
        pid=26_179 + number,
        state="open",
        places=(number,),
        num_items=240,
        num_hits=12_345,
        num_misses=292,
        pages_used=2_106,
        pages_total=2_911,
    )


@pytest.mark.parametrize("width", [80, 120])
def test_names_of_hosts_are_whole_so_that_they_can_be_removed(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    _show(ClusterStatus("a model", 240, 48, 1, (host(7), host(12)), {"rcjax-host-3": "other settings"}))
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("rcjax-host-7", "rcjax-host-12", "rcjax-host-3 was refused: other settings"))
