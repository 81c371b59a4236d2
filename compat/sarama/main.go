// Sarama under the scenarios: answers the calls that `remote.py` describes, one call of the library each.
package main

import (
	"errors"
	"io"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"kbroker/compat/adapter"
)

type arguments = adapter.Arguments

var (
	bootstrap = []string{os.Getenv("COMPAT_BOOTSTRAP")}
	client    sarama.Client
	admin     sarama.TransactionClusterAdmin
)

func main() {
	sarama.Logger = log.New(io.Discard, "", 0)
	client = must(sarama.NewClient(bootstrap, configuration(20)))
	admin = must(sarama.NewClusterAdminFromClient(client)).(sarama.TransactionClusterAdmin)
	calls := map[string]adapter.Call{}
	maps.Copy(calls, adminCalls)
	maps.Copy(calls, sendingCalls)
	maps.Copy(calls, readingCalls)
	maps.Copy(calls, memberCalls)
	maps.Copy(calls, transactionCalls)
	adapter.Serve(calls, named)
}

// configuration of every client; a broker that was killed is looked for again soon, for as long as patience lasts.
func configuration(patience int) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.V4_3_0_0
	config.Net.DialTimeout, config.Net.ReadTimeout, config.Net.WriteTimeout = 5*time.Second, 15*time.Second, 5*time.Second
	config.Admin.Timeout = 15 * time.Second
	config.Metadata.Retry.Max, config.Metadata.Retry.Backoff = 5*patience, 200*time.Millisecond
	config.Producer.Retry.Max, config.Producer.Retry.Backoff = 5*patience, 200*time.Millisecond
	return config
}

// named gives the number of Kafka's error, or the library's words where it is no answer of the broker.
func named(err error) *adapter.Refused {
	var known sarama.KError
	if errors.As(err, &known) {
		return &adapter.Refused{Name: int(known), Detail: err.Error()}
	}
	return &adapter.Refused{Name: err.Error()}
}

