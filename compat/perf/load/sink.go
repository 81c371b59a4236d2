// The sink: a server that answers each request at once and stores nothing. What the load reaches against it is the
// load's own ceiling. A fetch gets the same prepared batches always, renumbered to follow the offset asked for.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
)

const sinkEnd = 1 << 40 // the end offset of each of its partitions

func sinkMode() (*Result, error) {
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		return nil, err
	}
	batch, _ := buildBatch(*recordsPerBatch, *recordBytes)
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		go serve(&conn{Conn: c, r: bufio.NewReaderSize(c, 32<<10)}, batch)
	}
}

func serve(c *conn, batch []byte) {
	defer c.Close()
	var head [4]byte
	var frame, reply []byte
	for {
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return
		}
		frame = append(frame[:0], make([]byte, big.Uint32(head[:]))...)
		if _, err := io.ReadFull(c.r, frame); err != nil {
			return
		}
		e := &encoder{b: append(append(reply[:0], 0, 0, 0, 0), frame[4:8]...)}
		answer(e, frame, batch)
		reply = e.b
		big.PutUint32(reply, uint32(len(reply)-4))
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// answer writes the least that the load accepts: one topic, one partition; Metadata has as many as a row may ask for.
func answer(e *encoder, frame, batch []byte) {
	fromEnd := func(n int) []byte { return frame[len(frame)-n:] }
	switch int16(big.Uint16(frame)) {
	case keyApiVersions:
		e.put(int16(0), array(0), int32(0), tags{})
	case keyCreateTopics:
		e.put(tags{}, int32(0), array(1), *topic, zeros[:], int16(0))
	case keyMetadata:
		e.put(tags{}, int32(0), array(0), null{}, int32(0), array(1), int16(0), null{}, zeros[:], false, array(64))
		for p := range int32(64) {
			e.put(int16(0), p, int32(0), int32(0), array(0), array(0), array(0), tags{})
		}
		e.put(int32(0), tags{}, tags{})
	case keyListOffsets: // its last fields: timestamp 8, three ends of structures
		timestamp := int64(big.Uint64(fromEnd(11)))
		e.put(tags{}, int32(0), array(1), *topic, array(1), int32(0), int16(0), int64(0), (timestamp+2)*sinkEnd)
	case keyProduce:
		e.put(tags{}, array(1), *topic, array(1), int32(0), int16(0), int64(0), int64(-1), int64(0), array(0), null{},
			tags{}, tags{}, int32(0), tags{})
	case keyFetch: // its last fields: offset 8, epoch 4, log start 8, limit 4, five ends and empty fields
		sinkFetch(e, int64(big.Uint64(fromEnd(29))), int(big.Uint32(fromEnd(9))), batch)
	}
}

func sinkFetch(e *encoder, offset int64, room int, batch []byte) {
	n := max(1, room/len(batch))
	e.put(tags{}, int32(0), int16(0), int32(0), array(1), *topic, array(1), int32(0), int16(0), int64(sinkEnd),
		int64(sinkEnd), int64(0), null{}, int32(-1), array(n*len(batch)))
	for i := range n {
		e.b = append(e.b, batch...)
		big.PutUint64(e.b[len(e.b)-len(batch):], uint64(offset)+uint64(i**recordsPerBatch))
	}
	e.put(tags{}, tags{}, tags{})
}
