"""What can go wrong at the edge; the gRPC layer maps each type to one status code."""


class RcjaxError(Exception):
    """A failure that the caller can act on.

    `field` names the request field at fault in the API's spelling (`"candidates[3].item_id"`), or is empty.

    Example:

        >>> (outcome,) = engine.recommend([RecommendRequest(("no-such-item",), request.user_id)])
        >>> isinstance(outcome, RcjaxError), outcome.field
        (True, 'candidates[0].item_id')
    """

    def __init__(self, message: str, *, field: str = ""):
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequestError(RcjaxError, ValueError):
    """The request can never succeed as it stands (INVALID_ARGUMENT).

    Example:

        >>> try:
        ...     engine.put_items([Item("mug-1", title="")])
        ... except InvalidRequestError as error:
        ...     print(error.field)
        items[0].title
    """


def half_a_character(error: UnicodeEncodeError, field: str) -> InvalidRequestError:
    """What to say of a text in `field` that UTF-8 cannot have: Python takes half a surrogate pair for a character."""
    code = f"\\u{ord(error.object[error.start]):04x}"
    problem = f"has {code} at character {error.start + 1}, half a surrogate pair and no character; take it away"
    return InvalidRequestError(f"{field} {problem}", field=field)


class NotFoundError(RcjaxError, LookupError):
    """The request names a user or an item that this server does not have (NOT_FOUND).

    Example:

        >>> try:
        ...     engine.append_events("nobody", [Event("mug-1", "Stoneware mug")])
        ... except NotFoundError as error:
        ...     print(error.field)
        user_id
    """


class ResourceExhaustedError(RcjaxError):
    """The server has no room for it now; the same request may succeed later (RESOURCE_EXHAUSTED).

    `retry_after_s` is when there is expected to be room, None where that is not known.

    Example:

        >>> ResourceExhaustedError("the queue is full", retry_after_s=0.5).retry_after_s
        0.5
    """

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None):
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(RcjaxError):
    """The request's deadline passed before its forward pass started (DEADLINE_EXCEEDED).

    Example:

        >>> import asyncio
        >>> try:
        ...     asyncio.run(engine.router.recommend(request, deadline_s=0.0))  # on the clock of time.monotonic
        ... except DeadlineExceededError:
        ...     print("too late")
        too late
    """


class UnavailableError(RcjaxError):
    """The server is starting, draining or stopped (UNAVAILABLE).

    Example:

        >>> with RecommenderClient("127.0.0.1:1", retry=RetryPolicy(max_tries=1)) as client:
        ...     try:
        ...         client.recommend(request)
        ...     except UnavailableError:
        ...         print("nobody is there")
        nobody is there
    """


class UnauthenticatedError(RcjaxError):
    """The caller did not say who they are, or is not known (UNAUTHENTICATED)."""


class PermissionDeniedError(RcjaxError):
    """The caller is known, and may not do this (PERMISSION_DENIED)."""
