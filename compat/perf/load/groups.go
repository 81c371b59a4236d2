// Consumer groups in the classic protocol: joining, rebalancing, staying alive, committing; and, after a restart, how
// soon the coordinator knows again what was committed.
//
//	new group     FindCoordinator, JoinGroup (refused, with a member id), JoinGroup, SyncGroup
//	one more      the newcomer joins; the others' heartbeats say so; they join again; all sync
//	the end       LeaveGroup of all members, so that none is left to time out during the next row
//
// A broker answers the requests of a connection in order, and JoinGroup waits for the other members: so each member of
// a group has a connection of its own. Groups may share their connections as long as they are not formed at once.
package main

import (
	"fmt"
	"sync"
	"time"
)

const (
	errLoading, errNoCoordinator, errNotCoordinator = 14, 15, 16
	errRebalancing, errMemberIdRequired             = 27, 79

	sessionMs, rebalanceMs = 60000, 10000

	fetchedAtOnce = 50 // groups of one OffsetFetch
)

var ( // as the consumers' own: version 0, the topics, no user data
	subscription = append([]byte{0, 0, 0, 0, 0, 1, 0, 4}, "load\xff\xff\xff\xff"...)
	assignment   = []byte{0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}
)

// joinMode makes one new group after the other: from FindCoordinator to the first member's assignment.
func joinMode() (*Result, error) {
	cs, err := connectGroups(1)
	if err != nil {
		return nil, err
	}
	return run(1, func(_ int, t *tally) error {
		for i := 0; !t.w.over.Load() && t.requests < int64(*groups); i++ {
			began := time.Now()
			g := &group{name: fresh(i), seats: cs}
			if err := cs[0].findCoordinator(g.name); err != nil {
				return err
			}
			if err := g.first(); err != nil {
				return err
			}
			t.done(0, 0, time.Since(began))
			if err := g.leave(); err != nil {
				return err
			}
		}
		return nil
	}), nil
}

// rebalanceMode forms one group after the other and lets one more member join: from the last member's JoinGroup to
// the last member's assignment.
func rebalanceMode() (*Result, error) {
	cs, err := connectGroups(*members + 1)
	if err != nil {
		return nil, err
	}
	return run(1, func(_ int, t *tally) error {
		for i := 0; !t.w.over.Load() && t.requests < int64(*groups); i++ {
			g, err := form(fresh(i), cs[:*members])
			if err != nil {
				return err
			}
			g.seats = cs
			took, err := g.oneMore()
			if err != nil {
				return err
			}
			t.done(0, 0, took)
			if err := g.leave(); err != nil {
				return err
			}
		}
		return nil
	}), nil
}

