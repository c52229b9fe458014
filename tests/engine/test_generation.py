"""Decoding from cached and fresh blocks against a plain causal pass over all tokens, again for every new one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_engine import assert_idle, event, item, tiny_model

from rcjax.catalog.types import User
from rcjax.engine.generation import Sampling
from rcjax.errors import InvalidRequestError, ResourceExhaustedError
from rcjax.model.decoder import forward
from rcjax.request import RecommendRequest

CANDIDATES = ("i1", "i2", "i3")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def stocked(engine):
    engine.put_items([item(number) for number in (1, 2, 3)])
    engine.put_user(User("u", tuple(event(number) for number in range(3))))
    return engine


PADDED = 256


def continued(model, token_ids, num_new):
    logits_of = jax.jit(lambda params, ids: forward(params, model.config, ids))
    ids = list(token_ids)
    for _ in range(num_new):
        padded = ids + [0] * (PADDED - len(ids))  # what comes after does not change what came before
        logits = logits_of(model.params, jnp.asarray([padded]))[0, len(ids) - 1]
        ids.append(int(logits.argmax()))
    return ids[len(token_ids) :]


def test_greedy_text_is_the_argmax_of_a_causal_pass(engine, model):
    expected = continued(model, model.tokenizer.encode("red mug, oak"), 20)  # 20 tokens: three pages of 8
    assert engine.generate("red mug, oak", Sampling(max_new_tokens=20)) == expected
    assert_idle(engine)


@pytest.mark.parametrize(
    "arm",
    ["sequential_label_none", "sequential_label_prefix", "sequential_label_blocks_selected"],
)
def test_a_request_is_continued_as_its_flat_prompt_is(stocked, model, arm):
    request = RecommendRequest(CANDIDATES, "u", arm=arm)
    flat = np.concatenate([block.token_ids for block in stocked.prompt(request).blocks])
    assert stocked.generate(request, Sampling(max_new_tokens=6)) == continued(model, flat, 6)
    assert_idle(stocked)


def test_temperature_draws_from_the_softmax():
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    rng = np.random.default_rng(0)
    draws = np.array([Sampling(temperature=1.0).choose(logits, rng) for _ in range(4000)])
    assert np.bincount(draws, minlength=3) / 4000 == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
    cold = [Sampling(temperature=0.01).choose(logits, rng) for _ in range(50)]
    assert set(cold) == {0}


def test_huge_logits_are_drawn_from_too():
    """e to the power of 1,000 is infinite."""
    rng = np.random.default_rng(0)
    logits = np.array([1000, 999, -1000], np.float32)
    draws = np.array([Sampling(temperature=1.0).choose(logits, rng) for _ in range(2000)])
    share = 1 / (1 + np.exp(-1))
    assert np.bincount(draws, minlength=3) / 2000 == pytest.approx([share, 1 - share, 0], abs=0.04)


def test_an_end_of_text_token_ends_the_text_and_is_none_of_it(engine, model):
    expected = continued(model, model.tokenizer.encode("red mug, oak"), 8)
    for end in (expected[0], expected[3]):
        engine.worker._generator._eos_ids = frozenset({end})
        assert engine.generate("red mug, oak", Sampling(max_new_tokens=8)) == expected[: expected.index(end)]
    assert_idle(engine)


def test_a_seed_repeats_itself_and_seeds_differ(engine):
    def draw(seed):
        return engine.generate("oak", Sampling(12, temperature=2.0, seed=seed))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_a_continuation_that_fits_no_shape_or_pool_is_refused_and_leaves_nothing(engine):
    with pytest.raises(InvalidRequestError, match="generate"):
        engine.generate("oak", Sampling(max_new_tokens=5000))
    with pytest.raises(InvalidRequestError, match="generate"):
        engine.generate("oak " * 200, Sampling())
    (scratch,) = engine.call_workers(lambda worker: take_all_pages(worker.cache.directory))
    with pytest.raises(ResourceExhaustedError):
        engine.generate("oak", Sampling())
    engine.call_workers(lambda worker: worker.cache.directory.release(scratch))
    assert_idle(engine)


def take_all_pages(directory):
    return directory.reserve_scratch(directory.num_available_pages)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_bad_sampling_names_the_value(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
