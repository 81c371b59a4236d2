package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"kbroker/compat/adapter"
)

// copyAll is the library's own way to consume, transform and produce: a GroupTransactSession, one client that is both.
// It goes on until an error that no abort mends, or until the process ends.
func copyAll(a arguments) (any, error) {
	identifier, group, inputs, outputs, each := a.Text(0), a.Text(1), a.Text(2), a.Text(3), int(a.Int(4))
	options := adapter.Options{
		Idempotent: true, Group: group, Reset: "earliest", Isolation: "read_committed", SessionMs: 2000, Patience: 20,
	}
	opts := append(joining([]string{inputs}, "", options), producing(options, nil)...)
	session, err := kgo.NewGroupTransactSession(append(opts, kgo.TransactionalID(identifier))...)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	for {
		limit, end := context.WithTimeout(background, 500*time.Millisecond)
		fetches := session.PollRecords(limit, each)
		end()
		if err := failure(fetches); err != nil {
			return nil, err
		}
		if fetches.NumRecords() == 0 {
			continue
		}
		if err := session.Begin(); err != nil {
			return nil, err
		}
		written := kgo.AbortingFirstErrPromise(session.Client())
		fetches.EachRecord(func(record *kgo.Record) {
			copied := &kgo.Record{Topic: outputs, Key: record.Key, Value: record.Value, Partition: record.Partition}
			session.Produce(background, copied, written.Promise())
		})
		if _, err := session.End(background, kgo.TransactionEndTry(written.Err() == nil)); err != nil {
			return nil, err
		}
	}
}
