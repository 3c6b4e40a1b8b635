package host

import "fmt"

// StreamImage is a stream that the control plane serves to a host. Its header is an ImageRequest; the control plane
// writes the asked bytes of the image's raw content and closes. Any host that has joined may read any image whose digest
// it names: a digest is learnt from a desired document only.
const StreamImage = "image"

// ErrorImageAbsent is the code (of an rpc.Error) that ends a StreamImage when the control plane has no such content:
// asking again is of no use. A host reports CodeImage then.
const ErrorImageAbsent = 1000

// ImageRequest is the header of a StreamImage stream.
type ImageRequest struct {
	SHA256 string `cbor:"1,keyasint,omitempty"` // of the whole raw content; see IsDigest
	Offset uint64 `cbor:"2,keyasint,omitempty"` // of the first byte, for going on after a transfer that broke
	Bytes  uint64 `cbor:"3,keyasint,omitempty"` // how many; at least 1
}

// Validate refuses a request that no image could answer. The digest becomes a file name.
func (r *ImageRequest) Validate() error {
	const most = uint64(MaxRootDiskGiB) << 30
	switch {
	case !IsDigest(r.SHA256):
		return fmt.Errorf("validate image request: digest %.80q: want 64 lower-case hexadecimal digits", r.SHA256)
	case r.Bytes == 0 || r.Bytes > most || r.Offset > most-r.Bytes:
		return fmt.Errorf("validate image request: %d bytes at %d: want at least 1, and none beyond %d", r.Bytes, r.Offset, most)
	}
	return nil
}
