// The wire: requests as prebuilt frames, responses read field by field, and one connection that pairs them in order.
//
// Fixed versions, spoken by Kafka 4 and by today's clients, all flexible (compact lengths, tagged fields):
// ApiVersions 3, Metadata 12, CreateTopics 7, ListOffsets 7, Produce 9, Fetch 12 (no session: id 0, epoch -1);
// FindCoordinator 3, JoinGroup 6 (version 5 in flexible encoding), SyncGroup 4, Heartbeat 4, LeaveGroup 4,
// OffsetCommit 8, OffsetFetch 8.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	keyProduce, keyFetch, keyListOffsets, keyMetadata = 0, 1, 2, 3
	keyApiVersions, keyCreateTopics                   = 18, 19

	keyOffsetCommit, keyOffsetFetch, keyFindCoordinator     = 8, 9, 10
	keyJoinGroup, keyHeartbeat, keyLeaveGroup, keySyncGroup = 11, 12, 13, 14

	errUnknownTopic, errLeaderNotAvailable, errNotLeader, errTopicExists = 3, 5, 6, 36

	correlationAt = 8       // length 4, api key 2, api version 2
	frameBytesMax = 1 << 28 // no response of ours is longer
)

var versions = map[int16]int16{
	keyProduce: 9, keyFetch: 12, keyListOffsets: 7, keyMetadata: 12, keyApiVersions: 3, keyCreateTopics: 7,
	keyFindCoordinator: 3, keyJoinGroup: 6, keySyncGroup: 4, keyHeartbeat: 4, keyLeaveGroup: 4,
	keyOffsetCommit: 8, keyOffsetFetch: 8,
}

var big = binary.BigEndian

// encoder appends the fields of a flexible message, whose types are those of the values given.
type encoder struct{ b []byte }

type array int     // the length of an array whose elements follow
type tags struct{} // no tagged fields
type null struct{} // a null string or array

func (e *encoder) put(fields ...any) {
	for _, field := range fields {
		switch v := field.(type) {
		case bool, int8, int16, int32, int64:
			e.b, _ = binary.Append(e.b, big, v)
		case array:
			e.b = binary.AppendUvarint(e.b, uint64(v)+1)
		case string:
			e.b = append(binary.AppendUvarint(e.b, uint64(len(v))+1), v...)
		case []byte:
			e.b = append(e.b, v...)
		case tags, null:
			e.b = append(e.b, 0)
		default:
			panic(fmt.Sprintf("no wire type for %T", field))
		}
	}
}

// request builds a whole frame with a version 2 header; the connection patches the length and the correlation id.
func request(key int16, fields ...any) []byte {
	e := &encoder{b: make([]byte, 4)}
	e.put(key, versions[key], int32(0), int16(4), []byte("load"), tags{})
	e.put(fields...)
	big.PutUint32(e.b, uint32(len(e.b)-4))
	return e.b
}

// decoder takes fields off a response. Past the end it answers zeros and remembers that it did.
type decoder struct {
	b     []byte
	short bool
}

var zeros [16]byte

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.short, d.b = true, nil
		if n < 0 || n > len(zeros) {
			return nil
		}
		return zeros[:n]
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) i8() int8    { return int8(d.take(1)[0]) }
func (d *decoder) i16() int16  { return int16(big.Uint16(d.take(2))) }
func (d *decoder) i32() int32  { return int32(big.Uint32(d.take(4))) }
func (d *decoder) i64() int64  { return int64(big.Uint64(d.take(8))) }
func (d *decoder) array() int  { return int(d.uvarint()) - 1 }
func (d *decoder) str() []byte { return d.take(max(d.array(), 0)) }
func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.short = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) tags() {
	for n := d.uvarint(); n > 0 && !d.short; n-- {
		d.uvarint()
		d.take(int(d.uvarint()))
	}
}