// heartbeatsMode forms the groups, then heartbeats each member at its interval, evenly spread over connections and
// time. -conns are shared out: each member of a group has one, and groups take turns.
func heartbeatsMode() (*Result, error) {
	lanes := max(1, *conns / *members)
	cs, err := connectGroups(lanes * *members)
	if err != nil {
		return nil, err
	}
	formed := make([][]*group, lanes)
	if err := together(lanes, func(lane int) error {
		for i := lane; i < *groups; i += lanes {
			g, err := form(fresh(i), cs[lane**members:(lane+1)**members])
			if err != nil {
				return err
			}
			formed[lane] = append(formed[lane], g)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	r := run(len(cs), func(i int, t *tally) error {
		var frames [][]byte
		for _, g := range formed[i / *members] {
			frames = append(frames, g.heartbeatFrame(i%*members))
		}
		return cs[i].beat(frames, float64(i)/float64(len(cs)), t)
	})
	return r, together(lanes, func(lane int) error {
		for _, g := range formed[lane] {
			if err := g.leave(); err != nil {
				return err
			}
		}
		return nil
	})
}

// beat sends each frame once an interval. What is late because of the broker counts from when it was due.
func (c *conn) beat(frames [][]byte, phase float64, t *tally) error {
	if len(frames) == 0 {
		return nil
	}
	gap := *interval / time.Duration(len(frames))
	due := time.Now().Add(time.Duration(phase * float64(gap)))
	for i := 0; !t.w.over.Load(); i++ {
		began := due
		if early := time.Until(due); early > 0 {
			time.Sleep(early)
			began = time.Now()
		}
		code, err := c.code(frames[i%len(frames)])
		if err != nil {
			return err
		}
		if code != 0 {
			t.fail(fmt.Errorf("heartbeat: error %d", code))
		} else {
			t.done(0, 0, time.Since(began))
		}
		due = due.Add(gap)
	}
	return nil
}

// commitsMode commits one offset of each partition for each group, a request a group, shared out over -conns.
func commitsMode() (*Result, error) {
	if err := prepare(*topic, *partitions); err != nil {
		return nil, err
	}
	cs, err := connectGroups(*conns)
	if err != nil {
		return nil, err
	}
	*seconds = timeout.Seconds() // at most
	return run(len(cs), func(i int, t *tally) error {
		for !t.w.counting.Load() {
			time.Sleep(time.Millisecond)
		}
		for g := i; g < *groups && !t.w.over.Load(); g += len(cs) {
			began := time.Now()
			if err := cs[i].commit(g); err != nil {
				return err
			}
			t.done(*partitions, 0, time.Since(began))
		}
		return nil
	}), nil
}

func committedGroup(g int) string { return fmt.Sprintf("%s-%d", *groupPrefix, g) }

func committedOffset(g int, partition int32) int64 { return int64(g)<<16 + int64(partition) }

// commit is what a consumer with partitions of its own choice sends: no member, no generation.
func (c *conn) commit(g int) error {
	fields := []any{committedGroup(g), int32(-1), "", null{}, array(1), *topic, array(*partitions)}
	for p := range int32(*partitions) {
		fields = append(fields, p, committedOffset(g, p), int32(-1), "", tags{})
	}
	frame := request(keyOffsetCommit, append(fields, tags{}, tags{})...)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		d, err := c.call(frame)
		if err != nil {
			return err
		}
		code, answered := int16(0), 0
		d.i32()
		d.each(func() {
			d.str()
			d.each(func() {
				d.i32()
				code = max(code, d.i16())
				answered++
			})
		})
		switch {
		case code == 0 && answered == *partitions && !d.short:
			return nil
		case !movingIn(code) || time.Now().After(end):
			return fmt.Errorf("OffsetCommit of group %d: error %d, %d partitions answered", g, code, answered)
		}
	}
}

// loadedMode asks for a committed offset of each group from the start of the process on, until the coordinators of
// all have answered; then, off the clock, it looks whether every offset is there and as it was committed.
func loadedMode() (*Result, error) {
	var firstAnswer time.Time
	known := 0 // groups whose coordinator has answered
	r, err := retry(func(c *conn) error {
		if err := c.hello(); err != nil {
			return err
		}
		if firstAnswer.IsZero() {
			firstAnswer = time.Now()
		}
		for known < *groups {
			n := min(fetchedAtOnce, *groups-known)
			if err := c.committed(known, n, []int32{0}); err != nil {
				return err
			}
			known += n
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.LoadSeconds = time.Since(firstAnswer).Seconds()
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var all []int32
	for p := range int32(*partitions) {
		all = append(all, p)
	}
	for g := 0; g < *groups; g += fetchedAtOnce {
		if err := c.committed(g, min(fetchedAtOnce, *groups-g), all); err != nil {
			return nil, err
		}
	}
	r.Records = int64(*groups) * int64(*partitions)
	return r, nil
}

// committed fetches the offsets of n groups and compares them with those committed.
func (c *conn) committed(from, n int, partitions []int32) error {
	fields := []any{array(n)}
	for g := from; g < from+n; g++ {
		fields = append(fields, committedGroup(g), array(1), *topic, array(len(partitions)))
		for _, p := range partitions {
			fields = append(fields, p)
		}
		fields = append(fields, tags{}, tags{})
	}
	d, err := c.call(request(keyOffsetFetch, append(fields, false, tags{})...))
	if err != nil {
		return err
	}
	var wrong error
	seen, g := 0, from // groups are answered in the order asked
	d.i32()
	d.each(func() {
		name := string(d.str())
		if name != committedGroup(g) {
			wrong = fmt.Errorf("OffsetFetch answers group %q where %q was due", name, committedGroup(g))
		}
		d.each(func() {
			d.str()
			d.each(func() {
				p, offset := d.i32(), d.i64()
				d.i32()
				d.str()
				if code := d.i16(); code == 0 && offset == committedOffset(g, p) {
					seen++
				} else if wrong == nil {
					wrong = fmt.Errorf("OffsetFetch of group %d, partition %d: offset %d, error %d", g, p, offset, code)
				}
			})
		})
		if code := d.i16(); code != 0 {
			wrong = fmt.Errorf("OffsetFetch of group %d: error %d", g, code)
		}
		g++
	})
	if wrong == nil && (seen != n*len(partitions) || d.short) {
		wrong = fmt.Errorf("OffsetFetch answers %d offsets of %d", seen, n*len(partitions))
	}
	return wrong
}

// group is a classic group and its members: member i sits on connection i, and member 0 was the first.
type group struct {
	name       string
	seats      []*conn
	ids        []string
	generation int32
}

// form makes a stable group with a member on each connection. A broker that has given out a member id waits for its
// JoinGroup, so it does not matter which of the JoinGroups below arrives first.
func form(name string, seats []*conn) (*group, error) {
	g := &group{name: name, seats: seats}
	if err := g.first(); err != nil {
		return nil, err
	}
	for range seats[1:] {
		if err := g.enter(); err != nil {
			return nil, err
		}
	}
	for i := len(seats) - 1; i >= 0 && len(seats) > 1; i-- {
		if err := g.join(i); err != nil {
			return nil, err
		}
	}
	if len(seats) > 1 {
		return g, g.settle()
	}
	return g, nil
}

func (g *group) first() error {
	if err := g.enter(); err != nil {
		return err
	}
	if err := g.join(0); err != nil {
		return err
	}
	return g.settle()
}

// oneMore lets a newcomer join a stable group, and answers how long it took from the last JoinGroup to the end.
func (g *group) oneMore() (time.Duration, error) {
	if err := g.enter(); err != nil {
		return 0, err
	}
	old := len(g.ids) - 1
	if err := g.join(old); err != nil {
		return 0, err
	}
	for i := range old {
		if err := g.wake(i); err != nil {
			return 0, err
		}
	}
	var began time.Time
	for i := range old {
		began = time.Now()
		if err := g.join(i); err != nil {
			return 0, err
		}
	}
	err := g.settle()
	return time.Since(began), err
}

// wake sends heartbeats until one says that the group rebalances.
func (g *group) wake(seat int) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		code, err := g.seats[seat].code(g.heartbeatFrame(seat))
		if err != nil || code == errRebalancing {
			return err
		}
		if code != 0 {
			return fmt.Errorf("heartbeat: error %d", code)
		}
	}
	return fmt.Errorf("no heartbeat of %s tells of the new member", g.name)
}

// enter asks for the next member's id. A coordinator that is only moving in is asked again.
func (g *group) enter() error {
	c := g.seats[len(g.ids)]
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		d, err := c.call(g.joinFrame(""))
		if err != nil {
			return err
		}
		code, _, _, id := joinAnswer(d)
		switch {
		case code == errMemberIdRequired && id != "":
			g.ids = append(g.ids, id)
			return nil
		case !movingIn(code) || time.Now().After(end):
			return fmt.Errorf("first JoinGroup of %s: error %d where %d was due", g.name, code, errMemberIdRequired)
		}
	}
}

func (g *group) join(seat int) error { return g.seats[seat].send(g.joinFrame(g.ids[seat])) }

// settle takes the answers to all members' JoinGroups in, and lets all of them sync.
func (g *group) settle() error {
	leader := -1
	for i, id := range g.ids {
		d, err := g.seats[i].recv(true)
		if err != nil {
			return err
		}
		code, generation, leaderId, _ := joinAnswer(d)
		if code != 0 || i > 0 && generation != g.generation {
			return fmt.Errorf("JoinGroup of %s: error %d, generation %d after %d", g.name, code, generation, g.generation)
		}
		g.generation = generation
		if id == leaderId {
			leader = i
		}
	}
	for i := range g.ids {
		if err := g.seats[i].send(g.syncFrame(i, i == leader)); err != nil {
			return err
		}
	}
	for i := range g.ids {
		d, err := g.seats[i].recv(true)
		if err != nil {
			return err
		}
		d.i32()
		if code := d.i16(); code != 0 || len(d.str()) == 0 || d.short {
			return fmt.Errorf("SyncGroup of %s, member %d of %d: error %d", g.name, i, len(g.ids), code)
		}
	}
	return nil
}

func (g *group) leave() error {
	fields := []any{g.name, array(len(g.ids))}
	for _, id := range g.ids {
		fields = append(fields, id, null{}, tags{})
	}
	code, err := g.seats[0].code(request(keyLeaveGroup, append(fields, tags{})...))
	if err == nil && code != 0 {
		err = fmt.Errorf("LeaveGroup of %s: error %d", g.name, code)
	}
	return err
}

func (g *group) joinFrame(id string) []byte {
	return request(keyJoinGroup, g.name, int32(sessionMs), int32(rebalanceMs), id, null{}, "consumer", array(1),
		"range", string(subscription), tags{}, tags{})
}

func joinAnswer(d *decoder) (code int16, generation int32, leader, id string) {
	d.i32()
	code, generation = d.i16(), d.i32()
	d.str()
	return code, generation, string(d.str()), string(d.str())
}

// syncFrame hands in an assignment for each member if this one leads.
func (g *group) syncFrame(seat int, leads bool) []byte {
	fields := []any{g.name, g.generation, g.ids[seat], null{}}
	if !leads {
		return request(keySyncGroup, append(fields, array(0), tags{})...)
	}
	fields = append(fields, array(len(g.ids)))
	for _, id := range g.ids {
		fields = append(fields, id, string(assignment), tags{})
	}
	return request(keySyncGroup, append(fields, tags{})...)
}

func (g *group) heartbeatFrame(seat int) []byte {
	return request(keyHeartbeat, g.name, g.generation, g.ids[seat], null{}, tags{})
}

// code calls and returns the error code of an answer that begins with throttle time and error.
func (c *conn) code(frame []byte) (int16, error) {
	d, err := c.call(frame)
	if err != nil {
		return 0, err
	}
	d.i32()
	return d.i16(), nil
}

// findCoordinator asks until there is one: the first group of a broker waits for the offsets topic.
func (c *conn) findCoordinator(group string) error {
	frame := request(keyFindCoordinator, group, int8(0), tags{})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		code, err := c.code(frame)
		if err != nil || code == 0 {
			return err
		}
		if !movingIn(code) || time.Now().After(end) {
			return fmt.Errorf("FindCoordinator: error %d", code)
		}
	}
}

func movingIn(code int16) bool {
	return code == errLoading || code == errNoCoordinator || code == errNotCoordinator
}

// fresh names a group that no run has used before.
func fresh(i int) string { return fmt.Sprintf("%s-%d-%d", *groupPrefix, runId, i) }

var runId = time.Now().UnixNano()

// connectGroups opens connections to a broker that has a coordinator.
func connectGroups(n int) ([]*conn, error) {
	*conns = n
	cs, _, err := connectAll()
	if err == nil {
		err = cs[0].findCoordinator(*groupPrefix)
	}
	return cs, err
}

// together runs n bodies at once and answers the first error.
func together(n int, body func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Add(1)
		go func() {
			defer all.Done()
			errs[i] = body(i)
		}()
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
