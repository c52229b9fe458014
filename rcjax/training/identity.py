"""What a folder's contents depend on, written into it, so that nothing else is put beside them."""

from pathlib import Path

from rcjax.disk import make_folder, write_whole


def check_identity(path: Path, identity: str, otherwise: str) -> None:
    """Writes the file, and its folder, where there is none; ValueError where it says another identity.

    `otherwise` is what the folder then holds and what to do, as the end of the message.
    """
    make_folder(path.parent)
    if not path.exists():
        write_whole(path, identity)
    elif path.read_text(encoding="utf-8") != identity:
        raise ValueError(f"{path.parent} holds {otherwise}")
