package main

import (
	"errors"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"kbroker/compat/adapter"
)

var readingCalls = map[string]adapter.Call{
	"consumer_open": func(a arguments) (any, error) {
		options := adapter.Read[adapter.Options](a, 2)
		consumer, err := sarama.NewConsumer(bootstrap, consuming(options))
		if err != nil {
			return nil, err
		}
		r := &reading{topic: a.Text(0), options: options, consumer: consumer}
		return adapter.Keep(r), r.seek(adapter.Read[map[int32]int64](a, 1))
	},
	"consumer_seek": func(a arguments) (any, error) {
		return nil, adapter.Kept[*reading](a).seek(adapter.Read[map[int32]int64](a, 1))
	},
	"consumer_take": func(a arguments) (any, error) {
		wait := time.Duration(adapter.Read[float64](a, 2) * float64(time.Second))
		return adapter.Kept[*reading](a).take(int(a.Int(1)), wait)
	},
	"consumer_close": func(a arguments) (any, error) {
		go adapter.Kept[*reading](a).close() // it waits for the fetch under way, which nobody here has to
		return nil, nil
	},
}

func consuming(options adapter.Options) *sarama.Config {
	config := configuration(20)
	config.Consumer.Return.Errors = true
	config.Consumer.Retry.Backoff = 200 * time.Millisecond
	config.Consumer.MaxWaitTime = milliseconds(adapter.Or(options.MaxWaitMs, 500))
	config.Consumer.Fetch.Default = int32(adapter.Or(options.PartitionBytes, 1<<20))
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Offsets.Initial = sarama.OffsetNewest
	if options.Reset == "earliest" {
		config.Consumer.Offsets.Initial = sarama.OffsetOldest
	}
	if options.Isolation == "read_committed" {
		config.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	return config
}

// reading has partitions that were assigned by hand: a consumer each, made anew to seek.
type reading struct {
	topic    string
	options  adapter.Options
	consumer sarama.Consumer
	parts    []sarama.PartitionConsumer
	arrived  chan *sarama.ConsumerMessage
	failed   chan error
}

func (r *reading) seek(starts map[int32]int64) error {
	r.stop()
	r.arrived, r.failed = make(chan *sarama.ConsumerMessage, 1000), make(chan error, 100)
	for partition, offset := range starts {
		part, err := r.begin(partition, offset)
		if err != nil {
			r.failed <- err
			continue
		}
		r.parts = append(r.parts, part)
		go forward(part, r.arrived, r.failed)
	}
	return nil
}

// begin at an offset; where it is out of range, and where the leader is not there yet, the library leaves it to the
// application to ask again.
func (r *reading) begin(partition int32, offset int64) (sarama.PartitionConsumer, error) {
	resets := r.options.Reset != "" && r.options.Reset != "none"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		part, err := r.consumer.ConsumePartition(r.topic, partition, offset)
		switch {
		case err == nil, fatal(err) && !resets, time.Now().After(deadline):
			return part, err
		case fatal(err):
			offset = r.initial()
		}
	}
}

func (r *reading) initial() int64 {
	if r.options.Reset == "earliest" {
		return sarama.OffsetOldest
	}
	return sarama.OffsetNewest
}

func forward(part sarama.PartitionConsumer, arrived chan<- *sarama.ConsumerMessage, failed chan<- error) {
	go func() {
		for err := range part.Errors() {
			select {
			case failed <- err:
			default:
			}
		}
	}()
	for message := range part.Messages() {
		arrived <- message
	}
}

func (r *reading) take(count int, wait time.Duration) ([]any, error) {
	found, over := []any{}, time.After(wait)
	for len(found) < count {
		select {
		case message := <-r.arrived:
			found = append(found, record(message))
		case err := <-r.failed:
			if fatal(err) {
				return nil, err
			}
		case <-over:
			return found, nil
		}
	}
	return found, nil
}

// fatal errors are those that the library does not mend by itself.
func fatal(err error) bool { return errors.Is(err, sarama.ErrOffsetOutOfRange) }

func (r *reading) stop() {
	var waiting sync.WaitGroup
	for _, part := range r.parts {
		waiting.Go(func() { part.Close() })
	}
	if r.parts != nil {
		go func() { // nobody may be left who waits to hand a message over
			for range r.arrived {
			}
		}()
	}
	waiting.Wait()
	r.parts = nil
}

func (r *reading) close() {
	r.stop()
	r.consumer.Close()
}

func record(message *sarama.ConsumerMessage) []any {
	var headers []adapter.Header
	for _, header := range message.Headers {
		headers = append(headers, adapter.Header{Key: string(header.Key), Value: header.Value})
	}
	return adapter.Record(message.Partition, message.Offset, message.Timestamp.UnixMilli(), nil, message.Key, message.Value, headers)
}
