package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"kbroker/compat/adapter"
)

var memberCalls = map[string]adapter.Call{
	"member_open": openMember,
	"member_journal": func(a arguments) (any, error) {
		return adapter.Kept[*member](a).Since(a.Int(1)), nil
	},
	"member_owned": func(a arguments) (any, error) { return adapter.Kept[*member](a).Owned(), nil },
	"member_commit": func(a arguments) (any, error) {
		return nil, adapter.Kept[*member](a).commit(adapter.Read[[]adapter.Mark](a, 1), adapter.Read[bool](a, 2))
	},
	"member_committed": func(a arguments) (any, error) {
		found := adapter.Kept[*member](a).client.CommittedOffsets()
		if mark, known := found[a.Text(1)][int32(a.Int(2))]; known {
			return mark.Offset, nil
		}
		return nil, nil
	},
	"member_seek": func(a arguments) (any, error) {
		starts := map[int32]int64{int32(a.Int(2)): a.Int(3)}
		adapter.Kept[*member](a).orders <- func(client *kgo.Client) {
			client.SetOffsets(map[string]map[int32]kgo.EpochOffset{a.Text(1): epochOffsets(starts)})
		}
		return nil, nil
	},
	"member_leave": func(a arguments) (any, error) {
		adapter.Kept[*member](a).leave()
		return nil, nil
	},
}

// member of a group, polled by a goroutine of its own, as `Pumped` in `members.py`. While it has records in hand no
// rebalance goes on (BlockRebalanceOnPoll).
type member struct {
	adapter.Journal
	client  *kgo.Client
	options adapter.Options
	orders  chan func(*kgo.Client)
	ending  context.Context
	end     context.CancelFunc
	ended   chan struct{}
}

func openMember(a arguments) (any, error) {
	options := adapter.Read[adapter.Options](a, 1)
	m := &member{options: options, orders: make(chan func(*kgo.Client), 10), ended: make(chan struct{})}
	m.ending, m.end = context.WithCancel(background)
	names, pattern := a.Topics(0)
	client, err := kgo.NewClient(append(joining(names, pattern, options), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { m.Assigned(places) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { m.Revoked(places) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, places map[string][]int32) { m.Lost(places) }),
	)...)
	if err != nil {
		return nil, err
	}
	m.client = client
	go m.pump()
	return adapter.Keep(m), nil
}

// joining with names of topics or with a pattern.
func joining(names []string, pattern string, options adapter.Options) []kgo.Opt {
	opts := append(consuming(options), kgo.ConsumerGroup(options.Group), kgo.DisableAutoCommit(), kgo.MetadataMaxAge(time.Second))
	if pattern != "" {
		opts = append(opts, kgo.ConsumeRegex(), kgo.ConsumeTopics(pattern))
	} else {
		opts = append(opts, kgo.ConsumeTopics(names...))
	}
	if options.Instance != "" {
		opts = append(opts, kgo.InstanceID(options.Instance))
	}
	if options.Protocol == "consumer" {
		return append(opts, kgo.ServerSideBalancer())
	}
	balancer := kgo.RangeBalancer()
	if options.Cooperative {
		balancer = kgo.CooperativeStickyBalancer()
	}
	return append(opts, kgo.Balancers(balancer), kgo.RebalanceTimeout(10*time.Second),
		kgo.SessionTimeout(milliseconds(adapter.Or(options.SessionMs, 10_000))),
		kgo.HeartbeatInterval(milliseconds(adapter.Or(options.HeartbeatMs, 500))))
}

func (m *member) pump() {
	defer close(m.ended)
	for m.ending.Err() == nil {
		select {
		case order := <-m.orders:
			order(m.client)
		default:
			m.turn()
		}
	}
	id, _ := m.client.GroupMetadata()
	m.client.CloseAllowingRebalance()
	if m.options.Protocol == "consumer" && m.options.Instance != "" {
		m.goodbye(id)
	}
}

// goodbye of a static member: the library's own leaves the instance id out, which brokers refuse (INVALID_REQUEST).
func (m *member) goodbye(id string) {
	request := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	request.Group, request.MemberID, request.MemberEpoch, request.InstanceID = m.options.Group, id, -2, &m.options.Instance
	if _, err := request.RequestWith(background, asking); err != nil {
		m.Refused(named(err).Name)
	}
}

// turn is one poll, and what follows from it.
func (m *member) turn() {
	limit, cancel := context.WithTimeout(m.ending, 100*time.Millisecond)
	defer cancel()
	defer m.client.AllowRebalance()
	fetches := m.client.PollFetches(limit)
	if err := failure(fetches); err != nil {
		m.Refused(named(err).Name)
		time.Sleep(100 * time.Millisecond)
	}
	var next []adapter.Mark
	fetches.EachPartition(func(each kgo.FetchTopicPartition) {
		for _, record := range each.Records {
			m.Note("took", each.Topic, each.Partition, record.Offset)
		}
		if count := len(each.Records); count > 0 {
			next = append(next, adapter.Mark{Topic: each.Topic, Partition: each.Partition, Offset: each.Records[count-1].Offset + 1})
		}
	})
	if !m.options.Commits || len(next) == 0 {
		return
	}
	if err := m.commit(next, true); err != nil {
		m.Refused(named(err).Name)
		return
	}
	for _, mark := range next {
		m.Note("committed", mark.Topic, mark.Partition, mark.Offset)
	}
}

func (m *member) commit(marks []adapter.Mark, wait bool) error {
	wanted := map[string]map[int32]kgo.EpochOffset{}
	for _, mark := range marks {
		if wanted[mark.Topic] == nil {
			wanted[mark.Topic] = map[int32]kgo.EpochOffset{}
		}
		wanted[mark.Topic][mark.Partition] = kgo.EpochOffset{Epoch: -1, Offset: mark.Offset}
	}
	if !wait {
		m.client.CommitOffsets(background, wanted, nil)
		return nil
	}
	var failed error
	m.client.CommitOffsetsSync(background, wanted, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if failed == nil {
			failed = refusal(answer)
		}
	})
	return failed
}

func (m *member) leave() {
	m.end()
	<-m.ended
}

func refusal(answer *kmsg.OffsetCommitResponse) error {
	for _, topic := range answer.Topics {
		for _, partition := range topic.Partitions {
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}
