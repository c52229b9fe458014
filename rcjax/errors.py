"""What can go wrong at the edge; the gRPC layer maps each type to one status code."""


class RcjaxError(Exception):
    """A failure that the caller can act on.

    `field` names the request field at fault in the API's spelling (`"candidates[3].item_id"`), or is empty.
    """

    def __init__(self, message: str, *, field: str = ""):
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidRequestError(RcjaxError, ValueError):
    """The request can never succeed as it stands (INVALID_ARGUMENT)."""


def half_a_character(error: UnicodeEncodeError, field: str) -> InvalidRequestError:
    """What to say of a text in `field` that UTF-8 cannot have: Python takes half a surrogate pair for a character."""
    code = f"\\u{ord(error.object[error.start]):04x}"
    problem = f"has {code} at character {error.start + 1}, half a surrogate pair and no character; take it away"
    return InvalidRequestError(f"{field} {problem}", field=field)


class NotFoundError(RcjaxError, LookupError):
    """The request names a user or an item that this server does not have (NOT_FOUND)."""


class ResourceExhaustedError(RcjaxError):
    """The server has no room for it now; the same request may succeed later (RESOURCE_EXHAUSTED).

    `retry_after_s` is when there is expected to be room, None where that is not known.
    """

    def __init__(self, message: str, *, field: str = "", retry_after_s: float | None = None):
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(RcjaxError):
    """The request's deadline passed before its forward pass started (DEADLINE_EXCEEDED)."""


class UnavailableError(RcjaxError):
    """The server is starting, draining or stopped (UNAVAILABLE)."""


class UnauthenticatedError(RcjaxError):
    """The caller did not say who they are, or is not known (UNAUTHENTICATED)."""


class PermissionDeniedError(RcjaxError):
    """The caller is known, and may not do this (PERMISSION_DENIED)."""
