"""LoopThread: trio in a background thread, for callers that are not async.

    loop = LoopThread("kbroker")
    loop.call(function, *args)        runs in the loop; what it returns or raises is the caller's
    loop.close()

A function that is async is awaited and bounded. What goes on after a call returns, runs in `loop.nursery`. In a forked
child there is no such thread: every call says so.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from inspect import isawaitable
from typing import Any

import trio

from kbroker.testing.embedded.forks import check_owner
from kbroker.testing.embedded.portal import CALL_S, BrokerGone

__tracebackhide__ = True  # pytest shows the line of the test, not how we came to what it raises

START_S = 30.0
GRACE_S = 5.0  # a loop that has not answered so long after the deadline of a call does not turn


class LoopThread:
    """A running trio loop. Its calls may be made from any thread but its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nursery: trio.Nursery
        self._pid = os.getpid()
        self._token: trio.lowlevel.TrioToken
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name=name, daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S):
            raise TimeoutError(f"the loop of {name} did not start within {START_S:g} s")

    @property
    def thread_id(self) -> int:
        """Of the thread."""
        return self._thread.ident or 0

    @property
    def is_alive(self) -> bool:
        """Whether calls can be made."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
        """Run function(*args, **kwargs) in the loop, and return what it returns, awaited where that is needed.

        Raises what it raises; TimeoutError when waiting took longer than timeout_s, or the loop does not turn;
        BrokerGone when there is no loop.
        """
        check_owner(self._pid)
        self._check_thread()
        future: Future[Any] = Future()
        try:
            self._token.run_sync_soon(self._begin, future, function, args, kwargs, timeout_s)
        except trio.RunFinishedError:
            raise BrokerGone(f"{self.name} has been closed") from None
        try:
            error = future.exception(timeout_s + GRACE_S)
        except LateError:
            raise TimeoutError(f"{self.name} did not answer within {timeout_s + GRACE_S:g} s: is it paused?") from None
        if error is not None:
            raise error
        return future.result()

    def close(self) -> None:
        """End all that runs there, and the thread; idempotent."""
        if not self.is_alive:
            return
        self._check_thread()
        try:
            self._token.run_sync_soon(self.nursery.cancel_scope.cancel)
        except trio.RunFinishedError:
            pass
        self._thread.join(CALL_S)

    def _check_thread(self) -> None:
        if threading.get_ident() == self._thread.ident:
            raise RuntimeError(f"called from the loop of {self.name} itself, which would wait for itself for ever")

    async def _main(self) -> None:
        async with trio.open_nursery() as self.nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set()
            await trio.sleep_forever()

    def _begin(
        self, future: Future[Any], function: Callable[..., Any], args: Any, kwargs: Any, timeout_s: float
    ) -> None:
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            future.set_exception(error)
            return
        if isawaitable(result):
            self.nursery.start_soon(_finish, future, result, function, timeout_s)
        else:
            future.set_result(result)


async def _finish(future: Future[Any], result: Any, function: Callable[..., Any], timeout_s: float) -> None:
    """Await what a call returned. Nothing that it raises harms the loop."""
    try:
        with trio.move_on_after(timeout_s) as scope:
            future.set_result(await result)
        if scope.cancelled_caught:
            future.set_exception(TimeoutError(f"{function.__name__} took longer than {timeout_s:g} s"))
    except trio.Cancelled:
        future.set_exception(BrokerGone("the broker was closed meanwhile"))
        raise
    except Exception as error:
        future.set_exception(error)
