"""What a planner refuses: by which field and limit, and before what is done for it."""

import pytest
from planning_cases import BAD
from planning_kit import ALL, EVENTS, ChatEncoder, new_planner, planned, stock
from tiny_engine import PAGE_TOKENS, item

from rcjax.catalog.types import Item, User
from rcjax.engine.shape import Shape
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.request import PutItems, PutUser, RecommendRequest


@pytest.fixture
def stocked():
    return stock(new_planner())


class TestRefusing:
    @pytest.mark.parametrize("name", BAD)
    def test_the_error_names_field_and_limit_and_nothing_stays(self, stocked, name):
        request, kind, field, part = BAD[name]
        library = stocked.library
        before = (library.cache_bytes, library.item_owners, library.user_owners, library.versions.oldest)
        with pytest.raises(kind) as caught:
            (stocked.plan if isinstance(request, RecommendRequest) else stocked.plan_write)(request)
        assert type(caught.value) is kind
        assert caught.value.field == field
        assert part in caught.value.message
        assert (library.cache_bytes, library.item_owners, library.user_owners, library.versions.oldest) == before
        assert not library.versions._reads
        assert not library.versions._writes

    def test_a_prompt_that_fits_no_shape_names_the_sizes(self):
        planner = stock(new_planner(shapes=(Shape(64, 64), Shape(448, 320))))
        many = tuple(item(i, num_words=6) for i in range(10, 40))
        with pytest.raises(InvalidRequestError) as caught:
            planner.plan(RecommendRequest(many, "u", arm="sequential_label_none"))
        for part in ("fresh_tokens=", "num_pages=0", "448 fresh tokens", "fewer candidates"):
            assert part in caught.value.message

    def test_what_the_pool_can_never_hold_is_refused_with_both_numbers(self):
        needed = planned(stock(new_planner()), RecommendRequest(ALL, "u")).block_pages
        assert planned(stock(new_planner(max_block_pages=needed)), RecommendRequest(ALL, "u"))
        with pytest.raises(InvalidRequestError, match=rf"{needed} pages of the cache, which has {needed - 1}"):
            stock(new_planner(max_block_pages=needed - 1)).plan(RecommendRequest(ALL, "u"))

    def test_a_text_that_the_pool_can_never_hold_is_refused_before_it_is_put(self):
        planner = new_planner()
        own = -(-len(planner.builder.instruction_ids) // PAGE_TOKENS)
        planner = new_planner(max_block_pages=own + 2)
        for write, field in [
            (PutItems((item(1), Item("n", "x" * 2 * PAGE_TOKENS))), "items[1]"),
            (PutUser(User("u", EVENTS)), "user.events"),
        ]:
            with pytest.raises(InvalidRequestError, match=r"3 pages|4 pages|5 pages|6 pages") as caught:
                planner.plan_write(write)
            assert caught.value.field == field
        planner.plan_write(PutItems((Item("n", "x" * (2 * PAGE_TOKENS - 1)),)))

    @pytest.mark.parametrize("arm", ["sequential_label_blocks", "parallel_label_blocks", "parallel_anchor_blocks"])
    def test_the_models_context_is_a_limit_of_positions(self, arm):
        request = RecommendRequest(ALL, "u", arm=arm)
        length = max(block.end for block in planned(stock(new_planner()), request).prompt.blocks)
        assert planned(stock(new_planner(max_len=length)), request)
        with pytest.raises(InvalidRequestError, match=rf"{length} positions, over .* context of {length - 1}"):
            stock(new_planner(max_len=length - 1)).plan(request)

    def test_refused_texts_are_not_tokenised(self):
        texts = []

        class Spy(ChatEncoder):
            def encode(self, text, *, allow_special=False):
                texts.append(text)
                return super().encode(text, allow_special=allow_special)

        planner = stock(new_planner(encoder=Spy()))
        texts.clear()
        for bad in (
            RecommendRequest((Item("n", "x" * 151),), "u"),
            RecommendRequest(("i0", "x"), history=()),
            RecommendRequest((Item("n", "mug"),), "x", arm="none such"),
        ):
            with pytest.raises((InvalidRequestError, NotFoundError)):
                planner.plan(bad)
        assert texts == []
