"""A host whose passes take a set time and no processor, as if it had a device of its own (benchmarks/cluster.py)."""

from mesh import DEVICES
from paced_devices import PacedDevices, paced

from rcjax.cluster.ray.host import HostActor
from rcjax.config import Settings

FAST_DEVICES = {"begin_s": 0.002, "row_s": 0.008, "token_s": 2e-5}


class PacedHostActor(HostActor):
    """Answers what the first pass of a shape did, so that it is not compared with full recompute."""

    devices = DEVICES

    def __init__(self, settings: Settings, name: str):
        self._pacing = paced(PacedDevices(**self.devices))
        self._pacing.__enter__()
        super().__init__(settings, name, self_test=False)


class FastHostActor(PacedHostActor):
    """One whose passes take what an accelerator's might: 10 ms."""

    devices = FAST_DEVICES
