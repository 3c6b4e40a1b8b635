package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	links "github.com/nimbrel/nimbrel/dispatch/server"
	"github.com/nimbrel/nimbrel/host"
	"github.com/nimbrel/nimbrel/image"
	images "github.com/nimbrel/nimbrel/image/server"
	"github.com/nimbrel/nimbrel/rpc"
)

const (
	// imageBlock is how much of an image is read and written at once.
	imageBlock = 256 << 10
	// imageWriteTimeout bounds how long a host may take to read one block, so that one that does not read holds no stream.
	imageWriteTimeout = time.Minute
)

// serveImages answers hosts that fetch images. Being a joined host is all that is asked of them: they name content by its
// digest, which they learn from their documents.
func serveImages(images *images.Service) links.StreamHandler {
	return func(ctx context.Context, target string, stream net.Conn, header []byte) error {
		request, err := host.Decode[host.ImageRequest](header)
		if err == nil {
			err = request.Validate()
		}
		if err != nil {
			return &rpc.Error{Code: rpc.CodeInvalid, Message: err.Error()}
		}
		content, size, err := images.Open(request.SHA256)
		if errors.Is(err, image.ErrNoContent) {
			return &rpc.Error{Code: host.ErrorImageAbsent, Message: err.Error()}
		}
		if err != nil {
			return err
		}
		defer content.Close()
		if request.Bytes > size || request.Offset > size-request.Bytes {
			return &rpc.Error{Code: rpc.CodeInvalid, Message: fmt.Sprintf("%d bytes at %d of image %s: it has %d", request.Bytes, request.Offset, request.SHA256, size)}
		}
		return sendImage(stream, content, request)
	}
}

func sendImage(stream net.Conn, content io.ReadSeeker, request host.ImageRequest) error {
	if _, err := content.Seek(int64(request.Offset), io.SeekStart); err != nil {
		return fmt.Errorf("read image %s: %w", request.SHA256, err)
	}
	block := make([]byte, imageBlock)
	for left := request.Bytes; left > 0; {
		n, err := io.ReadFull(content, block[:min(left, imageBlock)])
		if err != nil {
			return fmt.Errorf("read image %s: %w", request.SHA256, err)
		}
		if err := stream.SetWriteDeadline(time.Now().Add(imageWriteTimeout)); err != nil {
			return err
		}
		if _, err := stream.Write(block[:n]); err != nil {
			return fmt.Errorf("send image %s: %w", request.SHA256, err)
		}
		left -= uint64(n)
	}
	return nil
}
