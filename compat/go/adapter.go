// Package adapter is what the adapters of Go's clients share: the lines of JSON that `remote.py` describes, the things
// that live on by number, records and messages as they are written there, and the journal of a member of a group.
//
// A client's adapter registers its calls and serves them; calls may overlap, each has a goroutine of its own.
package adapter

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
)

// Arguments of a call, read one by one by their place.
type Arguments []json.RawMessage

// A Call answers with what becomes JSON, or with an error: Refused, Absent, or one that `named` knows a name for.
type Call func(Arguments) (any, error)

// Refused is what the broker, or the client in its name, said no with: Kafka's name of the error, or its number.
type Refused struct {
	Name   any
	Detail string
}

func (refused Refused) Error() string { return fmt.Sprint(refused.Name, " ", refused.Detail) }

// Absent tells what the client has no call for.
type Absent struct{ What string }

func (absent Absent) Error() string { return absent.What }

const lineBytesMax = 64 << 20

// Serve answers the calls on the standard input until it ends. `named` finds what a library's error is called; nil if
// it is none of the library's.
func Serve(calls map[string]Call, named func(error) *Refused) {
	var writing sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytesMax)
	for lines.Scan() {
		var asked struct {
			ID        int       `json:"id"`
			Call      string    `json:"call"`
			Arguments Arguments `json:"arguments"`
		}
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		go func() {
			line, err := json.Marshal(answer(asked.ID, calls[asked.Call], asked.Arguments, named))
			if err != nil {
				panic(err)
			}
			writing.Lock()
			defer writing.Unlock()
			os.Stdout.Write(append(line, '\n'))
		}()
	}
	os.Exit(0)
}

func answer(id int, call Call, arguments Arguments, named func(error) *Refused) map[string]any {
	if call == nil {
		return map[string]any{"id": id, "error": "the adapter has no such call"}
	}
	result, err := call(arguments)
	var refused Refused
	var absent Absent
	switch {
	case err == nil:
		return map[string]any{"id": id, "result": result}
	case errors.As(err, &absent):
		return map[string]any{"id": id, "absent": absent.What}
	case errors.As(err, &refused):
		return map[string]any{"id": id, "refused": refused.Name, "detail": refused.Detail}
	}
	if found := named(err); found != nil {
		return map[string]any{"id": id, "refused": found.Name, "detail": found.Detail}
	}
	fmt.Fprintln(os.Stderr, err)
	return map[string]any{"id": id, "error": err.Error()}
}

// ---- Arguments -------------------------------------------------------------------------------------------------------

// Read an argument as what the caller wants it to be; the driver and the adapter agree on it, so a mismatch is a bug.
func Read[T any](arguments Arguments, place int) T {
	var found T
	if err := json.Unmarshal(arguments[place], &found); err != nil {
		panic(fmt.Sprintf("argument %d: %v", place, err))
	}
	return found
}

// Text of an argument that is a string or a number.
func (arguments Arguments) Text(place int) string {
	var text string
	if json.Unmarshal(arguments[place], &text) == nil {
		return text
	}
	return string(arguments[place])
}

// Int of an argument that is a number or, as a key of an object was, a string.
func (arguments Arguments) Int(place int) int64 {
	number, err := strconv.ParseInt(arguments.Text(place), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("argument %d: %v", place, err))
	}
	return number
}

// Options are those of all calls together; a call reads what it knows, and what was not given has its zero value.
type Options struct {
	Acks            string `json:"acks"`
	Codec           string `json:"codec"`
	Idempotent      bool   `json:"idempotent"`
	LingerMs        int    `json:"linger_ms"`
	BatchBytes      int    `json:"batch_bytes"`
	RequestBytesMax int    `json:"request_bytes_max"`
	InFlight        int    `json:"in_flight"`
	Patience        int    `json:"patience"`
	TimeoutMs       int    `json:"timeout_ms"`
	Isolation       string `json:"isolation"`
	Reset           string `json:"reset"`
	MaxWaitMs       int    `json:"max_wait_ms"`
	PartitionBytes  int    `json:"partition_bytes"`
	Group           string `json:"group"`
	Protocol        string `json:"protocol"`
	Cooperative     bool   `json:"cooperative"`
	Instance        string `json:"instance"`
	Commits         bool   `json:"commits"`
	SessionMs       int    `json:"session_ms"`
	HeartbeatMs     int    `json:"heartbeat_ms"`
}

// Or gives the first if it is set.
func Or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Topics of a subscription: names, or one pattern.
func (arguments Arguments) Topics(place int) (names []string, pattern string) {
	if json.Unmarshal(arguments[place], &names) == nil {
		return names, ""
	}
	return nil, arguments.Text(place)
}

// ---- Things that live on ---------------------------------------------------------------------------------------------

var (
	things   []any
	thingsMu sync.Mutex
)

// Keep a producer, consumer or member; its number.
func Keep(thing any) int {
	thingsMu.Lock()
	defer thingsMu.Unlock()
	things = append(things, thing)
	return len(things) - 1
}

// Kept is the thing whose number is the first argument.
func Kept[T any](arguments Arguments) T {
	thingsMu.Lock()
	defer thingsMu.Unlock()
	return things[arguments.Int(0)].(T)
}

// ---- Messages and records --------------------------------------------------------------------------------------------

// A Header has a value of nil where it is null.
type Header struct {
	Key   string
	Value []byte
}

// A Message is to be written; Partition -1 leaves the choice to the client, Timestamp -1 is now.
type Message struct {
	Value, Key []byte
	Partition  int32
	Headers    []Header
	Timestamp  int64
}

// UnmarshalJSON reads `[value, key, partition, headers, timestamp]`; null stays nil, and empty does not become nil.
func (message *Message) UnmarshalJSON(line []byte) error {
	*message = Message{Partition: -1, Timestamp: -1}
	return pieces(line, &message.Value, &message.Key, &message.Partition, &message.Headers, &message.Timestamp)
}

// UnmarshalJSON reads `[name, value]`.
func (header *Header) UnmarshalJSON(line []byte) error {
	return pieces(line, &header.Key, &header.Value)
}

// MarshalJSON writes `[name, value]`.
func (header Header) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{header.Key, header.Value})
}

// pieces of a JSON array, each into its place; null leaves the place as it is.
func pieces(line []byte, into ...any) error {
	var found []json.RawMessage
	if err := json.Unmarshal(line, &found); err != nil {
		return err
	}
	for i, piece := range found {
		if err := json.Unmarshal(piece, into[i]); err != nil {
			return err
		}
	}
	return nil
}

// Record as it was read; LogAppendTime is nil where the client does not say.
func Record(partition int32, offset, timestampMs int64, logAppendTime *bool, key, value []byte, headers []Header) []any {
	if headers == nil {
		headers = []Header{}
	}
	return []any{partition, offset, timestampMs, logAppendTime, key, value, headers}
}

// A Mark is an offset of a group in a partition, `[topic, partition, offset]`.
type Mark struct {
	Topic     string
	Partition int32
	Offset    int64
}

// UnmarshalJSON reads `[topic, partition, offset]`.
func (mark *Mark) UnmarshalJSON(line []byte) error {
	return pieces(line, &mark.Topic, &mark.Partition, &mark.Offset)
}