// kafka is the error of an answer; nil if it is none.
func kafka(code sarama.KError) error {
	if code == sarama.ErrNoError {
		return nil
	}
	return code
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func absent(what string) error { return adapter.Absent{What: "Sarama 1.61.1 has no " + what} }

// ---- Admin -----------------------------------------------------------------------------------------------------------

var adminCalls = map[string]adapter.Call{
	"cluster": cluster,
	"topics": func(arguments) (any, error) {
		found, err := admin.ListTopics()
		return slices.Collect(maps.Keys(found)), err
	},
	"partitions": func(a arguments) (any, error) {
		found, err := admin.DescribeTopics([]string{a.Text(0)})
		if err != nil {
			return nil, err
		}
		return len(found[0].Partitions), kafka(found[0].Err)
	},
	"create_topics": createTopics,
	"delete_topics": func(a arguments) (any, error) {
		for _, topic := range adapter.Read[[]string](a, 0) {
			if err := admin.DeleteTopic(topic); err != nil {
				return nil, err
			}
		}
		return nil, nil
	},
	"add_partitions": func(a arguments) (any, error) {
		return nil, admin.CreatePartitions(a.Text(0), int32(a.Int(1)), nil, false)
	},
	"delete_records": func(a arguments) (any, error) {
		return nil, admin.DeleteRecords(a.Text(0), adapter.Read[map[int32]int64](a, 1))
	},
	"configs":        func(a arguments) (any, error) { return configs(sarama.TopicResource, a.Text(0)) },
	"broker_configs": func(a arguments) (any, error) { return configs(sarama.BrokerResource, a.Text(0)) },
	"replace_configs": func(a arguments) (any, error) {
		return nil, admin.AlterConfig(sarama.TopicResource, a.Text(0), pointers(adapter.Read[map[string]string](a, 1)), false)
	},
	"change_configs": changeConfigs,
	"offset":         offset,
	"groups": func(arguments) (any, error) {
		found, err := admin.ListConsumerGroups()
		return slices.Collect(maps.Keys(found)), err
	},
	"describe_group": func(a arguments) (any, error) {
		found, err := admin.DescribeConsumerGroups([]string{a.Text(0)})
		if err != nil {
			return nil, err
		}
		return map[string]any{"state": strings.ToUpper(found[0].State), "members": len(found[0].Members)}, kafka(found[0].Err)
	},
	"delete_group":  func(a arguments) (any, error) { return nil, admin.DeleteConsumerGroup(a.Text(0)) },
	"committed":     committed,
	"alter_offsets": alterOffsets,
	"delete_offsets": func(a arguments) (any, error) {
		for _, partition := range adapter.Read[[]int32](a, 2) {
			if err := admin.DeleteConsumerGroupOffset(a.Text(0), a.Text(1), partition); err != nil {
				return nil, err
			}
		}
		return nil, nil
	},
}

func cluster(arguments) (any, error) {
	brokers, controller, err := admin.DescribeCluster()
	if err != nil {
		return nil, err
	}
	ids := []int32{}
	for _, broker := range brokers {
		ids = append(ids, broker.ID())
	}
	broker, err := client.Controller()
	if err != nil {
		return nil, err
	}
	found, err := broker.GetMetadata(sarama.NewMetadataRequest(client.Config().Version, nil)) // DescribeCluster does not tell the id
	if err != nil {
		return nil, err
	}
	return map[string]any{"brokers": ids, "controller": controller, "cluster_id": found.ClusterID}, nil
}

// createTopics by the admin's call where it is one topic; it has none for many with one request.
func createTopics(a arguments) (any, error) {
	details := map[string]*sarama.TopicDetail{}
	for topic, count := range adapter.Read[map[string]int32](a, 0) {
		details[topic] = &sarama.TopicDetail{
			NumPartitions: count, ReplicationFactor: int16(a.Int(2)), ConfigEntries: pointers(adapter.Read[map[string]string](a, 1)),
		}
	}
	if len(details) == 1 {
		for topic, detail := range details {
			return nil, admin.CreateTopic(topic, detail, false)
		}
	}
	broker, err := client.Controller()
	if err != nil {
		return nil, err
	}
	answer, err := broker.CreateTopics(sarama.NewCreateTopicsRequest(client.Config().Version, details, 15*time.Second, false))
	if err != nil {
		return nil, err
	}
	for _, each := range answer.TopicErrors {
		if each.Err != sarama.ErrNoError {
			return nil, each
		}
	}
	return nil, nil
}

func configs(kind sarama.ConfigResourceType, name string) (any, error) {
	resources := []*sarama.ConfigResource{{Type: kind, Name: name}}
	all, err := admin.DescribeConfigs(resources, sarama.DescribeConfigsOptions{})
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, each := range all[0].Configs {
		found[each.Name] = each.Value
	}
	return found, kafka(all[0].ErrorCode)
}

func changeConfigs(a arguments) (any, error) {
	steps := map[string]sarama.IncrementalAlterConfigsEntry{}
	for name, value := range pointers(adapter.Read[map[string]string](a, 1)) {
		steps[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationSet, Value: value}
	}
	for _, name := range adapter.Read[[]string](a, 2) {
		steps[name] = sarama.IncrementalAlterConfigsEntry{Operation: sarama.IncrementalAlterConfigsOperationDelete}
	}
	return nil, admin.IncrementalAlterConfig(sarama.TopicResource, a.Text(0), steps, false)
}

func offset(a arguments) (any, error) {
	topic, partition, when := a.Text(0), int32(a.Int(1)), a.Text(2)
	options := &sarama.ListOffsetsOptions{}
	if len(a) > 3 && adapter.Read[adapter.Options](a, 3).Isolation == "read_committed" {
		options.IsolationLevel = sarama.ReadCommitted
	}
	var at int64
	switch when {
	case "earliest":
		at = sarama.OffsetOldest
	case "latest":
		at = sarama.OffsetNewest
	default:
		at = a.Int(2)
	}
	all, err := admin.ListOffsets(map[string]map[int32]int64{topic: {partition: at}}, options)
	if err != nil {
		return nil, err
	}
	found := all[topic][partition]
	if !errors.Is(found.Err, sarama.ErrNoError) {
		return nil, found.Err
	}
	if found.Offset < 0 {
		return nil, nil
	}
	return found.Offset, nil
}

func committed(a arguments) (any, error) {
	answer, err := admin.ListConsumerGroupOffsets(a.Text(0), nil)
	if err != nil {
		return nil, err
	}
	found := map[int32]int64{}
	if group := answer.GetGroup(a.Text(0)); group != nil {
		for partition, block := range group.Blocks[a.Text(1)] {
			found[partition] = block.Offset
		}
	}
	return found, nil
}

func alterOffsets(a arguments) (any, error) {
	group, topic := a.Text(0), a.Text(1)
	wanted := map[int32]sarama.OffsetAndMetadata{}
	for partition, offset := range adapter.Read[map[int32]int64](a, 2) {
		wanted[partition] = sarama.OffsetAndMetadata{Offset: offset, LeaderEpoch: -1}
	}
	answer, err := admin.AlterConsumerGroupOffsets(group, map[string]map[int32]sarama.OffsetAndMetadata{topic: wanted}, nil)
	if err != nil {
		return nil, err
	}
	return nil, refusal(answer)
}

func refusal(answer *sarama.OffsetCommitResponse) error {
	for _, partitions := range answer.Errors {
		for _, code := range partitions {
			if code != sarama.ErrNoError {
				return code
			}
		}
	}
	return nil
}

func pointers(texts map[string]string) map[string]*string {
	found := map[string]*string{}
	for name, text := range texts {
		found[name] = &text
	}
	return found
}

func milliseconds(count int) time.Duration { return time.Duration(count) * time.Millisecond }
