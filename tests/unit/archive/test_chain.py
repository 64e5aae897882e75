"""Which files count: writers that crash, are paused, and merge, in any order."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from streamsvc.archive.merging import RUN, due, replaced
from streamsvc.archive.names import ArchiveFile, Log, chain, day_of, parse_name

LOG = Log.of("Xb3k+/z0==", 2)
DAY = "arrived=2026-11-22"


def file(first: int, after: int, size: int = 1) -> ArchiveFile:
    return ArchiveFile(LOG, first, after, DAY, size)


def spans(files: list[ArchiveFile]) -> list[tuple[int, int]]:
    return [(f.first, f.next) for f in files]


def test_a_name_is_read_back() -> None:
    made = file(4711, 9000, 12)
    directory, base = made.name.split("/")
    assert parse_name(directory, base, 12, 3.5) == dataclasses.replace(made, written_s=3.5)
    assert parse_name("elsewhere", base, 12, 0) is None
    assert parse_name(directory, "part-0.parquet", 12, 0) is None
    assert parse_name(directory, base + ".tmp", 12, 0) is None


def test_a_merged_file_stands_for_those_it_was_made_of() -> None:
    small = [file(0, 5), file(5, 9), file(9, 12)]
    assert spans(chain(small)) == [(0, 5), (5, 9), (9, 12)]
    assert spans(chain([*small, file(5, 12)])) == [(0, 5), (5, 12)]
    assert spans(chain([*small, file(5, 12), file(0, 12)])) == [(0, 12)]


def test_the_last_file_of_a_paused_writer_is_no_part_of_it() -> None:
    files = [file(0, 5), file(5, 8), file(5, 7), file(8, 9)]
    assert spans(chain(files)) == [(0, 5), (5, 8), (8, 9)]
    assert [f for f, _ in replaced(files)] == [file(5, 7)]
    # … unless others have built on it; and what has nothing to stand on never counts.
    files = [file(0, 5), file(5, 8), file(5, 7), file(7, 20), file(8, 9), file(21, 30)]
    assert spans(chain(files)) == [(0, 5), (5, 7), (7, 20)]


class Writer:
    """What a writer does, as `PartitionWriter`: it lists once."""

    def __init__(self, disk: set[ArchiveFile]) -> None:
        self.view = set(disk)
        links = chain(disk)
        self.position = links[-1].next if links else 0

    def write(self, disk: set[ArchiveFile], n: int) -> None:
        self._add(disk, file(self.position, self.position + n))
        self.position += n

    def merge(self, disk: set[ArchiveFile], data: st.DataObject) -> None:
        links = chain(self.view)
        if len(links) > 1:
            at = data.draw(st.integers(0, len(links) - 2))
            to = data.draw(st.integers(at + 1, len(links) - 1))
            self._add(disk, file(links[at].first, links[to].next))

    def delete(self, disk: set[ArchiveFile]) -> None:
        gone = {f for f, _ in replaced(list(self.view))}
        self.view -= gone
        disk -= gone

    def _add(self, disk: set[ArchiveFile], made: ArchiveFile) -> None:
        self.view.add(made)
        disk.add(made)


@given(st.data())
def test_whatever_writers_do_each_offset_is_in_one_file_of_the_chain(data: st.DataObject) -> None:
    """Any writer may go on long after another one took over; only the last one deletes, because no
    pause outlasts the grace."""
    disk: set[ArchiveFile] = set()
    writers = [Writer(disk)]
    for _ in range(data.draw(st.integers(1, 25))):
        who = data.draw(st.sampled_from(writers))
        action = data.draw(st.sampled_from(["take over", "write", "merge", "delete"]))
        if action == "take over":
            writers.append(Writer(disk))
        elif action == "write":
            who.write(disk, data.draw(st.integers(1, 4)))
        elif action == "merge":
            who.merge(disk, data)
        else:
            writers[-1].delete(disk)
        links = chain(disk)
        assert [a.next for a in links[:-1]] == [b.first for b in links[1:]]
        if links:
            assert links[0].first == 0
            assert links[-1].next >= writers[-1].position


def test_eight_neighbours_are_merged_and_a_larger_one_waits_for_its_equals() -> None:
    files = [file(0, 100, 160)]
    for i in range(RUN):
        assert due(files, 1_000, over=False) == []
        files.append(file(100 + i, 101 + i, 10))
    run = due(files, 1_000, over=False)
    assert spans(run)[0] == (0, 100)  # eight times ten are half of what it holds
    assert spans(run)[-1] == (100 + RUN - 1, 100 + RUN)
    assert spans(due(files, 100, over=False)) == spans(files[1:])  # more would be too large


def test_when_the_day_is_over_everything_small_is_merged() -> None:
    files = [file(0, 1, 10), file(1, 2, 90), file(2, 3, 500), file(3, 4, 10), file(4, 5, 300)]
    assert spans(due(files, 400, over=True)) == [(3, 4), (4, 5)]
    merged = [*files[:3], file(3, 5, 310)]
    assert spans(due(merged, 400, over=True)) == [(0, 1), (1, 2)]
    assert due([file(0, 2, 100), *merged[2:]], 400, over=True) == []


@given(st.lists(st.integers(1, 50), min_size=1, max_size=400))
def test_an_event_is_rewritten_a_few_times_only(sizes: list[int]) -> None:
    """As files come in one by one: the bytes written again are logarithmic, the files few."""
    files: list[ArchiveFile] = []
    again = 0
    for i, size in enumerate(sizes):
        files.append(file(i, i + 1, size))
        run = due(files, 10**9, over=False)
        if run:
            total = sum(f.size for f in run)
            again += total
            files = [f for f in files if f not in run] + [file(run[0].first, run[-1].next, total)]
    assert again <= sum(sizes) * 2 * len(bin(sum(sizes)))
    equal = len(set(sizes)) == 1
    assert not equal or len(files) < RUN * len(bin(len(sizes)))


def test_the_day_is_that_of_the_record_and_never_goes_back_over_midnight() -> None:
    midnight = 1_795_392_000_000
    assert day_of(midnight) == "arrived=2026-11-23"
    assert day_of(midnight - 1) == "arrived=2026-11-22"
    assert day_of(midnight - 1, "arrived=2026-11-23") == "arrived=2026-11-23"
    assert day_of(midnight - 1, "arrived=2026-11-24") == "arrived=2026-11-22"
    assert day_of(-1) == "arrived=1970-01-01"
    assert day_of(2**62) == "arrived=9999-01-01"
