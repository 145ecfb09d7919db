// Package atomic is the only writer of files. A path it writes holds the
// complete file or folder, synced to disk, or nothing; never a part.
//
// The sequence is always: a temporary name in the same folder, preallocation
// where the size is known, a count of the bytes, fsync, close, rename, fsync of
// the folder. A failed fsync is never retried. Temporary files are locked while
// their writer lives; those of dead writers are removed by the next one.
package atomic

import "io"

// Write is one file being written. It is not safe for concurrent use.
type Writer interface {
	io.Writer
	// Commit publishes the file.
	Commit() error
	// Abort removes it; after Commit it does nothing.
	Abort()
}
