"""The embedded shop: a catalogue, users and requests made from a seed, whose best possible ranking is known."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from rcjax.catalog import shop
from rcjax.catalog.draws import Draws
from rcjax.catalog.shop_departments import DEPARTMENTS
from rcjax.catalog.taste import RATINGS, TasteModel, Trace
from rcjax.catalog.types import Catalogue, Event, Item, Request, User

Split = Literal["train", "validation", "test"]

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# the first number of a stream's name, after the seed
_ITEMS, _PROFILES, _POPULARITY, _USERS, _REQUESTS = range(5)

MIN_EVENTS, MAX_EVENTS = 6, 15
_ZIPF_EXPONENT = 0.8
_SESSION_SHARE = 0.5
_TASTE_STRENGTH = 2.0
# per aspect: how many values a profile loves, likes and dislikes, and what each is worth
_TASTES: dict[str, tuple[tuple[int, float], ...]] = {
    "department": ((2, 1.0), (2, 0.5), (3, -0.5)),
    "brand": ((4, 1.0), (4, -0.5)),
    "line": ((1, 0.5), (1, -0.5)),
    "material": ((3, 0.8), (3, -0.5)),
    "colour": ((2, 0.8), (2, -0.5)),
    "use": ((2, 0.7), (2, -0.4)),
    "audience": ((2, 0.7), (2, -0.4)),
}
_FIRST_EVENT_S, _DAY_S = 1_700_000_000, 86_400


class EmbeddedWorld:
    """The shop, its tastes and its endless streams of users and requests; all a function of the seed.

    Users are named `{split}-{index}`; those of different splits are different people. Every product's title
    names all that tastes attach to, and every review tells its rating, so a prompt that shows a history's
    titles and reviews shows everything that the posterior is computed from.

    Popularity draws histories and candidates but not choices, so among candidates (which leave out what was
    bought before) the popular ones are rather those that the user passed over: ranking by popularity does
    worse than chance.
    """

    def __init__(self, seed: int = 0, *, num_items: int = 240, num_profiles: int = 8):
        if num_items <= MAX_EVENTS:
            raise ValueError(f"{num_items=} must exceed the {MAX_EVENTS} items of a long history")
        self.seed = seed
        self.products = tuple(shop.products(Draws(seed, _ITEMS), num_items))
        self.items: dict[str, Item] = {product.item.item_id: product.item for product in self.products}
        self._index = {item_id: n for n, item_id in enumerate(self.items)}
        self.tastes = TasteModel(
            prior=_zipf(num_profiles, offset=8, exponent=1.0),
            aspects=_profile_aspects(Draws(seed, _PROFILES), num_profiles, self.products),
            popularity=_popularity(Draws(seed, _POPULARITY), num_items),
        )

    def with_histories(self, sharpness: float) -> "EmbeddedWorld":
        """The same shop, people and tastes, whose histories tell more of a taste than the shop's own 0.5, or less."""
        other = copy(self)
        other.tastes = replace(self.tastes, history_sharpness=sharpness)
        return other

    def user(self, user_id: str) -> User:
        """The user of that name; `KeyError` for a name that is not `{split}-{index}`."""
        draws, _, trace = self._history(user_id)
        timestamp_s = _FIRST_EVENT_S + draws.below(300 * _DAY_S)
        events = []
        for index, rating, mention in zip(trace.items, trace.ratings, trace.mentions, strict=True):
            product = self.products[index]
            text = shop.review(draws, product, rating, mention)
            events.append(Event(product.item.item_id, product.item.title, text, float(rating), timestamp_s))
            timestamp_s += _DAY_S // 4 + draws.below(20 * _DAY_S)
        return User(user_id, tuple(events))

    def requests(
        self, num_requests: int, *, split: Split, num_users: int | None = None, num_candidates: int = 20
    ) -> Iterator[Request]:
        """Yields requests, users in turn; `num_users=None` gives each request its own user.

        Candidates are not in the user's history; they are drawn by popularity, half of them from the departments
        that go with a session's theme. The target is drawn from the user's choice model.
        """
        if num_candidates > len(self.items) - MAX_EVENTS:
            limit = len(self.items) - MAX_EVENTS
            raise ValueError(f"{num_candidates=} exceeds {limit}: num_items less a history of {MAX_EVENTS}")
        for n in range(num_requests):
            round_, user_index = divmod(n, num_users or num_requests)
            yield self.request(split, user_index, round_, num_candidates)

    def catalogue(
        self, *, num_users: int, num_requests: int, num_candidates: int = 20, split: Split = "test"
    ) -> Catalogue:
        """All items, `num_users` users, and requests from them in turn."""
        users = {user_id: self.user(user_id) for user_id in (embedded_user_id(split, n) for n in range(num_users))}
        stream = self.requests(num_requests, split=split, num_users=num_users, num_candidates=num_candidates)
        return Catalogue(dict(self.items), users, tuple(stream))

    def optimal_scores(self, request: Request) -> Float[np.ndarray, "C"]:
        """P(target = candidate | history, candidates) of each candidate: ranking by it is Bayes-optimal.

        Proof, for NDCG@k, HR@k and MRR: with one relevant item each is d(place of the target) for a
        non-increasing d, so its expectation is the sum of d(j) P(target is at place j), which is largest when
        the probabilities fall in the order of the places (the rearrangement inequality).
        """
        _, _, trace = self._history(request.user_id)
        return self.tastes.target_probabilities(trace, self._indices(request.candidates))

    def oracle_scores(self, request: Request) -> Float[np.ndarray, "C"]:
        """P(target = candidate | the user's true profile, candidates)."""
        _, profile, _ = self._history(request.user_id)
        return np.asarray(self.tastes.choice_probabilities(self._indices(request.candidates))[profile])

    def choices(
        self, user_id: str, candidates: Sequence[str], num_choices: int, rng: np.random.Generator
    ) -> Int[np.ndarray, "num_choices"]:
        """Indices of what the user chooses when shown the same candidates `num_choices` times."""
        _, profile, _ = self._history(user_id)
        shares = self.tastes.choice_probabilities(self._indices(candidates))[profile]
        return rng.choice(len(candidates), num_choices, p=shares)

    def _indices(self, item_ids: Sequence[str]) -> np.ndarray:
        return np.array([self._index[item_id] for item_id in item_ids])

    def _history(self, user_id: str) -> tuple[Draws, int, Trace]:
        """The user's stream after the history was drawn from it, their profile, and the history."""
        draws = Draws(self.seed, _USERS, *_user_number(user_id))
        profile = draws.weighted(self.tastes.prior)
        weights = self.tastes.event_weights[profile].copy()
        items, ratings, mentions = [], [], []
        num_lengths = MAX_EVENTS - MIN_EVENTS + 1
        # the smaller of two draws: short histories are more common
        for _ in range(MIN_EVENTS + min(draws.below(num_lengths), draws.below(num_lengths))):
            item = draws.weighted(weights)
            weights[item] = 0.0
            rating = RATINGS[draws.weighted(self.tastes.rating_probabilities[item][profile])]
            mentions.append(draws.weighted(self.tastes.mention_probabilities(item, rating)[profile]))
            items.append(item)
            ratings.append(rating)
        return draws, profile, Trace(tuple(items), tuple(ratings), tuple(mentions))

    def request(self, split: Split, user_index: int, round_: int = 0, num_candidates: int = 20) -> Request:
        """One request of a user, as `requests` yields them: `round_` counts this user's."""
        user_id = embedded_user_id(split, user_index)
        _, profile, trace = self._history(user_id)
        draws = Draws(self.seed, _REQUESTS, *_user_number(user_id), round_)
        session = self._session(draws.choice(trace.items))
        weights = self.tastes.popularity.copy()
        weights[list(trace.items)] = 0.0
        candidates: list[int] = []
        for _ in range(num_candidates):
            themed = np.where(session, weights, 0.0)
            in_session = draws.uniform() < _SESSION_SHARE and themed.any()
            candidates.append(draws.weighted(themed if in_session else weights))
            weights[candidates[-1]] = 0.0
        candidates = draws.sample(candidates, num_candidates)
        target = candidates[draws.weighted(self.tastes.choice_probabilities(np.array(candidates))[profile])]
        ids = [self.products[index].item.item_id for index in candidates]
        return Request(user_id, tuple(ids), self.products[target].item.item_id)

    def _session(self, theme: int) -> np.ndarray:
        """Which items belong to the theme item's department or to one that goes with it."""
        department = self.products[theme].department
        related = next(d.related for d in DEPARTMENTS if d.name == department)
        return np.array([product.department in (department, *related) for product in self.products])


