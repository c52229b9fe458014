import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import IntegrityError, PagePool, num_pages_for_budget
from rcjax.errors import ResourceExhaustedError


def test_a_fresh_pool_counts_up_from_page_one():
    pool = PagePool(5, 16)
    assert pool.capacity_pages == 4
    assert pool.allocate(3) == (1, 2, 3)
    assert (pool.num_used, pool.num_free) == (3, 1)
    assert pool.allocate(0) == ()


def test_freed_pages_are_used_again_in_the_same_order():
    pool = PagePool(5, 16)
    pages = pool.allocate(3)
    pool.free(pages)
    assert pool.allocate(3) == pages


def test_an_allocation_is_all_or_nothing():
    pool = PagePool(5, 16)
    pool.allocate(2)
    with pytest.raises(ResourceExhaustedError, match="3 pages wanted, 2 free of 4"):
        pool.allocate(3)
    assert pool.num_free == 2
    pool.check_integrity()


@pytest.mark.parametrize("bad", [(0,), (3,), (1, 3), (1, 1), (-1,), (5,)])
def test_freeing_what_is_not_allocated_frees_nothing(bad):
    pool = PagePool(5, 16)
    pool.allocate(2)
    with pytest.raises(ValueError, match="page"):
        pool.free(bad)
    assert pool.num_used == 2
    pool.check_integrity()


def test_a_double_free_is_refused():
    pool = PagePool(5, 16)
    pages = pool.allocate(2)
    pool.free(pages)
    with pytest.raises(ValueError, match="page=1 is not allocated"):
        pool.free(pages)


@given(st.integers(0, 100), st.integers(1, 20))
def test_pages_for_is_the_least_number_that_holds_the_tokens(num_tokens, page_tokens):
    num = PagePool(2, page_tokens).pages_for(num_tokens)
    assert (num - 1) * page_tokens < num_tokens <= num * page_tokens or num == num_tokens == 0


@pytest.mark.parametrize(("num_pages", "page_tokens"), [(1, 16), (0, 16), (2, 0)])
def test_a_pool_that_can_hold_nothing_is_refused(num_pages, page_tokens):
    with pytest.raises(ValueError, match="at least"):
        PagePool(num_pages, page_tokens)


def test_negative_counts_are_refused():
    pool = PagePool(4, 16)
    with pytest.raises(ValueError, match="negative"):
        pool.allocate(-1)
    with pytest.raises(ValueError, match="negative"):
        pool.pages_for(-1)


def test_used_pages_are_known():
    pool = PagePool(4, 16)
    pool.allocate(2)
    assert [pool.is_used(page) for page in (-1, 0, 1, 2, 3, 4)] == [False, False, True, True, False, False]


def lose_a_free_page(pool):
    pool._next[2] = 0


def lead_to_a_used_page(pool):
    pool._next[3] = 1


def go_round_in_circles(pool):
    pool._next[3] = 2


def lead_out_of_the_pool(pool):
    pool._next[3] = 4


def miscount(pool):
    pool.num_free += 1


def use_the_null_page(pool):
    pool._is_used[0] = 1


@pytest.mark.parametrize(
    "spoil",
    [lose_a_free_page, lead_to_a_used_page, go_round_in_circles, lead_out_of_the_pool, miscount, use_the_null_page],
)
def test_spoiled_books_are_noticed(spoil):
    pool = PagePool(4, 16)
    pool.allocate(1)
    pool.check_integrity()
    spoil(pool)
    with pytest.raises(IntegrityError):
        pool.check_integrity()


def test_a_run_is_found_from_its_first_page():
    pool = PagePool(9, 16)
    one, other = pool.allocate(3), pool.allocate(2)
    assert pool.run(one[0], 3) == one
    assert pool.checked_run(other[0], 2) == other
    pool.link(one + other, owner=7)
    assert pool.checked_run(one[0], 5, 7) == one + other
    for first, num, owner in [(one[0], 5, 6), (one[0], 4, 7), (one[0], 6, 7), (one[0], 5, -1), (8, 1, -1), (99, 1, 7)]:
        with pytest.raises(IntegrityError):
            pool.checked_run(first, num, owner)


def test_a_budget_holds_whole_pages():
    assert num_pages_for_budget(1000, 100) == 10
    assert num_pages_for_budget(1099, 100) == 10
    with pytest.raises(ValueError, match=r"budget_bytes=1000 holds 10 pages.*at least 1100 bytes"):
        num_pages_for_budget(1000, 100, min_pages=11)
    with pytest.raises(ValueError, match="page_bytes=0"):
        num_pages_for_budget(1000, 0)
