package main

import (
	"sync"
	"time"

	"github.com/IBM/sarama"
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

var codecs = map[string]sarama.CompressionCodec{
	"":       sarama.CompressionNone,
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

const headBytes = 200 // more than the library counts for a record beside its key and value

// sending has one producer. It is made with the first records: the library refuses a record above the size of a batch,
// where others make it a batch of its own.
type sending struct {
	topic    string
	options  adapter.Options
	producer sarama.AsyncProducer
	results  results
}

func (s *sending) send(messages []adapter.Message) error {
	if s.producer == nil {
		producer, err := sarama.NewAsyncProducer(bootstrap, producing(s.options, messages))
		if err != nil {
			return err
		}
		s.producer = producer
		go s.results.listen(producer)
	}
	s.results.produce(s.producer, s.topic, messages)
	return nil
}

func (s *sending) close() (any, error) {
	if s.producer == nil {
		return []int64{}, nil
	}
	defer s.producer.AsyncClose()
	return s.results.offsets(s.options.Acks != "0")
}

func producing(options adapter.Options, messages []adapter.Message) *sarama.Config {
	config := configuration(adapter.Or(options.Patience, 30))
	config.Producer.Return.Successes, config.Producer.Return.Errors = true, true
	config.Producer.Partitioner = newChosen
	config.Producer.Compression = codecs[options.Codec]
	config.Producer.Idempotent = options.Idempotent
	config.Producer.Flush.Frequency = milliseconds(options.LingerMs)
	config.Producer.MaxMessageBytes = adapter.Or(max(options.BatchBytes, options.RequestBytesMax), 1_048_576)
	config.Net.MaxOpenRequests = adapter.Or(options.InFlight, 1)
	if options.Idempotent {
		config.Net.MaxOpenRequests = 1 // the library allows no more
	}
	if options.BatchBytes > 0 {
		for _, each := range messages {
			config.Producer.MaxMessageBytes = max(config.Producer.MaxMessageBytes, len(each.Value)+len(each.Key)+headBytes)
		}
	}
	config.Producer.RequiredAcks = sarama.WaitForAll
	switch options.Acks {
	case "0":
		config.Producer.RequiredAcks = sarama.NoResponse
	case "1":
		config.Producer.RequiredAcks = sarama.WaitForLocal
	}
	return config
}

// results of messages that are on their way, in the order in which they were given.
type results struct {
	mu      sync.Mutex
	sent    []*sarama.ProducerMessage
	failed  error
	waiting sync.WaitGroup
}

func (r *results) produce(producer sarama.AsyncProducer, topic string, messages []adapter.Message) {
	for _, each := range messages {
		message := &sarama.ProducerMessage{Topic: topic, Metadata: each.Partition}
		if each.Key != nil {
			message.Key = sarama.ByteEncoder(each.Key)
		}
		if each.Value != nil {
			message.Value = sarama.ByteEncoder(each.Value)
		}
		for _, header := range each.Headers {
			message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(header.Key), Value: header.Value})
		}
		if each.Timestamp >= 0 {
			message.Timestamp = time.UnixMilli(each.Timestamp)
		}
		r.sent = append(r.sent, message)
		r.waiting.Add(1)
		producer.Input() <- message
	}
}

// listen to one producer until it is closed.
func (r *results) listen(producer sarama.AsyncProducer) {
	go func() {
		for range producer.Successes() {
			r.waiting.Done()
		}
	}()
	for each := range producer.Errors() {
		r.mu.Lock()
		if r.failed == nil {
			r.failed = each.Err
		}
		r.mu.Unlock()
		r.waiting.Done()
	}
}

// forget what was sent before; nothing of it may be on its way.
func (r *results) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent, r.failed = nil, nil
}

// error is the first of those that are known.
func (r *results) error() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// offsets once all are acknowledged, or the first error.
func (r *results) offsets(known bool) ([]*int64, error) {
	r.waiting.Wait()
	found := make([]*int64, len(r.sent))
	for i, message := range r.sent {
		if known {
			found[i] = &message.Offset
		}
	}
	return found, r.error()
}

// chosen takes the partition that the message's metadata names, else the one that the library's partitioner chooses.
type chosen struct{ sarama.Partitioner }

func newChosen(topic string) sarama.Partitioner { return chosen{sarama.NewHashPartitioner(topic)} }

func (c chosen) Partition(message *sarama.ProducerMessage, count int32) (int32, error) {
	if partition := message.Metadata.(int32); partition >= 0 {
		return partition, nil
	}
	return c.Partitioner.Partition(message, count)
}

func (c chosen) RequiresConsistency() bool { return true }
