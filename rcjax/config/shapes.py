"""Settings of the shapes that are compiled."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from rcjax.config.strict import StrictModel

_SHORT = ("fresh_tokens", "num_pages", "batch")


class ShapeSize(StrictModel):
    """The size of one compiled pass; `[fresh_tokens, num_pages]` or `[fresh_tokens, num_pages, batch]` for short.

    With `tiles`, each takes up to `tile_tokens` of a row's fresh tokens and `tile_pages` pages that only these see, as
    items of the `parallel` layout have them; `num_pages` is then what all tokens may see.
    """

    fresh_tokens: int = Field(ge=1)
    """Of a row: tokens that the pass computes."""
    num_pages: int = Field(ge=0)
    batch: int = Field(default=1, ge=1)
    """Rows that run side by side."""
    tiles: int = Field(default=0, ge=0)
    tile_tokens: int = Field(default=1, ge=1)
    tile_pages: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            if len(value) not in (2, 3):
                raise ValueError(f"shape {list(value)} must be [fresh_tokens, num_pages] or [..., batch]")
            return dict(zip(_SHORT, value, strict=False))
        return value

    @model_validator(mode="after")
    def _tiles_have_pages(self) -> "ShapeSize":
        if (self.tiles > 0) != (self.tile_pages > 0):
            raise ValueError(f"tiles={self.tiles} and tile_pages={self.tile_pages} must both be 0, or neither")
        return self


class ShapeSettings(StrictModel):
    """The shapes that are compiled before the server answers; a request that fits none is refused."""

    rank: tuple[ShapeSize, ...]
    build: tuple[ShapeSize, ...]
    generate: tuple[ShapeSize, ...] = ()

    @field_validator("rank", "build")
    @classmethod
    def _not_empty(cls, shapes: tuple[ShapeSize, ...]) -> tuple[ShapeSize, ...]:
        # Not as the field's length: that would count the shapes that are valid, and complain of each wrong one twice.
        if not shapes:
            raise ValueError("at least one shape is needed")
        return shapes


def _tiled(num_tiles: int, batch: int) -> ShapeSize:
    return ShapeSize(fresh_tokens=num_tiles, num_pages=48, batch=batch, tiles=num_tiles, tile_pages=8)


def _sizes(*sizes: tuple[int, ...]) -> tuple[ShapeSize, ...]:
    return tuple(ShapeSize.model_validate(size) for size in sizes)


# For the embedded template and catalogue: 20 candidates or a few more in every arm, 100 in those that reuse items.
EMBEDDED_SHAPES = ShapeSettings(
    rank=(
        *(_tiled(20, batch) for batch in (1, 2, 4, 8)),
        _tiled(100, 1),
        *_sizes((64, 192), (160, 192), (320, 192), (768, 896), (1536, 64), (2048, 64), (2048, 0), (2560, 0)),
    ),
    build=_sizes((64, 64), (512, 16)),
    generate=_sizes((1, 256), (160, 192)),
)
