"""Hashes of files. Importable without numpy and torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .errors import InputError


def file_sha256(path: Path) -> str:
    """Of a file's bytes. Raises `OSError`."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def input_sha256(path: Path) -> str:
    """`file_sha256` of a file that the user named. Raises `InputError`."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise InputError(f'"{path.name}" cannot be read.') from error