// each runs one body for each element of a compact array, and stops where the bytes end.
func (d *decoder) each(element func()) {
	for n := d.array(); n > 0 && !d.short; n-- {
		element()
		d.tags()
	}
}

// conn sends frames and reads the answers in order; any number may be in flight.
type conn struct {
	net.Conn
	r          *bufio.Reader
	sent, seen uint32
	buf        []byte
}

// dial connects to the first of the addresses that can be reached.
func dial() (*conn, error) {
	var problem error
	for _, each := range strings.Split(*addr, ",") {
		c, err := dialAt(each)
		if err == nil {
			return c, nil
		}
		problem = err
	}
	return nil, problem
}

func dialAt(address string) (*conn, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(time.Duration((*warmup+*seconds)*1e9) + *timeout))
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 32<<10)}, nil
}

// dialLeader connects to the broker that leads this partition of the topic.
func dialLeader(topic string, partition int32) (*conn, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	places, err := c.leaders(topic)
	if err != nil {
		return nil, err
	}
	for _, each := range places {
		if each.partition == partition && each.address != "" {
			return dialAt(each.address)
		}
	}
	return nil, fmt.Errorf("%s-%d has no leader", topic, partition)
}

func (c *conn) send(frame []byte) error {
	c.sent++
	big.PutUint32(frame[correlationAt:], c.sent)
	_, err := c.Write(frame)
	return err
}

// recv returns the body of the next response; the bytes are good until the next call.
func (c *conn) recv(flexibleHeader bool) (*decoder, error) {
	var head [8]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, err
	}
	size := int(int32(big.Uint32(head[:]))) - 4
	if size < 0 || size > frameBytesMax {
		return nil, fmt.Errorf("response of %d bytes", size)
	}
	if c.seen++; big.Uint32(head[4:]) != c.seen {
		return nil, fmt.Errorf("response %d where %d was due", big.Uint32(head[4:]), c.seen)
	}
	if cap(c.buf) < size {
		c.buf = make([]byte, size)
	}
	if _, err := io.ReadFull(c.r, c.buf[:size]); err != nil {
		return nil, err
	}
	d := &decoder{b: c.buf[:size]}
	if flexibleHeader {
		d.tags()
	}
	return d, nil
}

func (c *conn) call(frame []byte) (*decoder, error) {
	if err := c.send(frame); err != nil {
		return nil, err
	}
	return c.recv(true)
}

// hello is what every client says first. The answer's header is version 0, whatever the body.
func (c *conn) hello() error {
	if err := c.send(request(keyApiVersions, "load", "1", tags{})); err != nil {
		return err
	}
	d, err := c.recv(false)
	if err == nil && d.i16() != 0 {
		err = errors.New("ApiVersions refused")
	}
	return err
}

// produceFrame sends the same batch to each of the partitions.
func produceFrame(acks int16, topic string, partitions []int32, batch []byte) []byte {
	fields := []any{null{}, acks, int32(30000), array(1), topic, array(len(partitions))}
	for _, p := range partitions {
		fields = append(fields, p, string(batch), tags{})
	}
	return request(keyProduce, append(fields, tags{}, tags{})...)
}

// produceAnswer calls back with the index, error and base offset of each partition.
func produceAnswer(d *decoder, partition func(index int32, code int16, base int64)) {
	d.each(func() {
		d.str()
		d.each(func() {
			partition(d.i32(), d.i16(), d.i64())
			d.i64()
			d.i64()
			d.each(func() { d.i32(); d.str() })
			d.str()
		})
	})
}

// fetchFrame returns the frame and the place of its offset, which the caller moves on.
func fetchFrame(topic string, partition int32, maxBytes, partitionBytes int) (frame []byte, offsetAt int) {
	after := &encoder{} // current epoch, offset, last epoch, log start; and what follows the partition
	after.put(int32(-1), int64(0), int32(-1), int64(-1), int32(partitionBytes), tags{}, tags{}, array(0), "", tags{})
	frame = request(keyFetch, int32(-1), int32(*maxWaitMs), int32(1), int32(maxBytes), int8(0), int32(0), int32(-1),
		array(1), topic, array(1), partition, after.b)
	return frame, len(frame) - len(after.b) + 4
}

