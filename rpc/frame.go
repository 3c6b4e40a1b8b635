package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Version is the version of the wire form. History: 0, the first form.
const Version = 0

// headerBytes is the size of a frame's header, all fields little-endian:
//
//	 0  u32  length of the body
//	 4  u8   version
//	 5  u8   type
//	 6  u16  flags
//	 8  u64  id of the request or stream
//	16  u32  method
//	20  u32  argument: time left in ms (request), status (response), credit in bytes (window, stream open)
//	24  u32  CRC32C of the body
//	28  u32  CRC32C of the 28 bytes before
const headerBytes = 32

// MaxBodyBytes bounds the body of any frame.
const MaxBodyBytes = 1 << 20

type frameType uint8

const (
	frameHello        frameType = 1 + iota
	frameRequest                // id, method, argument = time left in ms (0: none given)
	frameResponse               // id, argument = status
	frameOneway                 // method
	frameCancel                 // id of the request
	framePing                   // id is echoed
	framePong                   //
	frameDrain                  // the sender takes no new requests or streams
	frameStreamOpen             // id, method = length of the name, argument = credit; body = name, then header
	frameStreamReady            // id, argument = credit: the other end serves this stream
	frameStreamData             // id
	frameStreamCredit           // id, argument = further credit
	frameStreamEnd              // id: the sender writes no more
	frameStreamReset            // id, body = reason: both directions are over
	frameTypeEnd
)

type frame struct {
	Type   frameType
	Flags  uint16
	ID     uint64
	Method uint32
	Arg    uint32
	Body   []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errFrame = errors.New("malformed frame")

// appendFrame appends the frame's wire form to b.
func appendFrame(b []byte, f *frame) []byte {
	start := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Body)))
	b = append(b, Version, byte(f.Type))
	b = binary.LittleEndian.AppendUint16(b, f.Flags)
	b = binary.LittleEndian.AppendUint64(b, f.ID)
	b = binary.LittleEndian.AppendUint32(b, f.Method)
	b = binary.LittleEndian.AppendUint32(b, f.Arg)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(f.Body, castagnoli))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:start+28], castagnoli))
	return append(b, f.Body...)
}

// readFrame reads one frame. Nothing of the header is used before its checksum held, and nothing is allocated for a
// length beyond maxBody. The body is fresh memory that the caller owns.
func readFrame(r io.Reader, maxBody int) (frame, error) {
	var h [headerBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	le := binary.LittleEndian
	if sum := crc32.Checksum(h[:28], castagnoli); sum != le.Uint32(h[28:]) {
		return frame{}, fmt.Errorf("%w: header checksum is %08x, computed %08x", errFrame, le.Uint32(h[28:]), sum)
	}
	if h[4] != Version {
		return frame{}, fmt.Errorf("%w: version %d, this end speaks %d", errFrame, h[4], Version)
	}
	f := frame{Type: frameType(h[5]), Flags: le.Uint16(h[6:]), ID: le.Uint64(h[8:]), Method: le.Uint32(h[16:]), Arg: le.Uint32(h[20:])}
	if f.Type == 0 || f.Type >= frameTypeEnd {
		return frame{}, fmt.Errorf("%w: unknown type %d", errFrame, f.Type)
	}
	length := le.Uint32(h[0:])
	if uint64(length) > uint64(maxBody) {
		return frame{}, fmt.Errorf("%w: body of %d bytes, limit %d", errFrame, length, maxBody)
	}
	if length > 0 {
		f.Body = make([]byte, length)
		if _, err := io.ReadFull(r, f.Body); err != nil {
			return frame{}, noEOF(err)
		}
	}
	if sum := crc32.Checksum(f.Body, castagnoli); sum != le.Uint32(h[24:]) {
		return frame{}, fmt.Errorf("%w: body checksum is %08x, computed %08x", errFrame, le.Uint32(h[24:]), sum)
	}
	return f, nil
}

// noEOF turns an end in the middle of a frame into what it is.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
