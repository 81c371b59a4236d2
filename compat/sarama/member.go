package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"kbroker/compat/adapter"
)

var memberCalls = map[string]adapter.Call{
	"member_open": openMember,
	"member_journal": func(a arguments) (any, error) {
		return adapter.Kept[*member](a).Since(a.Int(1)), nil
	},
	"member_owned": func(a arguments) (any, error) { return adapter.Kept[*member](a).Owned(), nil },
	"member_commit": func(a arguments) (any, error) {
		return nil, adapter.Kept[*member](a).order(adapter.Read[[]adapter.Mark](a, 1), adapter.Read[bool](a, 2))
	},
	"member_committed": func(arguments) (any, error) { return nil, absent("call for committed offsets on the consumer") },
	"member_seek":      func(arguments) (any, error) { return nil, absent("seek for a member of a group") },
	"member_leave": func(a arguments) (any, error) {
		return nil, adapter.Kept[*member](a).leave()
	},
}

// member of a group. The library calls `ConsumeClaim` for each partition, in a goroutine of its own, for as long as the
// member has it.
type member struct {
	adapter.Journal
	options adapter.Options
	client  sarama.Client
	group   sarama.ConsumerGroup
	ending  context.Context
	end     context.CancelFunc
	ended   chan struct{}

	mu      sync.Mutex
	session sarama.ConsumerGroupSession
}

func openMember(a arguments) (any, error) {
	options := adapter.Read[adapter.Options](a, 1)
	topics, pattern := a.Topics(0)
	switch {
	case options.Protocol == "consumer":
		return nil, absent("consumer protocol (KIP-848)")
	case pattern != "":
		return nil, absent("subscription to a pattern")
	case options.Reset == "none":
		return nil, absent("way to do without a reset")
	}
	config := joining(options)
	if err := config.Validate(); err != nil {
		return nil, err
	}
	m := &member{options: options, ended: make(chan struct{})}
	m.ending, m.end = context.WithCancel(context.Background())
	var err error
	if m.client, err = sarama.NewClient(bootstrap, config); err != nil {
		return nil, err
	}
	if m.group, err = sarama.NewConsumerGroupFromClient(options.Group, m.client); err != nil {
		return nil, err
	}
	go m.pump(topics)
	return adapter.Keep(m), nil
}

func joining(options adapter.Options) *sarama.Config {
	config := consuming(options)
	config.Metadata.RefreshFrequency = time.Second
	config.Consumer.Group.Session.Timeout = milliseconds(adapter.Or(options.SessionMs, 10_000))
	config.Consumer.Group.Heartbeat.Interval = milliseconds(adapter.Or(options.HeartbeatMs, 500))
	config.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	config.Consumer.Group.Rebalance.Retry.Max, config.Consumer.Group.Rebalance.Retry.Backoff = 50, 200*time.Millisecond
	config.Consumer.Group.InstanceId = options.Instance
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyRange()}
	if options.Cooperative {
		config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyCooperativeSticky()}
	}
	return config
}

func (m *member) pump(topics []string) {
	defer close(m.ended)
	go func() {
		for err := range m.group.Errors() {
			m.Refused(text(err))
		}
	}()
	for m.ending.Err() == nil {
		if err := m.group.Consume(m.ending, topics, m); err != nil && m.ending.Err() == nil {
			m.Refused(text(err))
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = session
	return nil
}

func (m *member) Cleanup(sarama.ConsumerGroupSession) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.session = nil
	return nil
}

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	place := map[string][]int32{claim.Topic(): {claim.Partition()}}
	m.Assigned(place)
	defer m.Revoked(place)
	for {
		select {
		case message, open := <-claim.Messages():
			if !open {
				return nil
			}
			m.turn(session, message, claim.Messages())
		case <-session.Context().Done():
			return nil
		}
	}
}

// turn takes what has arrived, and commits behind it.
func (m *member) turn(session sarama.ConsumerGroupSession, message *sarama.ConsumerMessage, more <-chan *sarama.ConsumerMessage) {
	for last := message; last != nil; last = waiting(more) {
		m.Note("took", last.Topic, last.Partition, last.Offset)
		message = last
	}
	if !m.options.Commits {
		return
	}
	mark := adapter.Mark{Topic: message.Topic, Partition: message.Partition, Offset: message.Offset + 1}
	if err := m.commit(session, mark); err != nil {
		m.Refused(text(err))
		return
	}
	m.Note("committed", mark.Topic, mark.Partition, mark.Offset)
}

func waiting(messages <-chan *sarama.ConsumerMessage) *sarama.ConsumerMessage {
	select {
	case message := <-messages:
		return message
	default:
		return nil
	}
}

// commit with the request itself: the session's `Commit` does not tell whether it was accepted.
func (m *member) commit(session sarama.ConsumerGroupSession, mark adapter.Mark) error {
	request := sarama.NewOffsetCommitRequest(m.client.Config(), m.options.Group)
	request.ConsumerGroupGeneration, request.ConsumerID = session.GenerationID(), session.MemberID()
	if m.options.Instance != "" {
		request.GroupInstanceId = &m.options.Instance
	}
	request.AddBlock(mark.Topic, mark.Partition, mark.Offset, sarama.ReceiveTime, "")
	coordinator, err := m.client.Coordinator(m.options.Group)
	if err != nil {
		return err
	}
	answer, err := coordinator.CommitOffset(request)
	if err != nil {
		return errors.Join(err, m.client.RefreshCoordinator(m.options.Group))
	}
	return refusal(answer)
}

// order of an application: by the session's own calls.
func (m *member) order(marks []adapter.Mark, wait bool) error {
	m.mu.Lock()
	session := m.session
	m.mu.Unlock()
	if session == nil {
		return adapter.Refused{Name: "REBALANCE_IN_PROGRESS", Detail: "the member has no session"}
	}
	for _, mark := range marks {
		session.MarkOffset(mark.Topic, mark.Partition, mark.Offset, "")
	}
	if wait {
		session.Commit()
	} else {
		go session.Commit() // there is no call that does not wait
	}
	return nil
}

func (m *member) leave() error {
	m.end()
	<-m.ended
	defer m.client.Close()
	return m.group.Close()
}

// text of an error for the journal, which has no numbers.
func text(err error) string {
	var known sarama.KError
	if errors.As(err, &known) {
		return known.Error()
	}
	return err.Error()
}
