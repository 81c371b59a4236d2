package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"kbroker/compat/adapter"
)

var transactionCalls = map[string]adapter.Call{
	"transactor_open": func(a arguments) (any, error) {
		return adapter.Keep(&transactor{identifier: a.Text(0), options: adapter.Read[adapter.Options](a, 1)}), nil
	},
	"transactor_init":  func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).init() },
	"transactor_begin": func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).begin() },
	"transactor_send": func(a arguments) (any, error) {
		return adapter.Kept[*transactor](a).send(a.Text(1), adapter.Read[[]adapter.Message](a, 2), adapter.Read[bool](a, 3))
	},
	"transactor_offsets": func(a arguments) (any, error) {
		from := sarama.NewConsumerGroupMetadata(a.Text(2))
		if string(a[3]) != "null" {
			read := adapter.Read[sarama.ConsumerGroupMetadata](a, 3)
			from = &read
		}
		return nil, adapter.Kept[*transactor](a).offsets(adapter.Read[[]adapter.Mark](a, 1), from)
	},
	"transactor_commit": func(a arguments) (any, error) {
		return nil, adapter.Kept[*transactor](a).end(sarama.AsyncProducer.CommitTxn)
	},
	"transactor_abort": func(a arguments) (any, error) {
		return nil, adapter.Kept[*transactor](a).end(sarama.AsyncProducer.AbortTxn)
	},
	"transactor_close": func(a arguments) (any, error) { return nil, adapter.Kept[*transactor](a).close() },
	"copy":             func(arguments) (any, error) { return nil, absent("loop of its own for copies in transactions") },
	"source_open":      openSource,
	"source_poll": func(a arguments) (any, error) {
		wait := time.Duration(adapter.Read[float64](a, 2) * float64(time.Second))
		return adapter.Kept[*source](a).poll(int(a.Int(1)), wait)
	},
	"source_owned":      func(a arguments) (any, error) { return adapter.Kept[*source](a).Owned(), nil },
	"source_rewind":     func(a arguments) (any, error) { return nil, adapter.Kept[*source](a).rewind() },
	"source_membership": func(a arguments) (any, error) { return adapter.Kept[*source](a).membership() }, // goes back with offsets as it is
	"source_leave":      func(a arguments) (any, error) { return nil, adapter.Kept[*source](a).leave() },
	"transactions": func(arguments) (any, error) {
		all, err := admin.ListTransactions(nil, nil, -1)
		found := map[string]string{}
		for _, each := range all {
			found[each.TransactionalID] = each.TransactionState
		}
		return found, err
	},
	"describe_transaction": describeTransaction,
	"open_producers":       openProducers,
	"abort_hanging":        func(arguments) (any, error) { return nil, absent("admin call to abort a transaction") },
	"fence":                func(arguments) (any, error) { return nil, absent("admin call to fence producers") },
}

// ---- Transactions ----------------------------------------------------------------------------------------------------

// transactor is a producer with a transactional id; the library makes it only with a producer id.
type transactor struct {
	identifier string
	options    adapter.Options
	producer   sarama.AsyncProducer
	listening  results
	members    []string // whose offsets are in the open transaction
}

// inTransactions are the members whose offsets the library has not sent yet: it sends them with the commit.
var inTransactions sync.Map

func (t *transactor) init() error {
	t.options.Idempotent = true
	config := producing(t.options, nil)
	config.Producer.Transaction.ID = t.identifier
	config.Producer.Transaction.Timeout = milliseconds(adapter.Or(t.options.TimeoutMs, 60_000))
	config.Producer.Transaction.Retry.Max = 50 * adapter.Or(t.options.Patience, 30)
	config.Producer.Transaction.Retry.Backoff = 20 * time.Millisecond
	producer, err := sarama.NewAsyncProducer(bootstrap, config)
	if err != nil {
		return err
	}
	t.producer = producer
	go t.listening.listen(producer)
	return nil
}

func (t *transactor) begin() error {
	t.listening.forget()
	return t.producer.BeginTxn()
}

// send goes through one list, in the order of all sends of the transaction.
func (t *transactor) send(topic string, messages []adapter.Message, wait bool) (any, error) {
	before := len(t.listening.sent)
	t.listening.produce(t.producer, topic, messages)
	if !wait {
		return []int64{}, nil
	}
	offsets, err := t.listening.offsets(true)
	return offsets[before:], err
}

// offsets are sent with the commit; until then the library keeps them.
func (t *transactor) offsets(marks []adapter.Mark, from *sarama.ConsumerGroupMetadata) error {
	wanted := map[string][]*sarama.PartitionOffsetMetadata{}
	for _, mark := range marks {
		wanted[mark.Topic] = append(wanted[mark.Topic], &sarama.PartitionOffsetMetadata{
			Partition: mark.Partition, Offset: mark.Offset, LeaderEpoch: -1,
		})
	}
	inTransactions.Store(from.MemberID, true)
	t.members = append(t.members, from.MemberID)
	return t.producer.AddOffsetsToTxnWithGroupMetadata(wanted, from)
}

