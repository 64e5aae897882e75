from __future__ import annotations

from itertools import islice
from pathlib import Path

from streamsvc.local import logs
from streamsvc.local.logs import follow_logs, last_lines


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log, 3) == []
    log.write_text("1\n2\n3\n4")
    assert last_lines(log, 3) == ["2", "3", "4"]
    assert last_lines(log, 0) == []
    log.write_bytes(b"\xff broken\n")
    assert last_lines(log, 3) == ["\ufffd broken"]


def test_following_gives_whole_lines_from_now_on_through_a_replacement(
    tmp_path: Path, monkeypatch
) -> None:
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    one.write_text("before\n")
    # What happens between two looks at the files.
    events = iter(
        [
            lambda: one.open("a").write("half"),
            lambda: one.open("a").write(" a line\nnext\n"),
            lambda: two.write_text("appeared\n"),
            lambda: one.write_text("new\n"),
        ]
    )
    monkeypatch.setattr(logs.time, "sleep", lambda _: next(events)())
    assert list(islice(follow_logs({"one": one, "two": two}), 4)) == [
        ("one", "half a line"),
        ("one", "next"),
        ("two", "appeared"),
        ("one", "new"),
    ]
