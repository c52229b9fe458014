"""The token bucket, against a count of what any span of time may have."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.errors import ResourceExhaustedError
from rcjax.serving.token_bucket import TokenBucket


def refused(bucket: TokenBucket, now_s: float) -> float | None:
    """When to retry, or None for a call that was taken."""
    try:
        bucket.take(now_s)
    except ResourceExhaustedError as error:
        return error.retry_after_s
    return None


@settings(deadline=None)
@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 5), st.integers(1, 5))
def test_no_span_has_more_than_its_rate_and_a_burst(pauses_s: list[float], per_s: float, burst: int) -> None:
    bucket, now_s = TokenBucket(per_s, burst), 100.0
    taken: list[float] = []
    for pause_s in pauses_s:
        now_s += pause_s
        retry_after_s = refused(bucket, now_s)
        if retry_after_s is not None:
            assert 0 < retry_after_s <= 1 / per_s
            # It was one too many: some span that ends now has all that it may have.
            spans = [(now_s - at, len(taken) - index) for index, at in enumerate(taken)]
            assert any(num + 1 > length_s * per_s + burst - 1e-6 for length_s, num in spans)
            continue
        taken.append(now_s)
        for index, at in enumerate(taken):
            assert len(taken) - index <= (now_s - at) * per_s + burst + 1e-6


def test_who_comes_back_when_told_is_taken() -> None:
    bucket = TokenBucket(4.0, 2)
    bucket.take(0.0)
    bucket.take(0.0)
    with pytest.raises(ResourceExhaustedError, match="4 requests a second, and 2 at once") as caught:
        bucket.take(0.125)
    assert caught.value.retry_after_s == 0.125
    bucket.take(0.25)
