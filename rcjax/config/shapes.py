"""Settings of the shapes that are compiled."""

from pydantic import Field, field_validator

from rcjax.config.strict import StrictModel


class ShapeSettings(StrictModel):
    """The shapes that are compiled before the server answers; a request that fits none is refused.

    Each is `[fresh_tokens, num_pages]` or `[fresh_tokens, num_pages, batch]`.
    """

    rank: tuple[tuple[int, ...], ...] = Field(min_length=1)
    build: tuple[tuple[int, ...], ...] = Field(min_length=1)
    generate: tuple[tuple[int, ...], ...] = ()

    @field_validator("rank", "build", "generate")
    @classmethod
    def _sizes(cls, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        for shape in shapes:
            if len(shape) not in (2, 3) or shape[0] < 1 or shape[1] < 0 or min(shape[2:], default=1) < 1:
                raise ValueError(
                    f"shape {shape} must be [fresh_tokens >= 1, num_pages >= 0], with or without batch >= 1"
                )
        return shapes


# For the embedded template and catalogue: 20 candidates or a few more in every arm, 100 in those that reuse items.
EMBEDDED_SHAPES = ShapeSettings(
    rank=((64, 192), (160, 192), (320, 192), (768, 896), (1536, 64), (2048, 64), (2048, 0), (2560, 0)),
    build=((64, 64), (512, 16)),
    generate=((1, 256), (160, 192)),
)
