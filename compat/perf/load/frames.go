// A storm of bad frames from several connections, while a good client keeps producing and measures its own latency.
// Every frame is bounded in size and in the time its answer is waited for, and the storm in its number of frames.
package main

import (
	"errors"
	"math/rand"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const silenceMax = 100 * time.Millisecond // a broker that neither answers nor hangs up is left after so long

// badFrame holds the ways to be wrong. After one that is cut short we hang up ourselves: the broker waits for more.
var badFrame = []struct {
	cutShort bool
	build    func(r *rand.Rand) []byte
}{
	{false, func(r *rand.Rand) []byte { return sized(junk(r, 1+r.Intn(300))) }},
	{false, func(r *rand.Rand) []byte { return big.AppendUint32(nil, uint32(1<<31-1-r.Intn(1<<20))) }}, // oversized
	{false, func(r *rand.Rand) []byte { return big.AppendUint32(nil, uint32(1<<31+r.Intn(1<<30))) }},   // negative
	{true, func(r *rand.Rand) []byte { return sized(junk(r, 64))[:4+r.Intn(60)] }},
	{false, func(r *rand.Rand) []byte { return sized(nil) }},
	{false, func(r *rand.Rand) []byte { // a good header, a body of junk
		keys := []int16{keyProduce, keyFetch, keyListOffsets, keyMetadata, keyApiVersions}
		return request(keys[r.Intn(len(keys))], junk(r, r.Intn(200)))
	}},
	{false, func(r *rand.Rand) []byte { return request(keyMetadata, array(1<<30)) }}, // more elements than bytes
}

func junk(r *rand.Rand, n int) []byte { b := make([]byte, n); r.Read(b); return b }

func sized(body []byte) []byte { return append(big.AppendUint32(nil, uint32(len(body))), body...) }

// framesMode measures the good client alone first, then under the storm; the storm's end closes the window.
func framesMode() (*Result, error) {
	if err := prepare(*topic, 1); err != nil {
		return nil, err
	}
	batch, _ := buildBatch(1, *recordBytes)
	good := func(t *tally) error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.produce(produceFrame(1, *topic, []int32{0}, batch), len(batch), t)
	}
	calm := run(1, func(_ int, t *tally) error { return good(t) })
	*seconds = timeout.Seconds() // at most
	outcomes, storms := &counts{by: map[string]int64{}}, atomic.Int32{}
	r := run(*conns+1, func(i int, t *tally) error {
		if i == *conns {
			return good(t)
		}
		storms.Add(1)
		storm(rand.New(rand.NewSource(int64(i))), t.w, outcomes)
		if storms.Add(-1) == 0 {
			t.w.enough.Store(true)
		}
		return nil
	})
	r.CalmP99, r.Outcomes = calm.P99, outcomes.by
	return r, nil
}

type counts struct {
	sync.Mutex
	by map[string]int64
}

func (c *counts) add(outcome string) { c.Lock(); c.by[outcome]++; c.Unlock() }

// storm sends its share of the bad frames, on a new connection whenever the last was lost.
func storm(r *rand.Rand, w *window, outcomes *counts) {
	for !w.counting.Load() {
		time.Sleep(time.Millisecond)
	}
	var c net.Conn
	for range *badFrames / *conns {
		if w.over.Load() {
			return
		}
		if c == nil {
			fresh, err := net.DialTimeout("tcp", *addr, time.Second)
			if err != nil {
				outcomes.add("refused")
				continue
			}
			c = fresh
			c.(*net.TCPConn).SetLinger(0) // reset on close: thousands of ports must not linger in TIME_WAIT
		}
		bad := badFrame[r.Intn(len(badFrame))]
		outcome := throw(c, bad.build(r), bad.cutShort)
		outcomes.add(outcome)
		if outcome != "answered" {
			c.Close()
			c = nil
		}
	}
}

func throw(c net.Conn, frame []byte, cutShort bool) string {
	c.SetDeadline(time.Now().Add(silenceMax))
	if _, err := c.Write(frame); err != nil {
		return "closed"
	}
	if cutShort {
		return "cut short by us"
	}
	var answer [64 << 10]byte
	switch _, err := c.Read(answer[:]); {
	case err == nil:
		return "answered"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silent"
	}
	return "closed"
}
