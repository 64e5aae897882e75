"""Dead letters, and what became of them, for people and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamsvc.agents.letter_choice import Chosen
    from streamsvc.agents.letter_replay import Sent
    from streamsvc.agents.letters import Contents, Letter, Letters, Position
    from streamsvc.cli.context import CliContext

__all__ = [
    "described",
    "print_choice",
    "print_letter",
    "print_letters",
    "print_sent",
    "replayed",
    "summary",
]

_SHOWN_BYTES = 4_096
_SHOWN_SENT = 20


def _by_reason(letters: Iterable[Letter]) -> dict[str, list[Letter]]:
    """Most frequent first."""
    found: dict[str, list[Letter]] = {}
    for letter in letters:
        found.setdefault(letter.reason, []).append(letter)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _newest(letters: Letters, count: int) -> list[Letter]:
    return sorted(letters.open, key=lambda each: each.refused_ms)[-count:] if count else []


def _span(letters: Sequence[Letter]) -> tuple[int, int]:
    times = [letter.source_ms for letter in letters]
    return min(times), max(times)


def _at_utc(ms: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(ms / 1e3, UTC):%Y-%m-%d %H:%M:%S}"


def summary(letters: Letters, records: int) -> dict[str, Any]:
    """One topic of `list --json`, with so many of its newest letters."""
    found: dict[str, Any] = {
        "topic": letters.topic,
        "letters": len(letters.open),
        "reasons": {},
        "sent_again": len(letters.sent),
        "repeated": letters.repeated,
        "foreign": letters.foreign,
    }
    for reason, of_reason in _by_reason(letters.open).items():
        first, last = _span(of_reason)
        found["reasons"][reason] = {"letters": len(of_reason), "from_ms": first, "until_ms": last}
    if records:
        found["records"] = [_plain(letter) for letter in _newest(letters, records)]
    return found


def _plain(letter: Letter) -> dict[str, Any]:
    return {
        "source": str(letter.source),
        "dead_letter": str(letter.place),
        "reason": letter.reason,
        "error": letter.error,
        "source_ms": letter.source_ms,
        "refused_ms": letter.refused_ms,
        "replays": letter.replays,
    }


def described(letter: Letter, contents: Contents, sent: Position | None) -> dict[str, Any]:
    """A letter for `describe --json`; `sent` is where its record was sent again."""
    import base64

    def text(raw: bytes | None) -> str | None:
        return None if raw is None else raw.decode(errors="backslashreplace")

    value = contents.value
    return {
        **_plain(letter),
        "sent_to": None if sent is None else str(sent),
        "key": text(contents.key),
        "headers": [[name, text(raw)] for name, raw in contents.headers],
        "value": text(value),
        "value_base64": None if value is None else base64.b64encode(value).decode(),
    }


def print_letter(
    context: CliContext, letter: Letter, contents: Contents, sent: Position | None
) -> None:
    """The same for people; a long value is cut."""

    def line(name: str, shown: object) -> None:
        context.console.print(f"{name:<12} {shown}", highlight=False, markup=False, soft_wrap=True)

    line("record", f"{letter.source}, written {_at_utc(letter.source_ms)}")
    line("dead letter", f"{letter.place}, written {_at_utc(letter.refused_ms)}")
    line("reason", letter.reason)
    line("error", letter.error)
    if letter.replays:
        line("replays", f"{letter.replays}: it was sent again, and refused again")
    if sent is not None:
        line("sent to", sent)
    line("key", "none" if contents.key is None else contents.key.decode(errors="backslashreplace"))
    for name, raw in contents.headers:
        line("header", f"{name}: {(raw or b'').decode(errors='backslashreplace')}")
    value = contents.value
    if value is None:
        line("value", "none")
        return
    line("value", f"{len(value):,} bytes")
    text = value[:_SHOWN_BYTES].decode(errors="backslashreplace")
    more = " …" if len(value) > _SHOWN_BYTES else ""
    context.console.print(text + more, highlight=False, markup=False, soft_wrap=True)


def print_choice(context: CliContext, chosen: dict[str, Chosen]) -> None:
    """What is to be sent, by topic and reason, and what is left out and why."""
    for topic, found in chosen.items():
        reasons = ", ".join(f"{r} {len(of):,}" for r, of in _by_reason(found.letters).items())
        line = f"{topic}: {len(found.letters):,} records" + (f" ({reasons})" if reasons else "")
        context.error_console.print(line, highlight=False, soft_wrap=True)
        for why, count in found.left_out.items():
            note = f"  {count:,} left out: {why}"
            context.error_console.print(note, style="yellow", highlight=False, soft_wrap=True)


def replayed(chosen: dict[str, Chosen], sent: list[Sent], dry_run: bool) -> dict[str, Any]:
    """The outcome for `replay --json`."""
    return {
        "dry_run": dry_run,
        "topics": {
            topic: {
                "chosen": {r: len(of) for r, of in _by_reason(found.letters).items()},
                "left_out": dict(found.left_out),
            }
            for topic, found in chosen.items()
        },
        "sent": [{"from": str(s.letter.source), "to": str(s.target)} for s in sent],
    }


def print_letters(context: CliContext, found: Sequence[Letters], records: int) -> None:
    """A table of all topics, and the newest letters of each."""
    from rich.table import Table

    table = Table("TOPIC", "REASON", "LETTERS", "FROM", "UNTIL", box=None, pad_edge=False)
    for letters in found:
        for reason, of_reason in _by_reason(letters.open).items():
            first, last = _span(of_reason)
            table.add_row(
                letters.topic, reason, f"{len(of_reason):,}", _at_utc(first), _at_utc(last)
            )
    context.console.print(table if table.row_count else "No dead letters.")
    for letters in found:
        if letters.sent:
            sent = f"{letters.topic}: {len(letters.sent):,} more were sent again"
            context.console.print(sent, style="dim", highlight=False)
        for letter in _newest(letters, records):
            line = f"{letter.source}  {_at_utc(letter.source_ms)}  {letter.reason}: {letter.error}"
            context.console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_sent(context: CliContext, sent: Sequence[Sent]) -> None:
    """Where the first records went."""
    for each in sent[:_SHOWN_SENT]:
        context.console.print(
            f"{each.letter.source} → {each.target}", highlight=False, soft_wrap=True
        )
    if len(sent) > _SHOWN_SENT:
        context.console.print(f"… and {len(sent) - _SHOWN_SENT:,} more; --json names them all")
