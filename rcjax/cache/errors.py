"""Failures of the cache's bookkeeping; they stay inside the server, unlike those in `rcjax.errors`."""


class IntegrityError(RuntimeError):
    """The books do not add up: a defect of this program, after which no page's content can be trusted."""


class BlockBusyError(RuntimeError):
    """Another reader has the block pinned, so it cannot be changed in place; build a new one."""
