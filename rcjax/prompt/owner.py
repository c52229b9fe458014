"""Owners: whose content a block is."""

from typing import NamedTuple


class Owner(NamedTuple):
    """The item or user whose content a block is, by tenant and by id, which is the tenant's own.

    `inline` is empty for what a library holds. What comes with a request and is not in the library has another text
    there, so that it never displaces a block of the library.
    """

    tenant: str
    id: str
    inline: str = ""

    def __str__(self) -> str:
        of_tenant = f" of tenant {self.tenant!r}" if self.tenant else ""
        return f"{self.id!r}{of_tenant}{' (inline)' if self.inline else ''}"

    @property
    def is_inline(self) -> bool:
        """Whether the content came with a request."""
        return bool(self.inline)

    @property
    def full_id(self) -> str:
        """How placements and snapshots name an item or user of a library, whoever's it is."""
        return f"{self.tenant}\0{self.id}" if self.tenant else self.id  # ids hold no NUL


NOBODY = Owner("", "")  # of what has nobody's data and is shared by all tenants, such as the instruction