def embedded_catalogue(
    seed: int = 0, num_items: int = 240, num_users: int = 48, num_requests: int = 64, num_candidates: int = 20
) -> Catalogue:
    """The default catalogue: the seed's shop with users and requests of its test split.

    Example:

        >>> small = embedded_catalogue(num_items=50, num_users=2, num_requests=3, num_candidates=5)
        >>> len(small.items), list(small.users), len(small.requests[0].candidates)
        (50, ['test-00000', 'test-00001'], 5)
    """
    world = EmbeddedWorld(seed, num_items=num_items)
    return world.catalogue(num_users=num_users, num_requests=num_requests, num_candidates=num_candidates)


def embedded_user_id(split: Split, index: int) -> str:
    """The name of a split's user."""
    return f"{split}-{index:05d}"


def _user_number(user_id: str) -> tuple[int, int]:
    for number, split in enumerate(_SPLITS):
        index = user_id.removeprefix(f"{split}-")
        # one name a user: "test-00007", but not "test-7"
        if index.isdecimal() and embedded_user_id(split, int(index)) == user_id:
            return number, int(index)
    raise KeyError(f"{user_id!r} is not a user of this world, like {embedded_user_id('test', 7)!r}")


def _zipf(n: int, *, offset: int, exponent: float) -> Float[np.ndarray, "N"]:
    weights = (offset + np.arange(1, n + 1)) ** -exponent
    return np.asarray(weights / weights.sum())


def _popularity(draws: Draws, num_items: int) -> Float[np.ndarray, "I"]:
    """Zipf over a random order of the items."""
    order = draws.sample(range(num_items), num_items)
    return _zipf(num_items, offset=0, exponent=_ZIPF_EXPONENT)[order]


def _profile_aspects(draws: Draws, num_profiles: int, products: Sequence[shop.Product]) -> Float[np.ndarray, "P I A"]:
    """Each profile's worth of each item's aspects."""
    aspects = np.zeros((num_profiles, len(products), len(shop.ASPECT_VALUES)))
    for profile in range(num_profiles):
        for aspect, (name, values) in enumerate(shop.ASPECT_VALUES.items()):
            tastes = [worth for count, worth in _TASTES[name] for _ in range(count)]
            worth_of = dict(zip(draws.sample(values, len(tastes)), tastes, strict=True))
            worths = [worth_of.get(product.values[aspect], 0.0) for product in products]
            aspects[profile, :, aspect] = _TASTE_STRENGTH * np.array(worths)
    return aspects
