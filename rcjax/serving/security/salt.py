"""The salt of block keys: a file's bytes, which go into every key and nowhere else."""

from pathlib import Path

MIN_SALT_BYTES = 16


def read_salt(path: Path | None) -> bytes:
    """The file's bytes as they are, none without a file; ValueError where it cannot be read or is too short."""
    if path is None:
        return b""
    try:
        salt = path.read_bytes()
    except OSError as error:
        raise ValueError(f"server.key_salt_file: cannot read {path}: {error.strerror}") from error
    if len(salt) < MIN_SALT_BYTES:
        raise ValueError(
            f"server.key_salt_file: {path} has {len(salt)} bytes; give at least {MIN_SALT_BYTES} random ones, as "
            "`openssl rand 32` makes them"
        )
    return salt
