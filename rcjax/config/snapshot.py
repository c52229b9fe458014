"""Settings of snapshots."""

from pathlib import Path

from pydantic import Field, model_validator

from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel


class SnapshotSettings(StrictModel):
    """Where snapshots go, and when one is taken.

    `where` is a folder, or a URL that TensorStore knows (`gs://bucket/path`, `s3://bucket/path`), for one server alone;
    None: none are taken. One is taken every `every_s` seconds (None: only when asked for) and, with `on_stop`, once the
    last calls are done. The `keep` newest stay. At start the newest is restored: health says SERVING once the
    `hot_share` of its blocks is there that was used last, and the others follow.
    """

    where: str | None = None
    every_s: float | None = Field(None, gt=0)
    keep: int = Field(2, ge=1)
    on_stop: bool = False
    hot_share: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _has_a_place(self) -> "SnapshotSettings":
        if self.where is None and (self.every_s is not None or self.on_stop):
            raise ValueError("snapshots are to be taken, and where is not set; set it to a folder or a URL")
        return self

    def in_folder(self, folder: Path) -> "SnapshotSettings":
        """The same with the path that a file in `folder` means, as `Settings.in_folder` does."""
        if self.where is None or "://" in self.where:
            return self
        return self.model_copy(update={"where": str(in_folder(folder, Path(self.where), "snapshot.where"))})
