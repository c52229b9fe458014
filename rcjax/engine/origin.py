"""Where the KV of a block that missed comes from."""

from enum import StrEnum


class Origin(StrEnum):
    """`BUILT`: computed here; `SLICE`: copied from another slice; `HOST`, `DISK`: from a tier."""

    BUILT = "built"
    SLICE = "slice"
    HOST = "host"
    DISK = "disk"
