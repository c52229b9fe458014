"""Items, users and events: their types, the readers of their files, and the embedded shop."""

from rcjax.catalog.columns import Columns
from rcjax.catalog.embedded import EmbeddedWorld, embedded_catalogue
from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.readers import CataloguePaths, Format, load_catalogue
from rcjax.catalog.report import OnError, ReadReport
from rcjax.catalog.types import Catalogue, Event, Item, Request, User

__all__ = [
    "Catalogue",
    "CatalogueError",
    "CataloguePaths",
    "Columns",
    "EmbeddedWorld",
    "Event",
    "Format",
    "Item",
    "OnError",
    "ReadReport",
    "Request",
    "User",
    "embedded_catalogue",
    "load_catalogue",
]
