"""What became of items and users lately: enough to refuse what a plan from before that would bring back."""

from rcjax.prompt import Owner

Name = tuple[str, Owner]  # kind and owner


class KnownVersions:
    """The newest version that an item or user was cached or deleted at; only where an older plan may still live."""

    def __init__(self) -> None:
        self._newest: dict[Name, int] = {}  # those noted last stand last
        self._oldest_alive = 0

    def newest(self, name: Name) -> int:
        """0 where nothing is known: then no plan that lives is too old."""
        return self._newest.get(name, 0)

    def note(self, name: Name, version: int) -> None:
        """Takes in a version that is not older than what is known."""
        self._newest.pop(name, None)
        if version > self._oldest_alive:
            self._newest[name] = version

    def forget(self, before: int) -> None:
        """Lets go of what no plan or write of version `before` or newer can be too old for.

        Versions are noted in nearly rising order, so it is enough to look at those noted longest ago; one out of
        order waits for the newer one that was noted before it.
        """
        self._oldest_alive = max(self._oldest_alive, before)
        while self._newest:
            name = next(iter(self._newest))
            if self._newest[name] > self._oldest_alive:
                return
            del self._newest[name]

    def __len__(self) -> int:
        return len(self._newest)
