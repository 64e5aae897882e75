"""Where the owner of a changelog partition may cut off the log's beginning.

The log is needed from the beginning of the last whole round of the rolling snapshot on. But a
worker that lost the partition may not know it yet, and a request to delete records cannot be taken
back. So an offset may be deleted up to only if that is safe whatever anybody writes later:

1. The round record at that offset, and all commits of the round up to its last end marker, are
   acknowledged.
2. Nobody else opened the partition between our own open record and that end marker.

Both are facts about offsets that exist, and those never change. Where they hold, a restorer that
begins at the round record judges every later record as one that read the whole log, because both
have the same owner there and nothing pending; and by the end of the round it has the same tiles. A
worker may pause between this and the deletion for as long as it likes.

The second is known without reading: offsets are dense, so as long as our commits follow each other
without a gap, nobody else wrote. Where there is a gap it has to be looked at.
"""

from __future__ import annotations

__all__ = ["Trimming"]

COMMITS_APART = 16
"""Commits between two deletions: a deletion costs the broker a few milliseconds."""


class Trimming:
    """What an owner knows of one partition of a changelog."""

    def __init__(self, known: int, *, superseded: bool = False) -> None:
        self.known = known
        """Everything below has been read or written by us, after our open record."""
        self.superseded = superseded
        """Somebody else opened the partition after us: what we write counts no more."""
        self._round_at: int | None = None
        """Where the round under way began; None if its commits may not all be ours."""
        self._safe = 0
        self._commits = 0
        self.void_commits = 0
        """Commits since we know that nobody will read them."""

    def committed(self, last: int, records: int, *, begins: bool, ends: bool) -> bool:
        """A commit of so many records is acknowledged, the last of them at offset `last`.

        False says that somebody else wrote since `known`: look at the log from there, and tell
        `looked`. Such a round is given up.
        """
        self._commits += 1
        self.void_commits += self.superseded
        first = last + 1 - records
        if first != self.known:
            self._round_at = None
            return False
        self.known = last + 1
        if begins:
            self._round_at = first
        if ends and self._round_at is not None and not self.superseded:
            self._safe, self._round_at = self._round_at, None
        return True

    def looked(self, end: int, *, superseded: bool) -> None:
        """The log was read up to `end`; `superseded` if somebody else opened it."""
        self.known = max(self.known, end)
        self.superseded = self.superseded or superseded

    def take(self) -> int | None:
        """The offset up to which records are to be deleted, or None while that is not worth it."""
        if not self._safe or self._commits < COMMITS_APART:
            return None
        safe, self._safe, self._commits = self._safe, 0, 0
        return safe
