"""The views of what this broker holds: the partitions they show, and for those that are late, how old everything is.

    source's partition ──Ages──▶ its notes: of all replicas, as long as the source has a view that is late
           └──ViewPartition──▶ one for each view that is asked for

While there are late views, the ends of their sources are noted every moment, and who waits for time to pass is rung.
The notes are kept in a file, replaced now and then and at the end, so that a broker that starts again need not wait as
long as the latest view is late. It is only a help: where it is missing, damaged or old, views are later, not earlier.

    kbroker-view-ages                             kbroker-view-ages.tmp, while it is replaced
    0                                             version
    2                                             number of entries
    Hk4kjZ4jQJmDeYoEAs-3xQ 0 1764340000000 140 3  topic id, partition, time in ms, end, leader epoch

What was in a log when its first late view came is as old as its timestamps say. Only those who saw that view come go by
them: whoever knows nothing of how old his log is, as a new replica, takes it for new.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from kafka_wire.errors import KafkaError
from kbroker.cluster.image import ClusterImage, TopicImage
from kbroker.cluster.keys import id_bytes, id_text
from kbroker.config import ViewSpec
from kbroker.env import Env
from kbroker.log.errors import LogOffline
from kbroker.log.log import PartitionLog
from kbroker.replication.partition import Partition
from kbroker.turns import finish_errands, one_at_a_time
from kbroker.views.ages import Ages, Note

if TYPE_CHECKING:  # a broker without views starts faster without
    from kbroker.views.results import Results
    from kbroker.views.view import ViewPartition

FILE_NAME = "kbroker-view-ages"
MOMENT_MS = 1000  # between two notes, at most
MOMENT_MIN_MS = 50
SAVE_S = 10.0
KEPT_MAX = 64  # notes of a log in the file
GUESSES = 8  # notes made of timestamps, for what nobody noted
LOOKED_AT_A_TURN = 64  # partitions

Key = tuple[str, int]  # topic, partition
Row = tuple[bytes, int, Note]  # topic id, partition
log = logging.getLogger("kbroker.views")


class Views:
    """The owner of view partitions and ages."""

    def __init__(self, env: Env, image: Callable[[], ClusterImage], partitions: Mapping[Key, Partition]) -> None:
        """image: the cluster as it is now. partitions: what this broker holds."""
        self._env = env
        self._image = image
        self._partitions = partitions
        self._results: Results | None = None  # of all views; None: none was asked for yet
        self._views: dict[Key, ViewPartition] = {}
        self._ages: dict[Key, Ages] = {}  # by source
        self._kept: dict[tuple[bytes, int], list[Note]] = {}  # of an earlier process, by topic id and partition
        self._shown: object = None  # image.topics, as when `_views` was last seen to
        self._late_in: tuple[object, dict[str, int]] = (None, {})  # image.topics, and what `_late_ms` found there
        self._just_late: set[str] = set()  # sources that have a view that is late since this process saw it come
        self._news = trio.Event()

    def on_image(self, old: ClusterImage, new: ClusterImage) -> None:
        """Be told of a new image."""
        if (new.views or self._views or self._ages) and new.topics is not old.topics:
            before = self._late_ms(old)
            if old.revision and new.base == old.revision:
                self._just_late |= self._late_ms(new).keys() - before.keys()
            self._news.set()

    def _late_ms(self, image: ClusterImage) -> dict[str, int]:
        """How late the latest view of each source is, of those that are."""
        if self._late_in[0] is not image.topics:
            self._late_in = image.topics, late_views(image)
        return self._late_in[1]

    def of(self, view: TopicImage, index: int, source: Partition) -> ViewPartition:
        """What a view shows of its source's partition."""
        assert view.view is not None
        key = view.name, index
        found = self._views.get(key)
        if found is None or found.spec is not view.view or found.source is not source:
            if found is not None:
                found.end()
            found = self._views[key] = self._made(view.view, source)
        return found

    def _made(self, spec: ViewSpec, source: Partition) -> ViewPartition:
        from kbroker.views.results import Results
        from kbroker.views.view import ViewPartition

        if self._results is None:
            self._results = Results()
        ages = self._ages_of(source) if spec.lag_ms else None
        return ViewPartition(spec, source, self._results, ages, self._env.clock.data_ms)

    def _ages_of(self, source: Partition) -> Ages:
        key = source.topic, source.index
        ages = self._ages.get(key)
        if ages is None or ages.log is not source.log:
            notes = self._kept.pop((source.topic_id, source.index), ())
            ages = self._ages[key] = Ages(source.log, notes)
        return ages

    # while there are views that are late

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See to them until cancelled. started() when what an earlier process noted is known."""
        if self._env.disk.exists(FILE_NAME):  # else no worker is waited for: all may be opening logs
            self._kept = await self._env.offload(partial(_load, self._env))
        task_status.started()
        saved_s, is_set = -math.inf, False
        try:
            while True:
                late_ms = self._late_ms(self._image())
                await self._forget()
                if not late_ms:
                    await self._news.wait()
                    self._news = trio.Event()
                    continue
                await self._note_all(late_ms, at_once=is_set)
                if self._env.clock.liveness() - saved_s >= SAVE_S:
                    saved_s = self._env.clock.liveness()
                    await self._save()
                moment_ms = min(MOMENT_MS, max(min(late_ms.values()) // 20, MOMENT_MIN_MS))
                is_set = await self._env.clock.sleep_data(moment_ms / 1000)
        finally:
            with trio.CancelScope(shield=True):
                await self._save()

    async def _forget(self) -> None:
        """Let go of what is no view any more, and of partitions that are not here."""
        image, held = self._image(), self._partitions
        if image.topics is self._shown:
            return
        self._shown = image.topics
        for number, (key, view) in enumerate(tuple(self._views.items()), start=1):
            topic = image.topics.get(key[0])
            is_it = topic is not None and topic.view is view.spec and held.get((view.topic, key[1])) is view.source
            if not is_it and self._views.get(key) is view:
                del self._views[key]
                view.end()
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()
        for number, (key, ages) in enumerate(tuple(self._ages.items()), start=1):
            source = held.get(key)
            is_it = key[0] in image.views and source is not None and source.log is ages.log
            if not is_it and self._ages.get(key) is ages:
                del self._ages[key]
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()

    async def _note_all(self, late_ms: Mapping[str, int], *, at_once: bool) -> None:
        """Note where each source ends now, and ring for who waits for what is old enough by now.

        at_once: the clock is set; notes are made though the last ones are young.
        """
        new, self._just_late = self._just_late, set()
        for number, (source, late) in enumerate(self._sources(late_ms), start=1):
            ages = self._ages_of(source)
            if source.topic in new and not ages and source.log.end.value > source.log.start_offset:
                await self._guess(source, ages, late)
            ages.note(self._env.clock.data_ms(), late, at_once=at_once)
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()
        for number, view in enumerate(tuple(self._views.values()), start=1):
            view.ring()
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()

    def _sources(self, late_ms: Mapping[str, int]) -> Iterator[tuple[Partition, int]]:
        """The partitions of these topics that are here."""
        for name, late in late_ms.items():
            topic = self._image().topics.get(name)
            for index in range(len(topic.partitions) if topic is not None else 0):
                source = self._partitions.get((name, index))
                if source is not None:
                    yield source, late

    async def _guess(self, source: Partition, ages: Ages, late_ms: int) -> None:
        """Note, of what was there before anybody noted anything, what its timestamps say."""
        now_ms, found = self._env.clock.data_ms(), source.log
        for step in range(GUESSES, -1, -1):
            then_ms = now_ms - late_ms * step // GUESSES
            try:
                end = await self._end_by_timestamps(found, then_ms)
            except (OSError, KafkaError, LogOffline) as error:
                log.warning("%s-%d: what is in it counts as new: %s", source.topic, source.index, error)
                return
            if end > found.start_offset and end <= found.end.value and ages.log is source.log:
                ages.add(Note(then_ms, end, found.epochs.epoch_at(end - 1)))

    async def _end_by_timestamps(self, found: PartitionLog, then_ms: int) -> int:
        """Where the first record lies whose timestamp is later."""
        end = found.end.value
        async with one_at_a_time("searches of logs"):
            later = await finish_errands(found.first_at_or_after(then_ms + 1, end), None, self._env.offload)
        return end if later is None else later.offset

    # the file

    async def _save(self) -> None:
        if not any(ages.is_dirty for ages in self._ages.values()):
            return
        rows: list[Row] = []
        known = tuple(self._ages.items())
        for number, ((name, index), ages) in enumerate(known, start=1):
            source = self._partitions.get((name, index))
            if source is not None and source.log is ages.log:
                rows += [(source.topic_id, index, note) for note in ages.some(KEPT_MAX)]
            if not number % LOOKED_AT_A_TURN:
                await trio.lowlevel.checkpoint()
        for _, ages in known:
            ages.is_dirty = False
        is_saved = False
        try:
            await self._env.offload(partial(_write, self._env, rows))
            is_saved = True
        except OSError as error:
            log.warning("%s cannot be written; views may be later after a start: %s", FILE_NAME, error)
        finally:
            if not is_saved:
                for _, ages in known:
                    ages.is_dirty = True


def late_views(image: ClusterImage) -> dict[str, int]:
    """How late the latest view of each source is, of those that are."""
    found: dict[str, int] = {}
    for source, names in image.views.items():
        specs = [topic.view for name in names if (topic := image.topics.get(name)) is not None]
        late_ms = max([spec.lag_ms for spec in specs if spec is not None], default=0)
        if late_ms:
            found[source] = late_ms
    return found


def _write(env: Env, rows: list[Row]) -> None:
    lines = "".join(f"{id_text(id)} {index} {time} {end} {epoch}\n" for id, index, (time, end, epoch) in rows)
    env.disk.write_atomic(FILE_NAME, f"0\n{len(rows)}\n{lines}".encode(), sync=False)


def _load(env: Env) -> dict[tuple[bytes, int], list[Note]]:
    """What an earlier process has noted; nothing, where that cannot be read."""
    found: dict[tuple[bytes, int], list[Note]] = {}
    try:
        version, count, *lines = env.disk.read(FILE_NAME).decode("ascii").splitlines()
        for id, index, *note in map(str.split, lines):
            time_ms, end, epoch = map(int, note)
            found.setdefault((id_bytes(id), int(index)), []).append(Note(time_ms, end, epoch))
        is_whole = version == "0" and int(count) == len(lines)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read; views are later: %s", FILE_NAME, error)
        return {}
    return found if is_whole else {}
