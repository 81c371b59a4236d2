// franz-go under the scenarios: answers the calls that `remote.py` describes, one call of the library (kgo, kadm) each.
package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"kbroker/compat/adapter"
)

type arguments = adapter.Arguments

var (
	background = context.Background()
	admin      = kadm.NewClient(must(kgo.NewClient(basics(20 * time.Second)...)))
)

func main() {
	calls := map[string]adapter.Call{}
	maps.Copy(calls, adminCalls)
	maps.Copy(calls, sendingCalls)
	maps.Copy(calls, readingCalls)
	maps.Copy(calls, memberCalls)
	maps.Copy(calls, transactionCalls)
	adapter.Serve(calls, named)
}

// basics of every client; a broker that was killed is looked for again soon, for as long as patience lasts.
func basics(patience time.Duration) []kgo.Opt {
	return []kgo.Opt{
		kgo.SeedBrokers(os.Getenv("COMPAT_BOOTSTRAP")),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 200 * time.Millisecond }),
		kgo.RequestRetries(1000),
		kgo.RetryTimeout(patience),
		kgo.DisableClientMetrics(),
	}
}

// named gives Kafka's name of an error, or the library's words where it is no answer of the broker.
func named(err error) *adapter.Refused {
	var known *kerr.Error
	if errors.As(err, &known) {
		return &adapter.Refused{Name: known.Message, Detail: err.Error()}
	}
	for _, own := range []error{kgo.ErrRecordTimeout, kgo.ErrRecordRetries, kgo.ErrAborting, kgo.ErrClientClosed, context.DeadlineExceeded} {
		if errors.Is(err, own) {
			return &adapter.Refused{Name: own.Error(), Detail: err.Error()}
		}
	}
	return &adapter.Refused{Name: err.Error()}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// done answers nothing, or the first of the errors.
func done(errs ...error) (any, error) {
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func absent(what string) error { return adapter.Absent{What: "franz-go 1.22.3 has no " + what} }

// ---- Admin -----------------------------------------------------------------------------------------------------------

var adminCalls = map[string]adapter.Call{
	"cluster": func(arguments) (any, error) {
		found, err := admin.BrokerMetadata(background)
		return map[string]any{"brokers": found.Brokers.NodeIDs(), "controller": found.Controller, "cluster_id": found.Cluster}, err
	},
	"topics": func(arguments) (any, error) {
		found, err := admin.ListTopics(background)
		return found.Names(), err
	},
	"partitions": func(a arguments) (any, error) {
		found, err := admin.ListTopics(background, a.Text(0))
		if err != nil {
			return nil, err
		}
		return len(found[a.Text(0)].Partitions), found.Error()
	},
	"create_topics": createTopics,
	"delete_topics": func(a arguments) (any, error) {
		found, err := admin.DeleteTopics(background, adapter.Read[[]string](a, 0)...)
		return done(err, found.Error())
	},
	"add_partitions": func(a arguments) (any, error) {
		found, err := admin.UpdatePartitions(background, int(a.Int(1)), a.Text(0))
		return done(err, found.Error())
	},
	"delete_records": func(a arguments) (any, error) {
		found, err := admin.DeleteRecords(background, offsets(a.Text(0), adapter.Read[map[int32]int64](a, 1)))
		return done(err, found.Error())
	},
	"configs": func(a arguments) (any, error) {
		found, err := admin.DescribeTopicConfigs(background, a.Text(0))
		return configs(found, err)
	},
	"broker_configs": func(a arguments) (any, error) {
		found, err := admin.DescribeBrokerConfigs(background, int32(a.Int(0)))
		return configs(found, err)
	},
	"replace_configs": func(a arguments) (any, error) {
		found, err := admin.AlterTopicConfigsState(background, changes(adapter.Read[map[string]string](a, 1), nil), a.Text(0))
		return done(err, altered(found))
	},
	"change_configs": func(a arguments) (any, error) {
		wanted := changes(adapter.Read[map[string]string](a, 1), adapter.Read[[]string](a, 2))
		found, err := admin.AlterTopicConfigs(background, wanted, a.Text(0))
		return done(err, altered(found))
	},
	"offset": offset,
	"groups": func(arguments) (any, error) {
		found, err := admin.ListGroups(background)
		return found.Groups(), err
	},
	"describe_group": func(a arguments) (any, error) {
		all, err := admin.DescribeGroups(background, a.Text(0))
		if err != nil {
			return nil, err
		}
		found := all[a.Text(0)]
		return map[string]any{"state": strings.ToUpper(found.State), "members": len(found.Members)}, found.Err
	},
	"delete_group": func(a arguments) (any, error) {
		found, err := admin.DeleteGroup(background, a.Text(0))
		return done(err, found.Err)
	},
	"committed": func(a arguments) (any, error) {
		all, err := admin.FetchOffsets(background, a.Text(0))
		found := map[int32]int64{}
		for partition, each := range all[a.Text(1)] {
			found[partition] = each.At
		}
		return found, err
	},
	"alter_offsets": func(a arguments) (any, error) {
		return nil, admin.CommitAllOffsets(background, a.Text(0), offsets(a.Text(1), adapter.Read[map[int32]int64](a, 2)))
	},
	"delete_offsets": func(a arguments) (any, error) {
		places := kadm.TopicsSet{}
		places.Add(a.Text(1), adapter.Read[[]int32](a, 2)...)
		found, err := admin.DeleteOffsets(background, a.Text(0), places)
		return done(err, found.Error())
	},
}

func createTopics(a arguments) (any, error) {
	configs := map[string]*string{}
	for name, value := range adapter.Read[map[string]string](a, 1) {
		configs[name] = &value
	}
	byCount := map[int32][]string{} // one request has one number of partitions
	for topic, count := range adapter.Read[map[string]int32](a, 0) {
		byCount[count] = append(byCount[count], topic)
	}
	for count, topics := range byCount {
		found, err := admin.CreateTopics(background, count, int16(a.Int(2)), configs, topics...)
		if _, err := done(err, found.Error()); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func offset(a arguments) (any, error) {
	topic, partition, when := a.Text(0), int32(a.Int(1)), a.Text(2)
	var all kadm.ListedOffsets
	var err error
	switch {
	case when == "earliest":
		all, err = admin.ListStartOffsets(background, topic)
	case when == "latest" && len(a) > 3 && adapter.Read[adapter.Options](a, 3).Isolation == "read_committed":
		all, err = admin.ListCommittedOffsets(background, topic)
	case when == "latest":
		all, err = admin.ListEndOffsets(background, topic)
	default:
		all, err = admin.ListOffsetsAfterMilli(background, a.Int(2), topic)
	}
	if _, err = done(err, all.Error()); err != nil {
		return nil, err
	}
	found, _ := all.Lookup(topic, partition)
	return found.Offset, nil
}

func configs(all kadm.ResourceConfigs, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	found := map[string]*string{}
	for _, each := range all[0].Configs {
		found[each.Key] = each.Value
	}
	return found, all[0].Err
}

func changes(put map[string]string, remove []string) []kadm.AlterConfig {
	var wanted []kadm.AlterConfig
	for name, value := range put {
		wanted = append(wanted, kadm.AlterConfig{Op: kadm.SetConfig, Name: name, Value: &value})
	}
	for _, name := range remove {
		wanted = append(wanted, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: name})
	}
	return wanted
}

func altered(found kadm.AlterConfigsResponses) error {
	for _, each := range found {
		if each.Err != nil {
			return each.Err
		}
	}
	return nil
}

func offsets(topic string, byPartition map[int32]int64) kadm.Offsets {
	found := kadm.Offsets{}
	for _, partition := range slices.Sorted(maps.Keys(byPartition)) {
		found.AddOffset(topic, partition, byPartition[partition], -1)
	}
	return found
}

func seconds(count float64) time.Duration { return time.Duration(count * float64(time.Second)) }

func milliseconds(count int) time.Duration { return time.Duration(count) * time.Millisecond }
