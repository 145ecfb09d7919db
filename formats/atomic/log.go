package atomic

import (
	"bytes"
	"errors"
	"os"
	"sync"
)

// Log is a file of lines that grows, such as metrics.jsonl. Lines are written
// whole, one call each. It is safe for concurrent use.
type Log struct {
	mu   sync.Mutex
	path string
	f    File
}

// OpenLog opens or creates a log for appending. A torn last line, left by a
// writer that was killed, is dropped first.
func OpenLog(path string) (*Log, error) { return machine.OpenLog(path) }

// OpenLog is the function OpenLog on this Disk.
func (d Disk) OpenLog(path string) (*Log, error) {
	if old, err := os.ReadFile(path); err == nil && len(old) > 0 && old[len(old)-1] != '\n' {
		if err := d.WriteFile(path, old[:bytes.LastIndexByte(old, '\n')+1]); err != nil {
			return nil, err
		}
	}
	f, err := d.FS.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return nil, failed(path, "opening the log", err)
	}
	return &Log{path: path, f: f}, nil
}

// Extend makes the file at path hold data: what it lacks at its end is appended, so that
// who has it open sees it grow; a file that holds something else is replaced.
func Extend(path string, data []byte) error { return machine.Extend(path, data) }

// Extend is the function Extend on this Disk.
func (d Disk) Extend(path string, data []byte) error {
	old, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(data, old) {
		return d.WriteFile(path, data)
	}
	if len(old) == len(data) {
		return nil
	}
	f, err := d.FS.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return failed(path, "opening it to go on", err)
	}
	_, err = f.Write(data[len(old):])
	return failed(path, "going on with it", errors.Join(err, f.Sync(), f.Close()))
}

// WriteLine appends line and a newline. line must hold none.
func (l *Log) WriteLine(line []byte) error {
	if bytes.IndexByte(line, '\n') >= 0 {
		return failed(l.path, "writing the log", errors.New("a line holds a newline"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.f.Write(append(bytes.Clone(line), '\n'))
	return failed(l.path, "writing the log", err)
}

// Sync makes the lines durable.
func (l *Log) Sync() error { return failed(l.path, "syncing the log", l.f.Sync()) }

// Close syncs and closes the log.
func (l *Log) Close() error {
	return failed(l.path, "closing the log", errors.Join(l.f.Sync(), l.f.Close()))
}
