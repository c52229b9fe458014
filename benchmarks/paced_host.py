"""A host whose passes take a set time and no processor, as if it had a device of its own (benchmarks/cluster.py)."""

from mesh import DEVICES
from paced_devices import PacedDevices, paced

from rcjax.cluster.ray.host import HostActor
from rcjax.config import Settings


class PacedHostActor(HostActor):
    """Answers what the first pass of a shape did, so that it is not compared with full recompute."""

    def __init__(self, settings: Settings, name: str):
        self._pacing = paced(PacedDevices(**DEVICES))
        self._pacing.__enter__()
        super().__init__(settings, name, self_test=False)
