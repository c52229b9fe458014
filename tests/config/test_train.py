"""Settings of training that contradict each other are refused by name."""

import pytest
from pydantic import ValidationError

from rcjax.config import NewModel, TrainSettings

NEW = NewModel(num_layers=1, d_model=16, num_heads=2, num_kv_heads=1, d_ff=24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8, "requests_per_user": 3}, "batch_size=8 must be a multiple of self.requests_per_user=3"),
        ({"num_layers": 2, "new_model": NEW}, "num_layers keeps layers of the checkpoint, new_model none"),
        ({"negative_pool": 19, "num_candidates": 20}, "negative_pool=19 is below num_candidates=20"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings(**changes)


@pytest.mark.parametrize(
    "changes", [{"batch_size": 9, "requests_per_user": 3}, {"negative_pool": 20, "num_candidates": 20}]
)
def test_what_just_fits_is_not(changes: dict) -> None:
    assert TrainSettings(**changes).model_dump().items() >= changes.items()
