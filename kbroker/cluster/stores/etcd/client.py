"""Asking etcd: which member, for how long, as whom, and what a failure means.

    ask a member ──▶ answered                      checked: the same etcd, not an older state of it
        │
        ├─ refused (as etcd decided)               CallFailed NOT_FOUND, OUT_OF_RANGE: the caller knows what that means
        │                                          else Unavailable, with the reason in words
        ├─ token no longer known                   authenticate, ask again
        ├─ no connection, no answer in time  ──▶   the next member; after a round of all, a pause
        └─ no answer to what must not be repeated  Ambiguous

A member's answer is waited for shortly (TRY_S, more where the whole etcd is slow): one that is cut off from the leader
would itself give up after seven seconds only. Requests, keepalives and watches have connections of their own each, so
that none waits behind another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import trio

from kbroker.cluster.store import Ambiguous, Unavailable, Unreachable
from kbroker.cluster.stores.etcd.messages import AUTHENTICATE, RANGE, Method, pb
from kbroker.env import CallFailed, Clock, Metadata, RpcChannel, RpcStream

CALL_S = 8.0  # an answer, altogether
TRY_S, TRY_S_MAX = 0.5, 2.0  # an answer of one member
PAUSE_S = 0.2  # when each member was tried

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 3, 4, 5, 7, 8
FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED = 9, 11, 12, 14, 15, 16

CALLERS_AFFAIR = (NOT_FOUND, OUT_OF_RANGE)
REFUSALS = (
    INVALID_ARGUMENT, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, DATA_LOSS,
    UNAUTHENTICATED,
)  # fmt: skip
BUSY = "too many requests"  # refused before it is looked at: it may be asked again
EXPLANATIONS = {  # part of what etcd says -> what it means here
    "database space exceeded": "it is out of space and takes no writes: raise its quota, or compact and defragment it,"
    " then disarm the alarm (etcdctl alarm disarm)",
    "user name is empty": "it asks who we are: set kbroker.etcd.user and .password, or a client certificate",
    "authentication failed": "it does not accept kbroker.etcd.user with this password",
    "authentication is not enabled": "it knows no users: leave kbroker.etcd.user empty",
    "permission denied": "the user lacks a role that may read and write",
    "corrupt": "it has found its own data to be corrupt",
}


class Cluster:
    """An etcd: its members, who we are to it, what is known of it. All clients of a store share one."""

    def __init__(
        self, addresses: Sequence[str], dial: Callable[[str], RpcChannel], user: str, password: str, prefix: bytes
    ) -> None:
        """Nothing is asked before a client does.

        Args:
            addresses: of the members, host:port.
            dial: makes a channel to one. May raise OSError.
            user, password: "" for none.
            prefix: of the keys that we use, and must be allowed to.
        """
        self.addresses = addresses
        self.dial = dial
        self.user = user
        self.prefix = prefix
        self.id = 0  # 0: not known yet
        self.revision = 0  # that it has certainly reached
        self.token = ""
        self._password = password
        self._renewing = trio.Lock()

    @property
    def metadata(self) -> Metadata:
        """What goes with every call."""
        return [("token", self.token)] if self.token else []

    def learn(self, method: Method, answer: Any, known: int) -> None:
        """Take in an answer's header. known: `revision` when it was asked.

        Raises Unavailable for another etcd, and for one that has forgotten.
        """
        header = answer.header
        if self.id and header.cluster_id != self.id:
            raise Unavailable(f"another etcd answers, with cluster id {header.cluster_id:x} instead of {self.id:x}")
        self.id = header.cluster_id
        if method.is_current:
            if header.revision < known:
                raise Unavailable(
                    f"etcd has gone back from revision {known} to {header.revision}: an older state of it was restored"
                )
            self.revision = max(self.revision, header.revision)

    async def renew(self, channel: RpcChannel, token: str) -> None:
        """Get another token than this one, unless somebody has. Raises CallFailed, Unavailable."""
        async with self._renewing:
            if self.token != token:
                return
            message = pb.AuthenticateRequest(name=self.user, password=self._password)
            packed = await channel.call(AUTHENTICATE.path, message.SerializeToString(), TRY_S_MAX)
            self.token = AUTHENTICATE.answer.FromString(packed).token

    def forget_token(self) -> None:
        """It is no longer known: authenticate before the next call."""
        self.token = ""

    def unavailable(self, error: CallFailed) -> Unavailable:
        """A refusal, or silence, in words."""
        text = next((said for part, said in EXPLANATIONS.items() if part in error.text), "")
        if error.code == PERMISSION_DENIED:
            text += f" what begins with {self.prefix.decode()}"
        kind = Unavailable if error.code in REFUSALS else Unreachable
        return kind(f"{text} ({error.text})" if text else str(error))


class Client:
    """One line of questions to a cluster, at one member as long as that answers."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self.cluster = cluster
        self._clock = clock
        self._member = 0  # index of the one that is asked
        self._channels: dict[int, RpcChannel] = {}
        self._try_s = TRY_S

    async def request(self, method: Method, message: Any, *, is_repeatable: bool = True) -> Any:
        """The answer, from whichever member gives one.

        is_repeatable: asking twice is no more than asking once. Else Ambiguous is raised when no answer comes.

        Raises Unavailable, CallFailed with a code of CALLERS_AFFAIR.
        """
        packed = message.SerializeToString()
        failure = CallFailed(UNAVAILABLE, "no time left")
        is_asking = False
        with trio.move_on_after(CALL_S):
            for number in range(1, 1_000):
                member = self._member
                try:
                    is_asking = True
                    return await self._ask(member, method, packed)
                except CallFailed as error:
                    failure = error
                is_asking = False
                if failure.code in CALLERS_AFFAIR:
                    raise failure
                if failure.code in REFUSALS and BUSY not in failure.text:
                    raise self.cluster.unavailable(failure) from failure
                self.turn(member)
                if not (is_repeatable or failure.is_unsent or BUSY in failure.text):
                    raise Ambiguous(f"{self.cluster.addresses[member]}: {failure}")
                if number % len(self.cluster.addresses) == 0:
                    await self._clock.sleep(PAUSE_S)
        what = Ambiguous if is_asking and not is_repeatable else Unreachable
        raise what(f"no member of etcd answers: {self.cluster.addresses[member]}: {failure}")

    async def _ask(self, member: int, method: Method, packed: bytes) -> Any:
        """The answer of one member, with a new token if the old one is no longer known. Raises CallFailed."""
        cluster, channel = self.cluster, self._channel(member)
        for is_last in (False, True):
            known, token = cluster.revision, cluster.token
            try:
                answer = await channel.call(method.path, packed, self._try_s, cluster.metadata)
            except CallFailed as error:
                if error.code == DEADLINE_EXCEEDED:
                    self._try_s = min(self._try_s * 2, TRY_S_MAX)
                if is_last or not self.is_about_token(error):
                    raise
                await cluster.renew(channel, token)
            else:
                self._try_s = TRY_S
                unpacked = method.answer.FromString(answer)
                cluster.learn(method, unpacked, known)
                return unpacked
        raise AssertionError

    def is_about_token(self, error: CallFailed) -> bool:
        """Whether authenticating again may help."""
        is_old = "revision in header is old" in error.text or "user name is empty" in error.text
        return bool(self.cluster.user) and (error.code == UNAUTHENTICATED or is_old)

    async def revision(self) -> int:
        """The cluster's, as of now. Raises Unavailable."""
        answer = await self.request(RANGE, pb.RangeRequest(key=self.cluster.prefix, count_only=True))
        revision: int = answer.header.revision
        return revision

    async def open_stream(self, method: Method, extra: Metadata = ()) -> RpcStream:
        """A stream to the member whose turn it is. Raises CallFailed when we cannot show who we are."""
        channel = self._channel(self._member)
        if self.cluster.user and not self.cluster.token:
            await self.cluster.renew(channel, "")
        return channel.stream(method.path, [*self.cluster.metadata, *extra])

    def turn(self, member: int | None = None) -> None:
        """Ask the next member from now on, unless that is so already: member is the one that failed."""
        if member is None or member == self._member:
            self._member = (self._member + 1) % len(self.cluster.addresses)

    def close(self) -> None:
        """Disconnect; idempotent."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def _channel(self, member: int) -> RpcChannel:
        if member not in self._channels:
            try:
                self._channels[member] = self.cluster.dial(self.cluster.addresses[member])
            except OSError as error:
                raise Unavailable(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
        return self._channels[member]
