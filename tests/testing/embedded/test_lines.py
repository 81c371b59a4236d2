"""What a broker in a thread logs, apart from what the program does."""

from __future__ import annotations

import logging
import threading

import pytest

from kbroker.testing.embedded.lines import LINES_MAX, Lines, ThreadLog

LOGGER = logging.getLogger("kbroker")
ELSEWHERE = 1  # no thread's id


@pytest.fixture(autouse=True)
def levels(caplog: pytest.LogCaptureFixture) -> None:
    """As in a program that has set none, whatever other tests have."""
    caplog.set_level(logging.NOTSET, "kbroker")
    caplog.set_level(logging.WARNING)


def test_the_latest_lines_are_kept() -> None:
    lines = Lines()
    for number in range(LINES_MAX + 1):
        lines.add(f"{number}\nand more")
    assert len(lines.all()) == LINES_MAX
    assert lines.all()[-2:] == [str(LINES_MAX), "and more"]


def test_a_threads_records_are_its_lines_and_nobody_else_sees_them(caplog: pytest.LogCaptureFixture) -> None:
    thread_log, lines = ThreadLog(), Lines()
    thread_log.attach(threading.get_ident(), lines)
    try:
        logging.getLogger("kbroker").info("told")
    finally:
        thread_log.detach(threading.get_ident())
    assert [line.rpartition("kbroker: ")[2] for line in lines.all()] == ["told"]
    assert caplog.records == []


def test_records_of_other_threads_pass_as_they_would_without_it(caplog: pytest.LogCaptureFixture) -> None:
    thread_log = ThreadLog()
    thread_log.attach(ELSEWHERE, Lines())
    try:
        LOGGER.info("below the root's level")
        LOGGER.warning("above it")
        caplog.set_level(logging.INFO)
        LOGGER.info("above it now")
    finally:
        thread_log.detach(ELSEWHERE)
    assert [record.getMessage() for record in caplog.records] == ["above it", "above it now"]


def test_after_the_last_thread_logging_is_as_it_was() -> None:
    before = LOGGER.level, list(LOGGER.filters)
    thread_log = ThreadLog()
    for thread in (1, 2):
        thread_log.attach(thread, Lines())
    for thread in (1, 1, 2, 3):
        thread_log.detach(thread)
    assert (LOGGER.level, LOGGER.filters) == before
