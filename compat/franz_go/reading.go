package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"kbroker/compat/adapter"
)

var readingCalls = map[string]adapter.Call{
	"consumer_open": openReading,
	"consumer_seek": func(a arguments) (any, error) {
		reading := adapter.Kept[*reading](a)
		reading.seek(adapter.Read[map[int32]int64](a, 1))
		return nil, nil
	},
	"consumer_take": func(a arguments) (any, error) {
		return adapter.Kept[*reading](a).take(int(a.Int(1)), seconds(adapter.Read[float64](a, 2)))
	},
	"consumer_close": func(a arguments) (any, error) {
		go adapter.Kept[*reading](a).client.Close() // it waits for the fetch under way, which nobody here has to
		return nil, nil
	},
}

// reading has partitions that were assigned by hand.
type reading struct {
	topic  string
	client *kgo.Client
}

func openReading(a arguments) (any, error) {
	topic, starts := a.Text(0), map[int32]kgo.Offset{}
	for partition, offset := range adapter.Read[map[int32]int64](a, 1) {
		starts[partition] = kgo.NewOffset().At(offset)
	}
	options := adapter.Read[adapter.Options](a, 2)
	client, err := kgo.NewClient(append(consuming(options),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}))...)
	if err != nil {
		return nil, err
	}
	return adapter.Keep(&reading{topic, client}), nil
}

// seek from the goroutine that polls: what is buffered and not yet taken is dropped by the library.
func (r *reading) seek(starts map[int32]int64) {
	r.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{r.topic: epochOffsets(starts)})
}

func (r *reading) take(count int, wait time.Duration) ([]any, error) {
	limit, cancel := context.WithTimeout(background, wait)
	defer cancel()
	return poll(limit, r.client, count, func(found int) bool { return found >= count })
}

// poll until there are enough or the time is over.
func poll(limit context.Context, client *kgo.Client, count int, enough func(int) bool) ([]any, error) {
	found := []any{}
	for !enough(len(found)) && limit.Err() == nil {
		fetches := client.PollRecords(limit, count)
		if err := failure(fetches); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(each *kgo.Record) { found = append(found, record(each)) })
	}
	return found, nil
}

// failure of a fetch that the library does not mend by itself.
func failure(fetches kgo.Fetches) error {
	for _, each := range fetches.Errors() {
		if each.Err != context.DeadlineExceeded && each.Err != context.Canceled {
			return each.Err
		}
	}
	return nil
}

func consuming(options adapter.Options) []kgo.Opt {
	opts := append(basics(20*time.Second),
		kgo.ConsumeResetOffset(reset(options.Reset)),
		kgo.FetchMaxWait(milliseconds(adapter.Or(options.MaxWaitMs, 500))),
		kgo.FetchMaxPartitionBytes(int32(adapter.Or(options.PartitionBytes, 1<<20))),
	)
	if options.Isolation == "read_committed" {
		return append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	return opts
}

func reset(how string) kgo.Offset {
	switch how {
	case "earliest":
		return kgo.NewOffset().AtStart()
	case "latest":
		return kgo.NewOffset().AtEnd()
	}
	return kgo.NoResetOffset()
}

func record(each *kgo.Record) []any {
	var headers []adapter.Header
	for _, header := range each.Headers {
		headers = append(headers, adapter.Header{Key: header.Key, Value: header.Value})
	}
	appended := each.Attrs.TimestampType() == 1
	return adapter.Record(each.Partition, each.Offset, each.Timestamp.UnixMilli(), &appended, each.Key, each.Value, headers)
}

func epochOffsets(starts map[int32]int64) map[int32]kgo.EpochOffset {
	found := map[int32]kgo.EpochOffset{}
	for partition, offset := range starts {
		found[partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	return found
}
