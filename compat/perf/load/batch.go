// Record batches, version 2: built once, sent many times; and a cheap walk over what a broker hands back.
//
//	base offset 8 | length 4 | leader epoch 4 | magic 1 | crc 4 | attributes 2 | last delta 4 | first, max time 8 8 |
//	producer id 8, epoch 2, sequence 4 | count 4 | records: length, attributes, time and offset deltas, key, value
package main

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand"
	"time"
)

const (
	batchLengthAt, batchMagicAt, batchCrcAt, batchDeltaAt, batchHeaderBytes = 8, 16, 17, 23, 61

	crcFrom = batchCrcAt + 4 // the checksum covers what follows it
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// buildBatch makes a batch of random bytes, which do not compress, and tells where the last value begins.
func buildBatch(records, valueBytes int) (batch []byte, valueAt int) {
	now := uint64(time.Now().UnixMilli())
	b := make([]byte, batchHeaderBytes)
	b[batchMagicAt] = 2
	big.PutUint32(b[batchDeltaAt:], uint32(records-1))
	big.PutUint64(b[27:], now)
	big.PutUint64(b[35:], now)
	big.PutUint64(b[43:], ^uint64(0))
	big.PutUint16(b[51:], ^uint16(0))
	big.PutUint32(b[53:], ^uint32(0))
	big.PutUint32(b[57:], uint32(records))
	value := make([]byte, valueBytes)
	for i := range records {
		rand.Read(value)
		head := binary.AppendVarint([]byte{0, 0}, int64(i))
		head = binary.AppendVarint(append(head, 1), int64(valueBytes))
		b = binary.AppendVarint(b, int64(len(head)+valueBytes+1))
		b = append(b, head...)
		valueAt = len(b)
		b = append(append(b, value...), 0)
	}
	big.PutUint32(b[batchLengthAt:], uint32(len(b)-12))
	sealBatch(b)
	return b, valueAt
}

func sealBatch(b []byte) { big.PutUint32(b[batchCrcAt:], crc32.Checksum(b[crcFrom:], castagnoli)) }

// walk checks that whole batches follow each other from an offset on, and hands each to the callback. The first may
// begin before the offset; the last may be cut short, as Kafka does at max_bytes.
func walk(b []byte, offset int64, batch func(b []byte)) (next int64, whole int, err error) {
	next = offset
	for len(b)-whole >= batchHeaderBytes {
		at := b[whole:]
		size := 12 + int(big.Uint32(at[batchLengthAt:]))
		if size > len(at) {
			break
		}
		base := int64(big.Uint64(at))
		if at[batchMagicAt] != 2 || size < batchHeaderBytes || base > next || whole > 0 && base != next {
			return next, whole, errors.New("not the batch that was due")
		}
		if batch != nil {
			batch(at[:size])
		}
		next = base + 1 + int64(big.Uint32(at[batchDeltaAt:]))
		whole += size
	}
	return next, whole, nil
}
