"""Lines: what a broker logged, kept for the report of a failed test; the latest so many lines.

A broker in a thread shares `logging` with the program under test. While there is one, the records that its thread makes
become its Lines and nothing else, INFO included, so no handler of the program or of pytest sees them. This is done by a
filter of the loggers themselves: a handler would come too late. Records of other threads pass as always.
"""

from __future__ import annotations

import logging
import threading
from collections import deque

LINES_MAX = 2000
LINE_LENGTH_MAX = 4000

_FORMAT = logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S")


class Lines:
    """The latest lines. Any thread may add and read."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=LINES_MAX)

    def add(self, text: str) -> None:
        """One more line, or several in one text."""
        self._lines.extend(line[:LINE_LENGTH_MAX] for line in text.splitlines())

    def all(self) -> list[str]:
        """Oldest first."""
        return list(self._lines)

    def clear(self) -> None:
        """Forget them."""
        self._lines.clear()


class ThreadLog(logging.Filter):
    """The filter of kbroker's loggers while brokers run in threads of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._of_threads: dict[int, Lines] = {}
        self._change = threading.Lock()
        self._level_before = logging.NOTSET

    def attach(self, thread_id: int, lines: Lines) -> None:
        """From now on a thread's records are lines. To be called again when there may be new loggers."""
        with self._change:
            if not self._of_threads:
                self._level_before = _logger.level
                _logger.setLevel(logging.INFO)
            self._of_threads[thread_id] = lines
            for logger in _ours():
                logger.addFilter(self)

    def detach(self, thread_id: int) -> None:
        """No more; idempotent. After the last one logging is as it was."""
        with self._change:
            if self._of_threads.pop(thread_id, None) is not None and not self._of_threads:
                _logger.setLevel(self._level_before)
                for logger in _ours():
                    logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is somebody else's record, who would have seen it without us, too."""
        lines = self._of_threads.get(record.thread or 0)
        if lines is None:
            return record.levelno >= (self._level_before or logging.getLogger().level)
        lines.add(_FORMAT.format(record))
        return False


def _ours() -> list[logging.Logger]:
    there = list(logging.Logger.manager.loggerDict.items())
    return [each for name, each in there if name.split(".")[0] == "kbroker" and isinstance(each, logging.Logger)]


_logger = logging.getLogger("kbroker")
thread_log = ThreadLog()