func (t *transactor) end(how func(sarama.AsyncProducer) error) error {
	for _, member := range t.members {
		inTransactions.Delete(member)
	}
	t.members = nil
	return how(t.producer)
}

func (t *transactor) close() error {
	if t.producer != nil {
		t.producer.AsyncClose()
	}
	return nil
}

// ---- A member whose offsets go into transactions ---------------------------------------------------------------------

// source is a member of a group that hands its messages over one by one, to whoever polls.
type source struct {
	adapter.Journal
	options adapter.Options
	topic   string
	client  sarama.Client
	group   sarama.ConsumerGroup
	arrived chan *sarama.ConsumerMessage
	failed  chan error

	mu      sync.Mutex
	session sarama.ConsumerGroupSession
	end     context.CancelFunc
	ended   chan struct{}
}

func openSource(a arguments) (any, error) {
	s := &source{options: adapter.Read[adapter.Options](a, 1), topic: a.Text(0)}
	if s.options.Protocol == "consumer" {
		return nil, absent("consumer protocol (KIP-848)")
	}
	var err error
	if s.client, err = sarama.NewClient(bootstrap, joining(s.options)); err != nil {
		return nil, err
	}
	if s.group, err = sarama.NewConsumerGroupFromClient(s.options.Group, s.client); err != nil {
		return nil, err
	}
	s.arrived, s.failed = make(chan *sarama.ConsumerMessage), make(chan error, 100)
	go func() {
		for range s.group.Errors() { // the library goes on by itself
		}
	}()
	s.start()
	return adapter.Keep(s), nil
}

func (s *source) start() {
	var ending context.Context
	ending, s.end = context.WithCancel(context.Background())
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		for ending.Err() == nil {
			if err := s.group.Consume(ending, []string{s.topic}, s); err != nil && ending.Err() == nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
}

func (s *source) stop() {
	s.end()
	<-s.ended
}

func (s *source) Setup(session sarama.ConsumerGroupSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = session
	return nil
}

func (s *source) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (s *source) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	place := map[string][]int32{claim.Topic(): {claim.Partition()}}
	s.Assigned(place)
	defer s.Revoked(place)
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			select {
			case s.arrived <- message:
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

// poll for the first for as long as `wait`, for the others no longer than they take to be handed over.
func (s *source) poll(count int, wait time.Duration) (any, error) {
	found, over := []any{}, time.After(wait)
	for len(found) < count {
		select {
		case message := <-s.arrived:
			found, over = append(found, record(message)), time.After(5*time.Millisecond)
		case <-over:
			return found, nil
		}
	}
	return found, nil
}

// rewind by leaving the session and beginning another: there is no seek.
func (s *source) rewind() error {
	s.stop()
	s.start()
	return nil
}

// membership of the session under way, as the library makes it.
func (s *source) membership() (*sarama.ConsumerGroupMetadata, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session == nil {
		return nil, errors.New("the member has no session")
	}
	return sarama.NewConsumerGroupMetadataFromSession(s.session, s.options.Group, nil), nil
}

// leave, which is too early for a member whose offsets would have to hang in an open transaction.
func (s *source) leave() error {
	early := false
	if from, err := s.membership(); err == nil {
		_, early = inTransactions.Load(from.MemberID)
	}
	s.stop()
	defer s.client.Close()
	if err := s.group.Close(); err != nil || !early {
		return err
	}
	return absent("offsets in a transaction before its commit: it sends them with it")
}

// ---- By the admin ----------------------------------------------------------------------------------------------------

func describeTransaction(a arguments) (any, error) {
	all, err := admin.DescribeTransactions([]string{a.Text(0)})
	if err != nil {
		return nil, err
	}
	found, places := all[a.Text(0)], [][]any{}
	for _, topic := range found.Topics {
		for _, partition := range topic.Partitions {
			places = append(places, []any{topic.Topic, partition})
		}
	}
	return map[string]any{"state": found.TransactionState, "timeout_ms": found.TransactionTimeout.Milliseconds(), "places": places}, kafka(found.ErrorCode)
}

func openProducers(a arguments) (any, error) {
	topic, partition := a.Text(0), int32(a.Int(1))
	all, err := admin.DescribeProducers(map[string][]int32{topic: {partition}})
	if err != nil {
		return nil, err
	}
	answer, found := all[topic][partition], []*int64{}
	for _, each := range answer.ActiveProducers {
		if each.CurrentTxnStartOffset < 0 {
			found = append(found, nil)
		} else {
			found = append(found, &each.CurrentTxnStartOffset)
		}
	}
	return found, kafka(answer.ErrorCode)
}
