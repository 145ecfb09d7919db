package formats

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// HashFile is the SHA-256 of a file's content in hexadecimal. It stops with
// ctx's error when ctx ends.
func HashFile(ctx context.Context, path string) (string, error) {
	f, err := openSource(path)
	if err != nil {
		return "", err
	}
	defer f.close()
	if err := f.absent(); err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 1<<18)
	for {
		n, err := f.f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", err
		}
	}
}
