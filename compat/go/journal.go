package adapter

import (
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// A Place is a partition of a topic.
type Place struct {
	Topic     string
	Partition int32
}

// A Journal is what happened to a member of a group, as `members.py` has it, and the partitions that it owns.
type Journal struct {
	mu      sync.Mutex
	entries [][]any
	owned   map[Place]bool
}

// Note one entry.
func (journal *Journal) Note(kind, topic string, partition int32, offset int64) {
	journal.mu.Lock()
	defer journal.mu.Unlock()
	journal.note(kind, topic, partition, offset)
}

// Refused notes an error's name.
func (journal *Journal) Refused(name any) {
	journal.mu.Lock()
	defer journal.mu.Unlock()
	journal.entries = append(journal.entries, []any{nowMs(), "refused", name, -1, -1})
}

// Assigned notes partitions that the member owns from now on.
func (journal *Journal) Assigned(places map[string][]int32) { journal.move("assigned", places, true) }

// Revoked notes partitions that the member does not own any more.
func (journal *Journal) Revoked(places map[string][]int32) { journal.move("revoked", places, false) }

// Lost notes partitions that somebody else may own already.
func (journal *Journal) Lost(places map[string][]int32) { journal.move("lost", places, false) }

// Since gives the entries after the first `count`.
func (journal *Journal) Since(count int64) [][]any {
	journal.mu.Lock()
	defer journal.mu.Unlock()
	return append([][]any{}, journal.entries[count:]...)
}

// Owned gives `[topic, partition]` of each.
func (journal *Journal) Owned() [][]any {
	journal.mu.Lock()
	defer journal.mu.Unlock()
	found := [][]any{}
	for place := range journal.owned {
		found = append(found, []any{place.Topic, place.Partition})
	}
	return found
}

func (journal *Journal) move(kind string, places map[string][]int32, owned bool) {
	journal.mu.Lock()
	defer journal.mu.Unlock()
	for _, place := range inOrder(places) {
		journal.note(kind, place.Topic, place.Partition, -1)
		if journal.owned == nil {
			journal.owned = map[Place]bool{}
		}
		if owned {
			journal.owned[place] = true
		} else {
			delete(journal.owned, place)
		}
	}
}

func (journal *Journal) note(kind, topic string, partition int32, offset int64) {
	journal.entries = append(journal.entries, []any{nowMs(), kind, topic, partition, offset})
}

func inOrder(places map[string][]int32) []Place {
	var found []Place
	for topic, partitions := range places {
		for _, partition := range partitions {
			found = append(found, Place{topic, partition})
		}
	}
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i], found[j]
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	return found
}

// nowMs of the machine's monotonic clock, the same in all processes.
func nowMs() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err)
	}
	return now.Nano() / 1_000_000
}
