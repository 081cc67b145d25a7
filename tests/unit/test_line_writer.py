"""A thread writes lines to a descriptor; a stalled reader causes dropped lines but never blocks the caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from scheduler_core.base import line_writer
from scheduler_core.base.line_writer import WHOLE_BYTES, LineWriter
from tests.support.recorder import WAIT_SECONDS


class Pipe:
    """A pipe, and its reader on request."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def fill(self) -> None:
        """Fill the pipe completely."""
        os.set_blocking(self.write_end, False)
        for size in (WHOLE_BYTES, 1):
            try:
                while True:
                    os.write(self.write_end, b"." * size)
            except BlockingIOError:
                continue
        os.set_blocking(self.write_end, True)

    def read_until(self, end: str) -> list[str]:
        """Read until ``end`` was read; the whole lines, without those that filled the pipe."""
        text = b""
        while not text.endswith(end.encode() + b"\n"):
            piece = os.read(self.read_end, 65_536)
            assert piece, text
            text += piece
        return text.decode().lstrip(".").splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.read_end)  # a thread that is blocked in a write meets a broken pipe, and waits for lines then
    os.close(pipe.write_end)


@pytest.fixture
def small_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "BACKLOG_CHARACTERS", 100)


def dropped_line(count: int) -> str:
    return f"{count} lines dropped"


def test_lines_are_written_in_their_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_end)
    for number in range(1000):
        writer.put(f"line {number}")
    assert pipe.read_until("line 999") == [f"line {number}" for number in range(1000)]
    assert writer.dropped == 0


@pytest.mark.usefixtures("small_backlog")
def test_lines_dropped_for_a_stalled_reader_are_counted_and_reported_once_it_reads(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.write_end, report=dropped_line)
    for number in range(10, 30):
        writer.put(f"{number}".rjust(10))
    assert (writer.dropped, writer.is_dropping) == (10, True)
    assert not writer.flush(0)
    lines = [line.strip() for line in pipe.read_until("10 lines dropped")]
    assert lines == [str(number) for number in range(10, 20)] + ["10 lines dropped"]
    assert writer.flush(WAIT_SECONDS)
    assert (writer.dropped, writer.is_dropping) == (10, False), "the count of all time stays"
    writer.put("again")
    assert pipe.read_until("again") == ["again"]


@pytest.mark.usefixtures("small_backlog")
def test_a_line_that_is_longer_than_the_backlog_is_written_when_nothing_else_waits(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_end)
    writer.put("x" * 1000)
    assert pipe.read_until("x" * 1000)


def test_a_flush_waits_for_the_lines_before_it_and_not_for_a_reader_that_stalls(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_end)
    writer.put("one")
    assert writer.flush(WAIT_SECONDS)
    assert os.read(pipe.read_end, 100) == b"one\n"
    pipe.fill()
    writer.put("two")
    assert not writer.flush(0.05)
    assert pipe.read_until("two") == ["two"]
    assert writer.flush(WAIT_SECONDS)


def test_lines_are_written_in_pieces_that_a_pipe_accepts_atomically(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    go = threading.Event()

    def write(descriptor: int, text: memoryview) -> int:
        go.wait(WAIT_SECONDS)
        sizes.append(len(text))
        return real(descriptor, text)

    real = os.write
    monkeypatch.setattr("scheduler_core.base.line_writer.os.write", write)
    writer = LineWriter(pipe.write_end)
    for number in range(100):
        writer.put("\u00e9" * (number % 7) + "x" * 100)
    writer.put("y" * 5000)
    writer.put("last")
    go.set()
    assert len(pipe.read_until("last")) == 102
    assert writer.flush(WAIT_SECONDS)
    assert [size for size in sizes if size > WHOLE_BYTES] == [5001], "the long line, alone"
    assert len(sizes) <= sum(sizes) / 2000, "not a call for each line"


def test_writing_to_a_non_blocking_descriptor_waits(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.write_end, False)
    writer = LineWriter(pipe.write_end)
    writer.put("kept")
    assert not writer.flush(0.05)
    assert pipe.read_until("kept") == ["kept"]
    assert writer.dropped == 0


def test_lines_to_a_closed_reader_are_counted_as_dropped() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = LineWriter(write_end, report=dropped_line)
    writer.put("one")
    writer.put("two")
    assert writer.flush(WAIT_SECONDS)
    assert writer.dropped == 2
    assert writer.is_dropping
    os.close(write_end)


def test_a_text_that_cannot_be_encoded_is_written_with_escapes(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_end)
    writer.put("a\ud800b")
    assert pipe.read_until("b") == ["a\\ud800b"]
