// A good client beside a greedy one: it produces a record every few milliseconds and measures how long each waits, while
// others ask for more than anybody should. Everything the greedy ask is bounded, in number, in size and in time.
package main

import (
	"fmt"
	"net"
	"time"
)

const goodPause = 5 * time.Millisecond // between two records of the good client

// greeds are the ways to be greedy; each is run by so many connections until the window is over.
var greeds = map[string]struct {
	conns int
	ask   func(t *tally) error
}{
	"metadata": {1, func(t *tally) error { return flood(t, metadataV0(), 7000, true) }},   // pipelined, answers read
	"unread":   {20, func(t *tally) error { return flood(t, metadataV0(), 7000, false) }}, // answers never read
	"offsets":  {1, func(t *tally) error { return flood(t, manyOffsets(100_000), 1, true) }},
}

// greedyMode measures the good client alone first, then beside the greedy ones.
func greedyMode() (*Result, error) {
	greed, known := greeds[*greedKind]
	if !known {
		return nil, fmt.Errorf("no such greed: %s", *greedKind)
	}
	if err := prepare(*topic, 1); err != nil {
		return nil, err
	}
	if err := makeTopics(*topics); err != nil {
		return nil, err
	}
	calm := run(1, func(_ int, t *tally) error { return good(t) })
	r := run(1+greed.conns, func(i int, t *tally) error {
		if i == 0 {
			return good(t)
		}
		for !t.w.counting.Load() && !t.w.over.Load() {
			time.Sleep(time.Millisecond)
		}
		asked := &tally{w: t.w} // its requests are no figure of the good client's
		return greed.ask(asked)
	})
	r.CalmP99 = calm.P99
	return r, nil
}

func good(t *tally) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	batch, _ := buildBatch(1, *recordBytes)
	frame := produceFrame(1, *topic, []int32{0}, batch)
	for !t.w.over.Load() {
		began := time.Now()
		d, err := c.call(frame)
		if err != nil {
			return err
		}
		if code := produceError(d); code != 0 {
			t.fail(fmt.Errorf("produce: error %d", code))
		}
		t.done(1, len(batch), time.Since(began))
		time.Sleep(goodPause)
	}
	return nil
}

// makeTopics has so many topics there are, so that an answer about all of them is large.
func makeTopics(n int) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range n {
		if code, err := c.createTopic(fmt.Sprintf("%s-%04d", *topic, i), 1); err != nil || code != 0 && code != errTopicExists {
			return fmt.Errorf("CreateTopics: error %d %v", code, err)
		}
	}
	return nil
}

// flood sends count frames at once, over and over; with read it takes the answers in, else it leaves them.
func flood(t *tally, frame []byte, count int, read bool) error {
	for !t.w.over.Load() {
		c, err := net.DialTimeout("tcp", *addr, 10*time.Second)
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(time.Duration((*warmup + *seconds) * 1e9)))
		go func() {
			for range count {
				if _, err := c.Write(frame); err != nil {
					return
				}
			}
		}()
		if read {
			readAnswers(c, count, t.w)
		} else {
			for !t.w.over.Load() {
				time.Sleep(10 * time.Millisecond)
			}
		}
		c.Close() // what is still unread goes with it
	}
	return nil
}

func readAnswers(c net.Conn, count int, w *window) {
	var size [4]byte
	rest := make([]byte, 64<<10)
	for n := 0; n < count && !w.over.Load(); n++ {
		if !readFull(c, size[:]) {
			return
		}
		for left := int(big.Uint32(size[:])); left > 0; {
			part := rest[:min(left, len(rest))]
			if !readFull(c, part) {
				return
			}
			left -= len(part)
		}
	}
}

func readFull(c net.Conn, b []byte) bool {
	for len(b) > 0 {
		n, err := c.Read(b)
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

// metadataV0 asks for all topics, in the oldest form: a header without tags, an empty list.
func metadataV0() []byte {
	e := &encoder{}
	e.put(int16(keyMetadata), int16(0), int32(1), int16(-1), int32(0))
	return sized(e.b)
}

// manyOffsets asks for the end of so many partitions, nearly all of which are not there.
func manyOffsets(n int) []byte {
	fields := []any{int32(-1), int8(0), array(1), *topic, array(n)}
	for i := range n {
		fields = append(fields, int32(i), int32(-1), int64(-1), tags{})
	}
	return request(keyListOffsets, append(fields, tags{}, tags{})...)
}
