// The modes that move records: produce, fetch, end to end.
package main

import (
	"fmt"
	"time"
)

func produceMode() (*Result, error) {
	if err := prepare(*topic, *partitions); err != nil {
		return nil, err
	}
	batch, _ := buildBatch(*recordsPerBatch, *recordBytes)
	return run(*conns, func(i int, t *tally) error {
		c, err := dialLeader(*topic, int32(i%*partitions))
		if err != nil {
			return err
		}
		defer c.Close()
		frame := produceFrame(int16(*acks), *topic, []int32{int32(i % *partitions)}, batch)
		if *acks == 0 {
			return c.shout(frame, len(batch), t)
		}
		return c.produce(frame, len(batch), t)
	}), nil
}

// outageMode writes to each partition, a batch every few milliseconds, and finds its leader again whenever that fails.
// The latencies are the times between two acknowledgements of a partition.
func outageMode() (*Result, error) {
	if err := prepare(*topic, *partitions); err != nil {
		return nil, err
	}
	batch, _ := buildBatch(*recordsPerBatch, *recordBytes)
	return run(*partitions, func(i int, t *tally) error {
		frame := produceFrame(int16(*acks), *topic, []int32{int32(i)}, batch)
		last := time.Now()
		for !t.w.over.Load() {
			c, err := dialLeader(*topic, int32(i))
			if err != nil {
				time.Sleep(outagePause)
				continue
			}
			for !t.w.over.Load() && c.acknowledged(frame) {
				now := time.Now()
				t.done(*recordsPerBatch, len(batch), now.Sub(last))
				last = now
				time.Sleep(outagePause)
			}
			c.Close()
		}
		if gap := time.Since(last); gap > 2*outagePatience {
			return fmt.Errorf("partition %d has not come back for %s", i, gap)
		}
		return nil
	}), nil
}

const outagePause, outagePatience = 5 * time.Millisecond, time.Second

func (c *conn) acknowledged(frame []byte) bool {
	c.SetDeadline(time.Now().Add(outagePatience))
	d, err := c.call(frame)
	return err == nil && produceError(d) == 0
}

// produce keeps a window of requests in flight, and takes its last answers in before it ends.
func (c *conn) produce(frame []byte, batchBytes int, t *tally) error {
	var sentAt []time.Time // of the requests in flight, oldest first
	for !t.w.over.Load() || len(sentAt) > 0 {
		for len(sentAt) < *inflight && !t.w.over.Load() {
			sentAt = append(sentAt, time.Now())
			if err := c.send(frame); err != nil {
				return err
			}
		}
		if len(sentAt) == 0 {
			return nil
		}
		d, err := c.recv(true)
		if err != nil {
			return err
		}
		if code := produceError(d); code != 0 {
			t.fail(fmt.Errorf("produce: error %d", code))
		} else {
			t.done(*recordsPerBatch, batchBytes, time.Since(sentAt[0]))
		}
		sentAt = sentAt[:copy(sentAt, sentAt[1:])]
	}
	return nil
}

// shout sends with acks=0: nothing comes back, so what is measured is how fast the broker takes it.
func (c *conn) shout(frame []byte, batchBytes int, t *tally) error {
	for !t.w.over.Load() {
		began := time.Now()
		if err := c.send(frame); err != nil {
			return err
		}
		t.done(*recordsPerBatch, batchBytes, time.Since(began))
	}
	return nil
}

func produceError(d *decoder) (code int16) {
	answered := false
	produceAnswer(d, func(_ int32, c int16, _ int64) { code, answered = c, true })
	if !answered || d.short {
		return -1
	}
	return code
}

func fetchMode() (*Result, error) {
	return run(*conns, func(i int, t *tally) error {
		partition := int32(i % *partitions)
		c, err := dialLeader(*topic, partition)
		if err != nil {
			return err
		}
		defer c.Close()
		first, err := c.offset(*topic, partition, -2)
		if err != nil {
			return err
		}
		end, err := c.offset(*topic, partition, -1)
		if err == nil && end == first {
			err = fmt.Errorf("partition %d is empty", partition)
		}
		if err != nil {
			return err
		}
		// connections start spread over the partition, so that they do not read in step
		return c.read(partition, first, first+(end-first)*int64(i)/int64(*conns), end, t)
	}), nil
}

func (c *conn) read(partition int32, first, offset, end int64, t *tally) error {
	frame, offsetAt := fetchFrame(*topic, partition, *maxBytes, *partitionBytes)
	for !t.w.over.Load() {
		began := time.Now()
		big.PutUint64(frame[offsetAt:], uint64(offset))
		d, err := c.call(frame)
		if err != nil {
			return err
		}
		code, records := fetchAnswer(d)
		next, whole, err := walk(records, offset, nil)
		switch {
		case err != nil:
			return err
		case code != 0 || next == offset || d.short:
			t.fail(fmt.Errorf("fetch at %d: error %d, %d bytes", offset, code, len(records)))
		default:
			t.done(int(next-offset), whole, time.Since(began))
		}
		if offset = next; offset >= end {
			offset = first
		}
	}
	return nil
}

// e2eMode paces records onto one connection, whether or not they have been acknowledged, and reads them on another.
// Each value begins with the time it was sent, so a broker that stalls shows in every record that waited.
func e2eMode() (*Result, error) {
	if err := prepare(*topic, 1); err != nil {
		return nil, err
	}
	c, err := dial()
	if err != nil {
		return nil, err
	}
	from, err := c.offset(*topic, 0, -1)
	if err != nil {
		return nil, err
	}
	*conns = 2
	return run(2, func(i int, t *tally) error {
		if i == 0 {
			return paceRecords(t)
		}
		defer c.Close()
		return c.receiveRecords(from, t)
	}), nil
}

func paceRecords(t *tally) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.Close()
	batch, valueAt := buildBatch(1, max(*recordBytes, 8))
	go func() { // acknowledgements are read and dropped; the consumer is the judge
		for _, err := c.recv(true); err == nil; _, err = c.recv(true) {
		}
	}()
	frame := produceFrame(int16(*acks), *topic, []int32{0}, batch)
	batchAt := len(frame) - len(batch) - 3 // the tagged fields of partition, topic and request follow it
	gap := time.Second / time.Duration(*rate)
	for due := time.Now(); !t.w.over.Load(); due = due.Add(gap) {
		time.Sleep(time.Until(due))
		big.PutUint64(frame[batchAt+valueAt:], uint64(time.Now().UnixNano()))
		sealBatch(frame[batchAt : batchAt+len(batch)])
		if err := c.send(frame); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) receiveRecords(offset int64, t *tally) error {
	_, valueAt := buildBatch(1, max(*recordBytes, 8))
	frame, offsetAt := fetchFrame(*topic, 0, *maxBytes, *partitionBytes)
	for !t.w.over.Load() {
		big.PutUint64(frame[offsetAt:], uint64(offset))
		d, err := c.call(frame)
		if err != nil {
			return err
		}
		code, records := fetchAnswer(d)
		now := time.Now().UnixNano()
		offset, _, err = walk(records, offset, func(b []byte) {
			t.done(1, len(b), time.Duration(now-int64(big.Uint64(b[valueAt:]))))
		})
		if err == nil && code != 0 {
			err = fmt.Errorf("fetch: error %d", code)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
