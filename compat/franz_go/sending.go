package main

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"kbroker/compat/adapter"
)

var sendingCalls = map[string]adapter.Call{
	"produce_open": func(a arguments) (any, error) {
		return adapter.Keep(&sending{topic: a.Text(0), options: adapter.Read[adapter.Options](a, 1)}), nil
	},
	"produce_send": func(a arguments) (any, error) {
		return nil, adapter.Kept[*sending](a).send(adapter.Read[[]adapter.Message](a, 1))
	},
	"produce_close": func(a arguments) (any, error) { return adapter.Kept[*sending](a).close() },
}

var codecs = map[string]kgo.CompressionCodec{
	"":       kgo.NoCompression(),
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

const (
	batchBytesMin = 512 // the library takes no less
	headBytes     = 200 // what a batch of one record needs beside its value
)

// sending has one producer. It is made with the first records: the library refuses a record above the size of a batch,
// where others make it a batch of its own.
type sending struct {
	topic   string
	options adapter.Options
	client  *kgo.Client
	results results
	ends    []context.CancelFunc
}

func patience(options adapter.Options) time.Duration {
	return time.Duration(adapter.Or(options.Patience, 30)) * time.Second
}

func (s *sending) send(messages []adapter.Message) error {
	if s.client == nil {
		client, err := kgo.NewClient(producing(s.options, messages)...)
		if err != nil {
			return err
		}
		s.client = client
	}
	// Not RecordDeliveryTimeout: the library counts that from the record's own timestamp.
	limit, end := context.WithTimeout(background, patience(s.options))
	s.ends = append(s.ends, end)
	s.results.produce(limit, s.client, s.topic, messages)
	return nil
}

// close answers with the offsets; -1 where none is known is told as null.
func (s *sending) close() (any, error) {
	if s.client == nil {
		return []int64{}, nil
	}
	defer s.client.Close()
	defer func() {
		for _, end := range s.ends {
			end()
		}
	}()
	return s.results.offsets()
}

func producing(options adapter.Options, messages []adapter.Message) []kgo.Opt {
	size := adapter.Or(max(options.BatchBytes, options.RequestBytesMax), 1_000_012)
	if options.BatchBytes > 0 {
		for _, each := range messages {
			size = max(size, batchBytesMin, len(each.Value)+len(each.Key)+headBytes)
		}
	}
	opts := append(basics(patience(options)),
		kgo.RecordPartitioner(chosen{kgo.StickyKeyPartitioner(nil)}),
		kgo.AllowAutoTopicCreation(),
		kgo.UnknownTopicRetries(20),
		kgo.ProducerLinger(milliseconds(options.LingerMs)),
		kgo.ProducerBatchMaxBytes(int32(size)),
		kgo.ProducerBatchCompression(codecs[options.Codec]),
	)
	if options.Idempotent {
		return opts
	}
	opts = append(opts, kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(adapter.Or(options.InFlight, 1)))
	switch options.Acks {
	case "0":
		return append(opts, kgo.RequiredAcks(kgo.NoAck()))
	case "1":
		return append(opts, kgo.RequiredAcks(kgo.LeaderAck()))
	}
	return opts
}

// results of records that are on their way, in the order in which they were given.
type results struct {
	mu      sync.Mutex
	sent    []*kgo.Record
	failed  error
	waiting sync.WaitGroup
}

func (r *results) produce(limit context.Context, client *kgo.Client, topic string, messages []adapter.Message) {
	for _, each := range messages {
		record := &kgo.Record{Topic: topic, Key: each.Key, Value: each.Value, Partition: each.Partition}
		for _, header := range each.Headers {
			record.Headers = append(record.Headers, kgo.RecordHeader{Key: header.Key, Value: header.Value})
		}
		if each.Timestamp >= 0 {
			record.Timestamp = time.UnixMilli(each.Timestamp)
		}
		r.sent = append(r.sent, record)
		r.waiting.Add(1)
		client.Produce(limit, record, r.arrived)
	}
}

func (r *results) arrived(_ *kgo.Record, err error) {
	r.fail(err)
	r.waiting.Done()
}

func (r *results) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
}

// error is the first of those that are known.
func (r *results) error() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// offsets once all are acknowledged, or the first error.
func (r *results) offsets() ([]*int64, error) {
	r.waiting.Wait()
	found := make([]*int64, len(r.sent))
	for i, record := range r.sent {
		if record.Offset >= 0 {
			found[i] = &record.Offset
		}
	}
	return found, r.error()
}

// chosen takes the partition that the record names, else the one that the library's partitioner chooses.
type chosen struct{ otherwise kgo.Partitioner }

func (c chosen) ForTopic(topic string) kgo.TopicPartitioner {
	return chosenOfTopic{c.otherwise.ForTopic(topic)}
}

type chosenOfTopic struct{ otherwise kgo.TopicPartitioner }

func (c chosenOfTopic) RequiresConsistency(record *kgo.Record) bool {
	return record.Partition >= 0 || c.otherwise.RequiresConsistency(record)
}

func (c chosenOfTopic) Partition(record *kgo.Record, count int) int {
	if record.Partition >= 0 {
		return int(record.Partition)
	}
	return c.otherwise.Partition(record, count)
}

func (c chosenOfTopic) OnNewBatch() {
	if told, ok := c.otherwise.(kgo.TopicPartitionerOnNewBatch); ok {
		told.OnNewBatch()
	}
}