// fetchAnswer returns the error and the record bytes of the one partition asked for.
func fetchAnswer(d *decoder) (code int16, records []byte) {
	d.i32()
	code = d.i16()
	d.i32()
	d.each(func() {
		d.str()
		d.each(func() {
			d.i32()
			if c := d.i16(); code == 0 {
				code = c
			}
			d.i64()
			d.i64()
			d.i64()
			d.each(func() { d.i64(); d.i64() })
			d.i32()
			records = d.str()
		})
	})
	return code, records
}

// createTopic asks for one topic and returns the error code of the answer.
func (c *conn) createTopic(name string, partitions int) (code int16, err error) {
	d, err := c.call(request(keyCreateTopics, array(1), name, int32(partitions), int16(*replicas), array(0), array(0), tags{},
		int32(60000), false, tags{}))
	if err != nil {
		return 0, err
	}
	d.i32()
	d.array()
	d.str()
	d.take(16)
	return d.i16(), nil
}

// place is a partition and the address of the broker that leads it.
type place struct {
	partition int32
	address   string
}

// leaders are the partitions that metadata shows without error and with a leader; "" asks for all topics.
func (c *conn) leaders(topic string) (places []place, err error) {
	asked := []any{null{}}
	if topic != "" {
		asked = []any{array(1), zeros[:], topic, tags{}}
	}
	d, err := c.call(request(keyMetadata, append(asked, false, false, tags{})...))
	if err != nil {
		return nil, err
	}
	d.i32()
	addresses := map[int32]string{}
	d.each(func() {
		id, host, port := d.i32(), d.str(), d.i32()
		addresses[id] = net.JoinHostPort(string(host), strconv.Itoa(int(port)))
		d.str()
	})
	d.str()
	d.i32()
	d.each(func() {
		topicCode := d.i16()
		d.str()
		d.take(17)
		d.each(func() {
			code, index, leader, _ := d.i16(), d.i32(), d.i32(), d.i32()
			if code == 0 && topicCode == 0 && leader >= 0 {
				places = append(places, place{index, addresses[leader]})
			}
			for range 3 { // replicas, in sync, offline
				d.take(4 * max(d.array(), 0))
			}
		})
		d.i32()
	})
	if d.short {
		return nil, errors.New("metadata ends early")
	}
	return places, nil
}

// offset answers the offset of a partition at a timestamp: -2 the earliest, -1 the end.
func (c *conn) offset(topic string, partition int32, timestamp int64) (int64, error) {
	d, err := c.call(request(keyListOffsets, int32(-1), int8(0), array(1), topic, array(1), partition, int32(-1),
		timestamp, tags{}, tags{}, tags{}))
	if err != nil {
		return 0, err
	}
	d.i32()
	d.array()
	d.str()
	d.array()
	_, code, _, offset := d.i32(), d.i16(), d.i64(), d.i64()
	if code != 0 || d.short {
		return 0, fmt.Errorf("ListOffsets of %s-%d: error %d", topic, partition, code)
	}
	return offset, nil
}

// prepare opens a connection, creates the topic where it is missing, and waits until each partition answers for
// itself: metadata may name a leader that has not moved in yet.
func prepare(topic string, partitions int) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if code, err := c.createTopic(topic, partitions); err != nil || code != 0 && code != errTopicExists {
		return fmt.Errorf("CreateTopics of %s: error %d %v", topic, code, err)
	}
	end := time.Now().Add(30 * time.Second)
	for p := 0; p < partitions; {
		if err = answers(topic, int32(p)); err == nil {
			p++
		} else if time.Now().After(end) {
			return err
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

func answers(topic string, partition int32) error {
	c, err := dialLeader(topic, partition)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.offset(topic, partition, -1)
	return err
}
