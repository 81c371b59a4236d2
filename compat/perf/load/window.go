// The measured window: workers run, a warm-up passes, "start" and "stop" frame the part that counts.
package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// window tells the workers when to count and when to end.
type window struct {
	counting, over atomic.Bool
	enough         atomic.Bool // set by a worker: the window ends before its time
	bytes          atomic.Int64
}

// tally is one worker's count; nobody else touches it until the worker has ended.
type tally struct {
	w                                *window
	requests, records, bytes, errors int64
	firstError                       string
	latencies                        []time.Duration
}

func (t *tally) done(records, bytes int, latency time.Duration) {
	if !t.w.counting.Load() {
		return
	}
	t.requests++
	t.records += int64(records)
	t.bytes += int64(bytes)
	t.latencies = append(t.latencies, latency)
	if *megabytes > 0 && t.w.bytes.Add(int64(bytes)) > *megabytes*1e6 {
		t.w.enough.Store(true)
	}
}

// fail counts an error answer. Before the window it is part of getting warm: leaders may still be moving in.
func (t *tally) fail(err error) {
	if t.w.counting.Load() {
		t.errors++
		if t.firstError == "" {
			t.firstError = err.Error()
		}
		return
	}
	time.Sleep(10 * time.Millisecond)
}

// run opens the window over n workers. A worker that returns an error ends itself, and the error is counted.
func run(n int, work func(i int, t *tally) error) *Result {
	w := &window{}
	tallies := make([]*tally, n)
	var all sync.WaitGroup
	for i := range tallies {
		tallies[i] = &tally{w: w}
		all.Add(1)
		go func() {
			defer all.Done()
			if err := work(i, tallies[i]); err != nil {
				tallies[i].errors++
				tallies[i].firstError = err.Error()
			}
		}()
	}
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	seconds := w.open(ended)
	<-ended
	return summarise(tallies, seconds)
}

func (w *window) open(ended chan struct{}) float64 {
	pause(time.Duration(*warmup*1e9), ended)
	fmt.Fprintln(os.Stderr, "start")
	began := time.Now()
	w.counting.Store(true)
	for end := began.Add(time.Duration(*seconds * 1e9)); time.Now().Before(end); {
		if pause(min(10*time.Millisecond, time.Until(end)), ended) || w.enough.Load() {
			break
		}
	}
	w.counting.Store(false)
	took := time.Since(began).Seconds()
	fmt.Fprintln(os.Stderr, "stop")
	w.over.Store(true)
	return took
}

func pause(d time.Duration, ended chan struct{}) bool {
	select {
	case <-ended:
		return true
	case <-time.After(d):
		return false
	}
}

func summarise(tallies []*tally, seconds float64) *Result {
	r := &Result{Seconds: seconds}
	var latencies []time.Duration
	for _, t := range tallies {
		r.Requests += t.requests
		r.Records += t.records
		r.Bytes += t.bytes
		r.Errors += t.errors
		latencies = append(latencies, t.latencies...)
		if r.FirstError == "" {
			r.FirstError = t.firstError
		}
	}
	r.Rate = float64(r.Requests) / seconds
	r.P50, r.P99, r.P999, r.Max = percentiles(latencies)
	return r
}

func percentiles(latencies []time.Duration) (p50, p99, p999, worst float64) {
	if len(latencies) == 0 {
		return
	}
	slices.Sort(latencies)
	at := func(q float64) float64 {
		return float64(latencies[int(q*float64(len(latencies)-1))].Nanoseconds()) / 1000
	}
	return at(0.5), at(0.99), at(0.999), at(1)
}
