"""Digests of a version's files: what was published is what is loaded, or nothing is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from streamsvc.errors import ConfigurationError

__all__ = ["check_files", "digest_of"]


def digest_of(content: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def check_files(version_dir: Path, digests: Mapping[str, str]) -> None:
    """Raises ConfigurationError naming the file that is missing or is not the one published."""
    for name, published in digests.items():
        path = version_dir / name
        try:
            found = digest_of(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error.strerror}): the version is incomplete, so nothing "
                "of it is used. Publish it again, or delete it with `streamsvc models delete`"
            ) from error
        if found != published:
            raise ConfigurationError(
                f"{path} is damaged: its SHA-256 is {found[:12]}…, and that of the published file "
                f"was {published[:12]}…. Publish the version again, or delete it with "
                "`streamsvc models delete`"
            )
