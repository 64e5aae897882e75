"""Event times: ISO-8601 text or epoch numbers → milliseconds since 1970 in UTC.

Text is `YYYY-MM-DD`, alone (midnight) or followed by `T` or a space and `HH:MM[:SS[.fraction]]`
(a comma for the point is allowed), with `Z`, `±HH`, `±HHMM` or `±HH:MM` after a time. Text without
a zone is UTC. Anything finer than a millisecond is cut off. Refused, each with a sentence: 24:00,
leap seconds, dates that do not exist, years that do not have four digits, and, in text and in
numbers, times before 1970 or after 9999.

Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970. Seconds with a fraction
are read to the microsecond before they are cut off, so 1.001 is 1,001 ms although the nearest
double lies below it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from streamsvc.columns import I64, U8, Bools, BytesColumn, Column
from streamsvc.definitions.plan import TimeUnit
from streamsvc.events.jit import kernel
from streamsvc.events.tokens import at, digit

__all__ = ["MAX_TIME_MS", "PER_SECOND", "event_times", "explain"]

MAX_TIME_MS: Final = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z."""

_OK: Final = 0
_NOT_ISO: Final = 1
_MONTH: Final = 2
_DAY: Final = 3
_HOUR_24: Final = 4
_HOUR: Final = 5
_MINUTE: Final = 6
_LEAP_SECOND: Final = 7
_SECOND: Final = 8
_OFFSET: Final = 9
_TOO_EARLY: Final = 10
_TOO_LATE: Final = 11
_NOT_A_NUMBER: Final = 12

_SENTENCES: Final = {
    _NOT_ISO: "is not an ISO-8601 time such as 2013-01-01T05:15:00Z",
    _MONTH: "has a month outside 01-12",
    _DAY: "names a day that its month does not have",
    _HOUR_24: "has hour 24; midnight is 00:00 of the next day",
    _HOUR: "has an hour outside 00-23",
    _MINUTE: "has a minute outside 00-59",
    _LEAP_SECOND: "has second 60; leap seconds do not exist in epoch time",
    _SECOND: "has a second outside 00-59",
    _OFFSET: "has a UTC offset outside ±23:59",
    _TOO_EARLY: "lies before 1970",
    _TOO_LATE: "lies after the year 9999",
    _NOT_A_NUMBER: "is not a number",
}
_INT64_MAX: Final = 2**63 - 1
PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000, "kafka": 1_000}
"""What the units of an event time given as a number are worth, per second."""


def explain(code: int) -> str:
    """What is wrong with a time, as the end of a sentence; `code` is not 0."""
    return _SENTENCES[code]


def event_times(column: Column, unit: TimeUnit | None, rows: Bools) -> tuple[I64, U8]:
    """Milliseconds since 1970 and a code (0 = good, else see `explain`), both of shape (n,).

    Only `rows` are read, and they must be valid; elsewhere time and code are 0, and where the code
    is not 0 the time is 0. A number needs a unit; text ignores it.
    """
    time = np.zeros(len(rows), np.int64)
    code = np.zeros(len(rows), np.uint8)
    if isinstance(column, BytesColumn):
        _parse_texts(column.data, column.start, column.end, rows, time, code)
        return time, code
    assert unit is not None
    _convert_numbers(column.values, PER_SECOND[unit], rows, time, code)
    return time, code


