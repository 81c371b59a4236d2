package main

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
	"kbroker/compat/adapter"
)

var transactionCalls = map[string]adapter.Call{
	"transactor_open": func(a arguments) (any, error) {
		options := adapter.Read[adapter.Options](a, 1)
		options.Idempotent = true
		client, err := kgo.NewClient(append(producing(options, nil), kgo.TransactionalID(a.Text(0)),
			kgo.TransactionTimeout(milliseconds(adapter.Or(options.TimeoutMs, 60_000))))...)
		if err != nil {
			return nil, err
		}
		return adapter.Keep(&transactor{identifier: a.Text(0), client: client, patience: patience(options)}), nil
	},
	"transactor_init":  func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).init() },
	"transactor_begin": func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).begin() },
	"transactor_send": func(a arguments) (any, error) {
		return adapter.Kept[*transactor](a).send(a.Text(1), adapter.Read[[]adapter.Message](a, 2), adapter.Read[bool](a, 3))
	},
	"transactor_offsets": func(a arguments) (any, error) {
		var from *membership
		if text := string(a[3]); text != "null" {
			read := adapter.Read[membership](a, 3)
			from = &read
		}
		return nil, adapter.Kept[*transactor](a).offsets(adapter.Read[[]adapter.Mark](a, 1), a.Text(2), from)
	},
	"transactor_commit": func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).commit() },
	"transactor_abort":  func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).abort() },
	"transactor_close": func(a arguments) (any, error) {
		adapter.Kept[*transactor](a).client.Close()
		return nil, nil
	},
	"copy":              copyAll,
	"source_open":       openSource,
	"source_poll":       func(a arguments) (any, error) { return adapter.Kept[*source](a).poll(a) },
	"source_owned":      func(a arguments) (any, error) { return adapter.Kept[*source](a).Owned(), nil },
	"source_rewind":     func(a arguments) (any, error) { return nil, adapter.Kept[*source](a).rewind() },
	"source_membership": func(a arguments) (any, error) { return adapter.Kept[*source](a).membership(), nil },
	"source_leave": func(a arguments) (any, error) {
		adapter.Kept[*source](a).client.Close()
		return nil, nil
	},
	"transactions": func(arguments) (any, error) {
		all, err := admin.ListTransactions(background, nil, nil)
		found := map[string]string{}
		for name, each := range all {
			found[name] = each.State
		}
		return found, err
	},
	"describe_transaction": describeTransaction,
	"open_producers": func(a arguments) (any, error) {
		all, err := producers(a)
		found := []*int64{}
		for _, each := range all {
			found = append(found, openSince(each))
		}
		return found, err
	},
	"abort_hanging": abortHanging,
	"fence":         func(arguments) (any, error) { return nil, absent("admin call to fence producers") },
}

// asking sends requests about offsets in transactions: version 4 of TxnOffsetCommit is the newest that does without
// transaction.version 2.
var asking = must(kgo.NewClient(append(basics(20*time.Second), kgo.MaxVersions(upToTxnOffsetCommit4()))...))

func upToTxnOffsetCommit4() *kversion.Versions {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.TxnOffsetCommit), 4)
	return versions
}

// ---- Transactions ----------------------------------------------------------------------------------------------------

// transactor is a producer with a transactional id.
type transactor struct {
	identifier string
	client     *kgo.Client
	patience   time.Duration
	results    *results
}

// init asks for the producer id, which the library does with the first record otherwise.
func (t *transactor) init() error {
	limit, end := context.WithTimeout(background, t.patience)
	defer end()
	_, _, err := t.client.ProducerID(limit)
	return err
}

func (t *transactor) begin() error {
	t.results = &results{}
	return t.client.BeginTransaction()
}

func (t *transactor) send(topic string, messages []adapter.Message, wait bool) (any, error) {
	limit, end := context.WithTimeout(background, t.patience)
	now := &results{}
	now.produce(limit, t.client, topic, messages)
	finish := func() ([]*int64, error) {
		defer end()
		offsets, err := now.offsets()
		t.results.fail(err)
		return offsets, err
	}
	if wait {
		return finish()
	}
	t.results.waiting.Go(func() { finish() })
	return []int64{}, nil
}

