"""How a model is trained: everything that a run depends on besides the model, the template and the data."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from rcjax.catalog.negatives import Negatives
from rcjax.config.strict import StrictModel
from rcjax.config.teacher import TeacherSettings
from rcjax.model.selection import parse_policy
from rcjax.prompt import Layout, Scoring
from rcjax.yaml_file import error_lines


class NewModel(StrictModel):
    """A decoder of random weights, which takes only the tokenizer from the checkpoint."""

    num_layers: int = Field(ge=1)
    """Of the decoder."""
    d_model: int = Field(ge=2)
    """Its width."""
    num_heads: int = Field(ge=1)
    """Heads of queries."""
    num_kv_heads: int = Field(ge=1)
    """Heads of keys and values."""
    d_ff: int = Field(ge=1)
    """Width of the feed-forward layers."""


class Lora(StrictModel):
    """Low-rank adapters on every projection (Hu et al., arXiv 2106.09685), exported alone and merged."""

    rank: int = Field(8, ge=1)
    """Of the adapters."""
    alpha: float = Field(16.0, gt=0)
    """What they add counts `alpha / rank` times."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which they are exported alone."""


class ClearHistories(StrictModel):
    """Histories of the embedded shop that tell at first more of a taste than its customers' do, and fade into these.

    An item is bought in proportion to exp(`sharpness` times what it is worth to the user); in the shop's own histories
    that is 0.5.
    """

    sharpness: float = Field(3.0, gt=0)
    """At first."""
    num_steps: int = Field(ge=1)
    """Steps that keep it."""
    fading_steps: int = Field(ge=1)
    """Steps in which it then becomes the shop's own, by the same factor in each."""

    def sharpness_at(self, step: float, end: float) -> float:
        """Of the histories of a step, counted from 0; `end` is the shop's own."""
        faded = min(max(step - self.num_steps, 0) / self.fading_steps, 1.0)
        return self.sharpness ** (1 - faded) * end**faded


class TrainSettings(StrictModel):
    """One training run. `batch_size` requests make a pass, `accumulate` passes a step of the optimizer.

    `num_layers` keeps the first layers of the checkpoint; `new_model` starts from random weights instead.
    `negative_pool` draws so many items for four passes, from which their requests take their negatives (of the embedded
    shop, their candidates), so that a pass computes their KV once for all; without it every request draws its own.
    `requests_per_user` shares a history likewise, of which the last `max_events` are asked with. `negatives` is for
    catalogues with events.
    `choices_per_request` asks the embedded shop's users each request so often; elsewhere so many of a user's later
    items, or as many as are left, are among the candidates and all of them chosen. `recall_share` of the requests ask
    for an item of the history itself: a model that finds it has learnt to compare candidates with the history.
    `clear_histories` begins with users whose taste is easy to see (of the embedded shop only).

    `selection` trains a `sequential` model as it is served from cached blocks under that policy, which must not need a
    probe; without it items are computed in each request. `teacher` distils: the checkpoint's own rankings under full
    causal attention are what the student learns.
    """

    layout: Layout = Layout.PARALLEL
    """Under whose mask it is trained, and is to be served."""
    scoring: Scoring = Scoring.ANCHOR
    """How candidates are scored, in training and when it is served."""
    selection: str | None = None
    teacher: TeacherSettings | None = None
    loss: Literal["listwise", "ranknet"] = "listwise"
    """`listwise`: softmax over the candidates; `ranknet`: over pairs of them."""
    num_steps: int = Field(1000, ge=1)
    """Steps of the optimizer."""
    batch_size: int = Field(8, ge=1)
    accumulate: int = Field(1, ge=1)
    num_candidates: int = Field(20, ge=2)
    """Candidates of a request."""
    requests_per_user: int = Field(1, ge=1)
    choices_per_request: int = Field(1, ge=1)
    recall_share: float = Field(0.0, ge=0, le=1)
    clear_histories: ClearHistories | None = None
    negatives: Negatives = Negatives.POPULARITY
    negative_pool: int | None = None
    max_events: int = Field(15, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    """At its highest; it falls to a tenth by a cosine."""
    warmup_steps: int = Field(50, ge=0)
    """In which the rate rises to its highest."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the passes; master weights are float32."""
    num_layers: int | None = Field(None, ge=1)
    new_model: NewModel | None = None
    lora: Lora | None = None
    tensor_parallel: int = Field(1, ge=1)
    """Devices that share each layer; the others share the batch."""
    seed: int = 0
    """Of examples and new weights."""
    validate_every: int = Field(100, ge=1)
    """Steps from one validation to the next."""
    num_validation: int = Field(200, ge=1)
    """Requests of a validation."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps from one checkpoint to the next."""

    def in_folder(self, folder: Path) -> "TrainSettings":
        """The same with the paths that a file in `folder` means."""
        return self.model_copy(update={"teacher": self.teacher.in_folder(folder)}) if self.teacher else self

    def changed(self, **given: object) -> "TrainSettings":
        """The same with the fields that are given; ValueError with a line for each that does not go with the others."""
        changes = {name: value for name, value in given.items() if value is not None}
        try:
            return TrainSettings.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise ValueError("\n".join(error_lines(error, "train", TrainSettings))) from error

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.batch_size % self.requests_per_user:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of {self.requests_per_user=}")
        if self.num_layers is not None and self.new_model is not None:
            raise ValueError("num_layers keeps layers of the checkpoint, new_model none: give one of them")
        if self.negative_pool is not None and self.negative_pool < self.num_candidates:
            raise ValueError(f"negative_pool={self.negative_pool} is below num_candidates={self.num_candidates}")
        if self.teacher is not None and self.loss != "listwise":
            raise ValueError(f"loss={self.loss!r} takes no teacher; leave it out")
        self._check_selection()
        return self

    def _check_selection(self) -> None:
        if self.selection is None:
            return
        if self.layout is Layout.PARALLEL:
            raise ValueError(
                f"selection={self.selection!r}: in layout=parallel every block is exact; leave it out, or set "
                "layout: sequential"
            )
        if parse_policy(self.selection).measures:
            raise ValueError(f"selection={self.selection!r} needs a probe; train with none or boundary(...), say")