def _convert_numbers(values: Any, per_second: int, rows: Bools, time: I64, code: U8) -> None:
    limit = (MAX_TIME_MS + 1) // 1_000 * per_second
    # Whole numbers stay whole: a comparison as doubles would be off by microseconds at the limit.
    whole = values.dtype == np.int64
    late = values > min(limit - 1, _INT64_MAX) if whole else values >= limit
    code[rows & late] = _TOO_LATE
    code[rows & (values < 0)] = _TOO_EARLY
    if not whole:
        code[rows & np.isnan(values)] = _NOT_A_NUMBER
    good = rows & (code == _OK)
    chosen = values[good]
    if whole:
        time[good] = chosen * 1_000 if per_second == 1 else chosen // (per_second // 1_000)
    elif per_second == 1:
        time[good] = np.rint(chosen * 1e6).astype(np.int64) // 1_000
    else:
        time[good] = np.floor(chosen / (per_second // 1_000)).astype(np.int64)


@kernel
def _parse_texts(data: U8, start: I64, end: I64, rows: Bools, time: I64, code: U8) -> None:
    for i in range(len(rows)):
        if rows[i]:
            ms, found = _parse_text(data, start[i], end[i])
            code[i] = found
            time[i] = ms if found == _OK else 0


@kernel
def _parse_text(a: U8, p: int, e: int) -> tuple[int, int]:  # noqa: PLR0911, PLR0912
    year = _number(a, p, e, 4)
    month = _number(a, p + 5, e, 2)
    day = _number(a, p + 8, e, 2)
    if year < 0 or month < 0 or day < 0 or at(a, p + 4) != 45 or at(a, p + 7) != 45:
        return 0, _NOT_ISO
    hour = minute = second = milli = offset = 0
    p += 10
    if p < e:
        if at(a, p) not in (84, 116, 32):
            return 0, _NOT_ISO
        hour = _number(a, p + 1, e, 2)
        minute = _number(a, p + 4, e, 2)
        if hour < 0 or minute < 0 or at(a, p + 3) != 58:
            return 0, _NOT_ISO
        p += 6
        if p < e and at(a, p) == 58:
            second = _number(a, p + 1, e, 2)
            if second < 0:
                return 0, _NOT_ISO
            p += 3
            if p < e and at(a, p) in (44, 46):
                p += 1
                first = p
                weight = 100
                while p < e and 48 <= at(a, p) <= 57:
                    milli += digit(a, p) * weight
                    weight //= 10
                    p += 1
                if p == first:
                    return 0, _NOT_ISO
        if p < e:
            offset, p = _offset_minutes(a, p, e)
            if p != e:
                return 0, _NOT_ISO
    if month < 1 or month > 12:
        return 0, _MONTH
    if day < 1 or day > _days_in_month(year, month):
        return 0, _DAY
    if hour > 23:
        return 0, _HOUR_24 if hour == 24 else _HOUR
    if minute > 59:
        return 0, _MINUTE
    if second > 59:
        return 0, _LEAP_SECOND if second == 60 else _SECOND
    if offset < -1_439 or offset > 1_439:
        return 0, _OFFSET
    minutes = (_days(year, month, day) * 24 + hour) * 60 + minute - offset
    ms = (minutes * 60 + second) * 1_000 + milli
    if ms < 0:
        return 0, _TOO_EARLY
    if ms > MAX_TIME_MS:
        return 0, _TOO_LATE
    return ms, _OK


@kernel
def _offset_minutes(a: U8, p: int, e: int) -> tuple[int, int]:
    """`Z`, `±HH`, `±HHMM` or `±HH:MM` at `p`: minutes east of UTC, and the position after it.

    The position is -1 if there is none. An hour or minute that does not exist gives 9,999 minutes.
    """
    if at(a, p) in (90, 122):
        return 0, p + 1
    if at(a, p) not in (43, 45):
        return 0, -1
    negative = at(a, p) == 45
    hours = _number(a, p + 1, e, 2)
    if hours < 0:
        return 0, -1
    p += 3
    minutes = 0
    if p < e:
        if at(a, p) == 58:
            p += 1
        minutes = _number(a, p, e, 2)
        if minutes < 0:
            return 0, -1
        p += 2
    if hours > 23 or minutes > 59:
        return 9_999, p
    total = hours * 60 + minutes
    return (-total if negative else total), p


@kernel
def _number(a: U8, p: int, e: int, digits: int) -> int:
    """Exactly `digits` digits at `p`, or -1."""
    if p + digits > e:
        return -1
    value = 0
    for q in range(p, p + digits):
        if not 48 <= at(a, q) <= 57:
            return -1
        value = value * 10 + digit(a, q)
    return value


@kernel
def _days_in_month(year: int, month: int) -> int:
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@kernel
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar (Hinnant, days_from_civil)."""
    y = year - 1 if month <= 2 else year
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
