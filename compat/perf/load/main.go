// load drives a Kafka-wire broker with prebuilt bytes and reports what it saw as one JSON object.
//
// It speaks the protocol itself, in fixed versions (wire.go), so that it costs far less than the broker it measures;
// `load sink` answers without doing anything and shows the ceiling. Each mode is one function below `modes`.
// While a mode runs, "start" and "stop" on stderr bound the measured window, so that the caller can read the broker's
// own CPU time at exactly those two moments.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

var modes = map[string]func() (*Result, error){
	"produce": produceMode, // prebuilt batches, a window of requests in flight on each connection
	"outage":  outageMode,  // a paced producer for each partition, which goes to the next leader: its longest gap
	"fetch":   fetchMode,   // read what was produced, around and around
	"e2e":     e2eMode,     // a paced producer and a long-polling consumer: latency of each record
	"idle":    idleMode,    // open connections and hold them
	"poll":    pollMode,    // consumers long-polling empty partitions
	"create":  createMode,  // topics one by one, or one topic of many partitions; then a record to each partition
	"first":   firstMode,   // retry from the start of the process until the first acks=all acknowledgement
	"ready":   readyMode,   // retry until metadata shows every partition with a leader
	"frames":  framesMode,  // a storm of bad frames while a good client measures its latency
	"greedy":  greedyMode,  // a good client's longest wait beside a greedy one
	"sink":    sinkMode,    // the other end: answers everything, stores nothing

	"join":       joinMode,       // new consumer groups: from FindCoordinator to the first member's assignment
	"rebalance":  rebalanceMode,  // one more member: from the last JoinGroup to the last assignment
	"heartbeats": heartbeatsMode, // many stable groups, a heartbeat of each member every interval
	"commits":    commitsMode,    // an offset of each partition for each group
	"loaded":     loadedMode,     // retry until the coordinators answer all that was committed
}

// options of every mode; one that does not apply is ignored.
var (
	addr             = flag.String("addr", "127.0.0.1:9092", "brokers to load (a,b,c), or address for the sink to listen on")
	topic            = flag.String("topic", "load", "topic, created where it is missing; prefix of the names in create")
	partitions       = flag.Int("partitions", 1, "partitions of the topic; connection i uses partition i mod partitions")
	replicas         = flag.Int("replicas", 1, "of each partition of a topic that is created")
	conns            = flag.Int("conns", 1, "connections")
	inflight         = flag.Int("inflight", 1, "requests in flight on each connection")
	recordBytes      = flag.Int("record-bytes", 100, "bytes of each record's value")
	recordsPerBatch  = flag.Int("records-per-batch", 1, "records of each batch")
	acks             = flag.Int("acks", 1, "0, 1 or -1")
	seconds          = flag.Float64("seconds", 3, "length of the measured window")
	warmup           = flag.Float64("warmup", 0.5, "seconds of the same work before the window")
	megabytes        = flag.Int64("max-megabytes", 0, "end the window early after so many MB (0: never)")
	maxBytes         = flag.Int("max-bytes", 1<<20, "fetch: bytes of a response")
	partitionBytes   = flag.Int("partition-bytes", 1<<20, "fetch: bytes of a partition in a response")
	maxWaitMs        = flag.Int("max-wait-ms", 500, "fetch: longest wait for data")
	rate             = flag.Int("rate", 1000, "e2e: records a second")
	topics           = flag.Int("topics", 1, "create: topics, one by one; greedy: topics that there are")
	write            = flag.Bool("write", false, "create: then write a record to each partition, until all are acknowledged")
	since            = flag.Int64("since", 0, "first, ready, loaded: nanoseconds since 1970 at which the clock starts")
	badFrames        = flag.Int("bad", 20000, "frames: bad frames in all")
	greedKind        = flag.String("greed", "metadata", "greedy: metadata, unread or offsets")
	expectPartitions = flag.Int("expect", 0, "ready: partitions that must show a leader")
	groups           = flag.Int("groups", 2000, "groups: the most that join and rebalance make, all of the others")
	members          = flag.Int("members", 5, "rebalance, heartbeats: members of each group")
	interval         = flag.Duration("interval", 3*time.Second, "heartbeats: between two of a member")
	groupPrefix      = flag.String("group", "load", "prefix of the groups' names")
	timeout          = flag.Duration("timeout", 2*time.Minute, "give up after so long past the window")
)

// Result is what one run prints. Latencies are microseconds; a mode fills what it has.
type Result struct {
	Mode     string  `json:"mode"`
	Requests int64   `json:"requests"`
	Records  int64   `json:"records"`
	Bytes    int64   `json:"bytes"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"rate"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Max      float64 `json:"max"`
	Errors   int64   `json:"errors"`

	ConnectSeconds float64          `json:"connect_seconds,omitempty"` // idle, poll: until all were connected
	WriteSeconds   float64          `json:"write_seconds,omitempty"`   // create: until each partition acknowledged
	FirstSeconds   float64          `json:"first_seconds,omitempty"`   // first, ready, loaded: since the given start
	LoadSeconds    float64          `json:"load_seconds,omitempty"`    // loaded: since the broker's first answer
	CalmP99        float64          `json:"calm_p99,omitempty"`        // frames: the good client before the storm
	Outcomes       map[string]int64 `json:"outcomes,omitempty"`        // frames: how each bad frame was met
	FirstError     string           `json:"first_error,omitempty"`
}

func main() {
	if len(os.Args) < 2 || modes[os.Args[1]] == nil {
		names := slices.Sorted(maps.Keys(modes))
		fmt.Fprintf(os.Stderr, "usage: load %s [flags]\n", strings.Join(names, "|"))
		os.Exit(2)
	}
	flag.CommandLine.Parse(os.Args[2:])
	result, err := modes[os.Args[1]]()
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	result.Mode = os.Args[1]
	json.NewEncoder(os.Stdout).Encode(result)
}
