"""Moving a cluster's metadata from one store to another, whichever engines they are.

    source                                        target: empty, or with part of this very copy
      no broker lives, none may start: `moved` ─▶   all keys but `cluster`, guarded by their absence
                                                    `cluster`: only now would a broker take it for a cluster
                                                    read back, compared

The mark `moved` stays in the source, which is complete but obsolete: brokers that are started with it are told where
the metadata is. A copy that was interrupted is done again in the same way: it goes on. One that fails takes the mark
back, so that the source can be used as before.

What a session owns is not copied (nobody lives), nor are revisions: epochs are numbers in values, and go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from kbroker.cluster.keys import Keys, Stamp, decode, encode
from kbroker.cluster.store import (
    OPS_MAX,
    Ambiguous,
    CoordinationStore,
    Delete,
    Entry,
    Guard,
    Op,
    Put,
    StoreError,
    TxnResult,
    Unavailable,
    load,
)

ATTEMPTS_MAX = 5
WHO = Stamp("copy", 0)


class NotCopied(Exception):
    """These two cannot be source and target; the message is one line for people."""


async def copy(source: CoordinationStore, target: CoordinationStore, to: str, keys: Keys) -> int:
    """Copy what source holds under keys to target; how many entries there are.

    to: the target as brokers are to be told, as `kbroker.coordination`.

    Raises NotCopied, StoreError.
    """
    entries = await _check_source(source, to, keys)
    await _check_target(target, entries, keys)
    mark = await _mark(source, to, keys)
    try:
        entries = await _check_source(source, to, keys)  # from now on nobody registers there
        there = await _check_target(target, entries, keys)
        missing = [entry for entry in entries if entry.key not in there]
        for start in range(0, len(missing), OPS_MAX):
            await _write(target, [(e.key, e.value) for e in missing[start : start + OPS_MAX] if e.key != keys.cluster])
        await _write(target, [(e.key, e.value) for e in missing if e.key == keys.cluster])
        copied = await load(target, keys.prefix)
        if _content(copied.entries) != _content(entries):
            raise NotCopied("the copy differs from what was copied: somebody else writes to the target")
    except (NotCopied, StoreError):
        await _txn(source, [Guard(keys.moved, mark)], [Delete(keys.moved)])
        raise
    return len(entries)


async def _check_source(source: CoordinationStore, to: str, keys: Keys) -> list[Entry]:
    """What is to be copied. Raises NotCopied."""
    found = (await load(source, keys.prefix)).entries
    content = _content(found)
    if keys.cluster not in content:
        raise NotCopied("the source holds no cluster")
    if keys.moved in content and (before := decode(content[keys.moved])["to"]) != to:
        raise NotCopied(f"the source was moved to {before}")
    living = [entry.key.removeprefix(keys.prefix).decode() for entry in found if entry.lease]
    if living:
        raise NotCopied(
            f"brokers live in the source ({', '.join(living[:5])}): stop them; a killed one is gone after 6 seconds"
        )
    return [entry for entry in found if entry.key != keys.moved]


async def _check_target(target: CoordinationStore, entries: Sequence[Entry], keys: Keys) -> dict[bytes, bytes]:
    """What is there already of what is to be copied. Raises NotCopied for anything else."""
    there = _content((await load(target, keys.prefix)).entries)
    if not there.items() <= _content(entries).items():
        raise NotCopied(f"the target is not empty: {len(there)} keys begin with {keys.prefix.decode()}")
    return there


async def _mark(source: CoordinationStore, to: str, keys: Keys) -> int:
    """Have the source say where it was moved to; the revision of that."""
    entry = await source.get(keys.moved)
    if entry is None:
        await _write(source, [(keys.moved, encode({"to": to}, WHO))])
        entry = await source.get(keys.moved)
    if entry is None or decode(entry.value)["to"] != to:
        raise NotCopied("another copy of the source is under way")
    return entry.mod_revision


async def _write(store: CoordinationStore, content: Sequence[tuple[bytes, bytes]]) -> None:
    """Put keys that are absent. Raises NotCopied where one is there with another value."""
    guards, ops = [Guard(key, 0) for key, _ in content], [Put(key, value) for key, value in content]
    if content and not (await _txn(store, guards, ops)).succeeded:
        for key, value in content:
            entry = await store.get(key)
            if entry is None or entry.value != value:
                raise NotCopied(f"somebody else writes {key.decode()}")


async def _txn(store: CoordinationStore, guards: Sequence[Guard], ops: Sequence[Op]) -> TxnResult:
    """Do it, if need be several times: each is guarded by what it writes."""
    failure: StoreError = Unavailable("not tried")
    for _ in range(ATTEMPTS_MAX):
        try:
            return await store.txn(guards, ops)
        except (Ambiguous, Unavailable) as error:
            failure = error
    raise failure


def _content(entries: Sequence[Entry]) -> dict[bytes, bytes]:
    return {entry.key: entry.value for entry in entries}
