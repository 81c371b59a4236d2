"""`kbroker start` as users start it, for tests of the commands that are its clients."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.server.process import ENVIRONMENT


@contextmanager
def broker_process(*options: str) -> Iterator[str]:
    """The address of a broker with topic t of two partitions; in memory, where no option says otherwise."""
    command = [sys.executable, "-m", "kbroker", "start", "--listen", "127.0.0.1:0", "--topic", "t:2"]
    command += [] if "--data-dir" in options else ["--memory"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "ready in " in line:
                break
        found = re.search(r"listening on (\S+?)[\",}\s]", said)
        assert found, said
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a pipe nobody reads stops its writer
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=10)
