// The modes about many of a thing: idle connections, long-polling consumers, topics and partitions; and about the
// first of a thing: the first acknowledgement, the first complete metadata.
package main

import (
	"fmt"
	"time"
)

func connectAll() (cs []*conn, seconds float64, err error) {
	began := time.Now()
	for range *conns {
		c, err := dial()
		if err == nil {
			err = c.hello()
		}
		if err != nil {
			return cs, 0, fmt.Errorf("connection %d: %w", len(cs)+1, err)
		}
		cs = append(cs, c)
	}
	return cs, time.Since(began).Seconds(), nil
}

func idleMode() (*Result, error) {
	cs, connected, err := connectAll()
	if err != nil {
		return nil, err
	}
	r := run(1, func(_ int, t *tally) error {
		for !t.w.over.Load() {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	})
	r.ConnectSeconds = connected
	for _, c := range cs { // still there?
		if err := c.hello(); err != nil {
			r.Errors++
			r.FirstError = err.Error()
		}
		c.Close()
	}
	return r, nil
}

func pollMode() (*Result, error) {
	if err := prepare(*topic, *partitions); err != nil {
		return nil, err
	}
	cs, connected, err := connectAll()
	if err != nil {
		return nil, err
	}
	r := run(*conns, func(i int, t *tally) error {
		defer cs[i].Close()
		time.Sleep(time.Duration(*maxWaitMs) * time.Millisecond * time.Duration(i) / time.Duration(*conns)) // spread
		frame, _ := fetchFrame(*topic, int32(i%*partitions), *maxBytes, *partitionBytes)
		for !t.w.over.Load() {
			began := time.Now()
			d, err := cs[i].call(frame)
			if err != nil {
				return err
			}
			if code, records := fetchAnswer(d); code != 0 || len(records) > 0 {
				t.fail(fmt.Errorf("poll: error %d, %d bytes", code, len(records)))
			} else {
				t.done(0, 0, time.Since(began))
			}
		}
		return nil
	})
	r.ConnectSeconds = connected
	return r, nil
}

func createMode() (*Result, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var latencies []time.Duration
	began := time.Now()
	for i := range *topics {
		asked := time.Now()
		name := fmt.Sprintf("%s-%d", *topic, i)
		if code, err := c.createTopic(name, *partitions); err != nil || code != 0 {
			return nil, fmt.Errorf("CreateTopics of %s: error %d %v", name, code, err)
		}
		latencies = append(latencies, time.Since(asked))
	}
	r := &Result{Requests: int64(*topics), Seconds: time.Since(began).Seconds()}
	r.Rate = float64(*topics) / r.Seconds
	r.P50, r.P99, r.P999, r.Max = percentiles(latencies)
	for i := 0; *write && i < *topics; i++ {
		if err := c.writeEach(fmt.Sprintf("%s-%d", *topic, i), *partitions); err != nil {
			return nil, err
		}
		r.Records += int64(*partitions)
	}
	r.WriteSeconds = time.Since(began).Seconds()
	return r, nil
}

// writeEach sends one record to each partition, 500 a request, and asks again for those not ready yet.
func (c *conn) writeEach(topic string, partitions int) error {
	var waiting []int32
	for p := range partitions {
		waiting = append(waiting, int32(p))
	}
	batch, _ := buildBatch(1, *recordBytes)
	for end := time.Now().Add(*timeout); len(waiting) > 0 && time.Now().Before(end); {
		var refused []int32
		n := min(len(waiting), 500)
		d, err := c.call(produceFrame(int16(*acks), topic, waiting[:n], batch))
		if err != nil {
			return err
		}
		var broken error
		produceAnswer(d, func(p int32, code int16, _ int64) {
			switch code {
			case 0:
			case errUnknownTopic, errLeaderNotAvailable, errNotLeader:
				refused = append(refused, p)
			default:
				broken = fmt.Errorf("produce to %s-%d: error %d", topic, p, code)
			}
		})
		if broken != nil || d.short {
			return fmt.Errorf("%v (short: %v)", broken, d.short)
		}
		if waiting = append(waiting[n:], refused...); len(refused) > 0 {
			time.Sleep(20 * time.Millisecond) // asking without pause would take the cores from what is waited for
		}
	}
	if len(waiting) > 0 {
		return fmt.Errorf("%d partitions of %s take no writes", len(waiting), topic)
	}
	return nil
}

// retry calls until it succeeds, each time on a new connection, and answers the seconds since -since.
func retry(attempt func(c *conn) error) (*Result, error) {
	start := time.Unix(0, *since)
	if *since == 0 {
		start = time.Now()
	}
	var last error
	for end := time.Now().Add(*timeout); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		c, err := dial()
		if err == nil {
			err = attempt(c)
			c.Close()
		}
		if last = err; err == nil {
			return &Result{FirstSeconds: time.Since(start).Seconds()}, nil
		}
	}
	return nil, last
}

func firstMode() (*Result, error) {
	batch, _ := buildBatch(1, *recordBytes)
	frame := produceFrame(-1, *topic, []int32{0}, batch)
	return retry(func(c *conn) error {
		if code, err := c.createTopic(*topic, *partitions); err != nil || code != 0 && code != errTopicExists {
			return fmt.Errorf("CreateTopics: error %d %v", code, err)
		}
		d, err := c.call(frame)
		if err != nil {
			return err
		}
		if code := produceError(d); code != 0 {
			return fmt.Errorf("produce: error %d", code)
		}
		return nil
	})
}

func readyMode() (*Result, error) {
	return retry(func(c *conn) error {
		led, err := c.leaders("")
		if err == nil && len(led) < *expectPartitions {
			err = fmt.Errorf("%d partitions have a leader, %d should", len(led), *expectPartitions)
		}
		return err
	})
}
