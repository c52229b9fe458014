"""Settings of the mesh: how many slices there are, what stands where, and which slice answers."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel

PLACEMENTS = ("all", "hash")  # any other text is the path of a file


class SchedulerSettings(StrictModel):
    """How a request's slice is chosen; `alpha` and `beta` are of `affinity`, as in `rcjax.serving.scheduler`.

    With `max_imbalance`, no slice gets a request for which more than so many times the mean waits; None sets no bound.
    """

    policy: Literal["time", "affinity", "round_robin", "least_loaded", "hit_only"] = "time"
    """How a slice is chosen; `time`: where the answer is expected first."""
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False)
    beta: float = Field(1.0, ge=0, allow_inf_nan=False)
    max_imbalance: float | None = Field(None, ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _weighs_something(self) -> "SchedulerSettings":
        if self.alpha == self.beta == 0:
            raise ValueError("alpha and beta are both 0, so that every slice would be as good; make one larger")
        return self


class MeshSettings(StrictModel):
    """`slices` times `tensor` devices: each slice serves requests by itself, its heads split over `tensor` of them.

    `placement` says which slices hold an item: `all`, `hash`, or the file that `rcjax place` wrote. `replica_share` of
    a slice's pages may hold what it fetched from others. `cpu_devices` has a CPU pose as so many devices. Of the last
    `request_log` requests the ids of user and items are kept, for a placement or a student to learn from; 0 keeps none.
    """

    slices: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    placement: str = Field("all", min_length=1)
    scheduler: SchedulerSettings = SchedulerSettings()
    replica_share: float = Field(0.1, ge=0, le=1)
    cpu_devices: int | None = Field(None, ge=1)
    request_log: int = Field(0, ge=0)

    @property
    def num_devices(self) -> int:
        return self.slices * self.tensor

    @property
    def placement_file(self) -> Path | None:
        """The file that says which slices hold an item, where it is a file that does."""
        return None if self.placement in PLACEMENTS else Path(self.placement)

    def in_folder(self, folder: Path) -> "MeshSettings":
        """The same with the path that a file in `folder` means: a relative one starts there, `~` is a home directory.

        ValueError names a path whose home directory is not known.
        """
        if self.placement_file is None:
            return self
        return self.model_copy(update={"placement": str(in_folder(folder, self.placement_file, "mesh.placement"))})