// offsets by the requests themselves: the library has them only in a GroupTransactSession, which is one client for
// both, reading and writing (see `copy.go`).
func (t *transactor) offsets(marks []adapter.Mark, group string, from *membership) error {
	id, epoch, err := t.client.ProducerID(background)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = t.identifier, id, epoch, group
	err = t.again(func() error {
		added, err := add.RequestWith(background, asking)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(added.ErrorCode)
	})
	if err != nil {
		return err
	}
	commit := kmsg.NewPtrTxnOffsetCommitRequest()
	commit.TransactionalID, commit.ProducerID, commit.ProducerEpoch, commit.Group = t.identifier, id, epoch, group
	if from != nil {
		commit.MemberID, commit.Generation = from.MemberID, from.Generation
	}
	commit.Topics = topicsOf(marks)
	return t.again(func() error {
		committed, err := commit.RequestWith(background, asking)
		if err != nil {
			return err
		}
		for _, topic := range committed.Topics {
			for _, partition := range topic.Partitions {
				if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// again while the answer is that it is too early.
func (t *transactor) again(ask func() error) error {
	deadline := time.Now().Add(t.patience)
	for {
		err := ask()
		early := errors.Is(err, kerr.ConcurrentTransactions) || kerr.IsRetriable(err)
		if !early || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func topicsOf(marks []adapter.Mark) []kmsg.TxnOffsetCommitRequestTopic {
	var found []kmsg.TxnOffsetCommitRequestTopic
	for _, mark := range marks {
		partition := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		partition.Partition, partition.Offset = mark.Partition, mark.Offset
		topic := kmsg.NewTxnOffsetCommitRequestTopic()
		topic.Topic, topic.Partitions = mark.Topic, []kmsg.TxnOffsetCommitRequestTopicPartition{partition}
		found = append(found, topic)
	}
	return found
}

// commit, unless a record failed: the library would commit the others and leaves this to the application.
func (t *transactor) commit() error {
	if err := t.client.Flush(background); err != nil {
		return err
	}
	t.results.waiting.Wait()
	if err := t.results.error(); err != nil {
		return err
	}
	limit, end := context.WithTimeout(background, t.patience)
	defer end()
	return t.client.EndTransaction(limit, kgo.TryCommit)
}

func (t *transactor) abort() error {
	limit, end := context.WithTimeout(background, t.patience)
	defer end()
	if err := t.client.AbortBufferedRecords(limit); err != nil {
		return err
	}
	return t.client.EndTransaction(limit, kgo.TryAbort)
}

// ---- A member whose offsets go into transactions ---------------------------------------------------------------------

// membership is what the coordinator holds offsets against (KIP-447).
type membership struct {
	MemberID   string `json:"member_id"`
	Generation int32  `json:"generation"`
}

type source struct {
	adapter.Journal
	client       *kgo.Client
	topic, group string
}

func openSource(a arguments) (any, error) {
	options := adapter.Read[adapter.Options](a, 1)
	s := &source{topic: a.Text(0), group: options.Group}
	client, err := kgo.NewClient(append(joining([]string{s.topic}, "", options),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { s.Assigned(places) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { s.Revoked(places) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { s.Lost(places) }),
	)...)
	if err != nil {
		return nil, err
	}
	s.client = client
	return adapter.Keep(s), nil
}

func (s *source) poll(a arguments) (any, error) {
	limit, end := context.WithTimeout(background, seconds(adapter.Read[float64](a, 2)))
	defer end()
	return poll(limit, s.client, int(a.Int(1)), func(found int) bool { return found > 0 })
}

// rewind to what is committed. The client's own `CommittedOffsets` knows nothing of offsets that went into transactions.
func (s *source) rewind() error {
	committed, err := admin.FetchOffsets(background, s.group)
	if err != nil {
		return err
	}
	starts, err := admin.ListStartOffsets(background, s.topic)
	if err != nil {
		return err
	}
	wanted := map[int32]int64{}
	for _, place := range s.Owned() {
		partition := place[1].(int32)
		start, _ := starts.Lookup(s.topic, partition)
		wanted[partition] = start.Offset
		if mark, known := committed.Lookup(s.topic, partition); known && mark.At >= 0 {
			wanted[partition] = mark.At
		}
	}
	s.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{s.topic: epochOffsets(wanted)})
	return nil
}

func (s *source) membership() membership {
	member, generation := s.client.GroupMetadata()
	return membership{member, generation}
}

// ---- By the admin ----------------------------------------------------------------------------------------------------

func describeTransaction(a arguments) (any, error) {
	all, err := admin.DescribeTransactions(background, a.Text(0))
	if err != nil {
		return nil, err
	}
	found, places := all[a.Text(0)], [][]any{}
	for _, topic := range found.Topics.Sorted() {
		for _, partition := range topic.Partitions {
			places = append(places, []any{topic.Topic, partition})
		}
	}
	return map[string]any{"state": found.State, "timeout_ms": found.TimeoutMillis, "places": places}, found.Err
}

func producers(a arguments) ([]kadm.DescribedProducer, error) {
	place := kadm.TopicsSet{}
	place.Add(a.Text(0), int32(a.Int(1)))
	all, err := admin.DescribeProducers(background, place)
	if err != nil {
		return nil, err
	}
	found := all[a.Text(0)].Partitions[int32(a.Int(1))]
	return found.ActiveProducers.Sorted(), found.Err
}

func openSince(producer kadm.DescribedProducer) *int64 {
	if producer.CurrentTxnStartOffset < 0 {
		return nil
	}
	return &producer.CurrentTxnStartOffset
}

func abortHanging(a arguments) (any, error) {
	all, err := producers(a)
	if err != nil {
		return nil, err
	}
	place := kadm.TopicsSet{}
	place.Add(a.Text(0), int32(a.Int(1)))
	for _, each := range all {
		if openSince(each) == nil {
			continue
		}
		found, err := admin.WriteTxnMarkers(background, kadm.TxnMarkers{
			ProducerID: each.ProducerID, ProducerEpoch: each.ProducerEpoch, CoordinatorEpoch: max(0, each.CoordinatorEpoch), Topics: place,
		})
		if err != nil {
			return nil, err
		}
		for _, answer := range found.SortedPartitions() {
			if answer.Err != nil {
				return nil, answer.Err
			}
		}
	}
	return nil, nil
}
