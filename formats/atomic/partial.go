package atomic

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/tunekit/tunekit/formats/fail"
)

// Plan is the shape of an artifact that is written in pieces over more than one
// run: its files and their sizes, known before the first byte.
type Plan struct {
	ID    string // a hash of everything that shapes the bytes; another ID starts anew
	Files []PlanFile
	Dir   bool // the path becomes a folder of Files; else the one file itself
}

// PlanFile is one file of a Plan. Name is ignored when Dir is false.
type PlanFile struct {
	Name string
	Size int64
}

// Piece is a run of bytes of one file of the plan.
type Piece struct {
	File int
	Off  int64
	Data []byte
}

// Partial is an artifact that survives its writer: it lies in path.part with a
// journal of finished keys and their hashes until Commit. A new writer with the
// same Plan finds the keys whose bytes are intact, whatever killed the old one.
// Write may be called from several goroutines.
type Partial struct {
	d       Disk
	path    string
	plan    Plan
	journal File
	mu      sync.Mutex
	done    map[string]record
	end     int64 // length of the journal
	err     error
	ended   bool
	kept    bool // the journal holds work of before, or may
}

// record is a line of the journal.
type record struct {
	Key    string     `json:"key"`
	SHA256 string     `json:"sha256"`
	Pieces [][3]int64 `json:"pieces"` // file, offset, length
}

type header struct {
	Partial int    `json:"tunekit_partial"`
	ID      string `json:"id"`
}

const (
	partSuffix  = ".part"
	journalName = "journal"
	dataName    = "data"
	maxJournal  = 1 << 30
)

// Resume opens the partial artifact of path, or starts one. It refuses a path
// that another process is writing, and for folders one that is occupied.
func Resume(path string, plan Plan) (*Partial, error) { return machine.Resume(path, plan) }

// Resume is the function Resume on this Disk.
func (d Disk) Resume(path string, plan Plan) (*Partial, error) {
	path = filepath.Clean(path)
	if err := d.refuse(path, plan); err != nil {
		return nil, err
	}
	p := &Partial{d: d, path: path, plan: plan, done: map[string]record{}}
	if err := p.lock(); err != nil {
		return nil, failed(path, "opening its unfinished part", err)
	}
	if err := p.load(); err != nil {
		if p.kept {
			p.journal.Close()
		} else { // nothing to go on with
			p.Abort()
		}
		return nil, failed(path, "preparing its unfinished part", err)
	}
	return p, nil
}

func (d Disk) refuse(path string, plan Plan) error {
	st, err := d.FS.Lstat(path)
	switch {
	case plan.Dir && d.occupied(path):
		return failed(path, "creating", fmt.Errorf("%w and is not an empty folder", fs.ErrExist))
	case err == nil && !plan.Dir && st.IsDir():
		return failed(path, "creating", errors.New("a folder has this name"))
	}
	return Ordinary(path)
}

func (p *Partial) part(name string) string { return filepath.Join(p.path+partSuffix, name) }

// file is the present path of a file of the plan.
func (p *Partial) file(i int) string {
	if p.plan.Dir {
		return filepath.Join(p.part(dataName), p.plan.Files[i].Name)
	}
	return p.part(dataName)
}

// open opens a file of the plan, which must be one of its own: in a folder that
// others may write to, a link in its place would lead the writing elsewhere.
func (p *Partial) open(i, flag int) (File, error) {
	f, err := p.d.FS.OpenFile(p.file(i), flag|noFollow, 0o666)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || links(st) > 1) {
		err = fmt.Errorf("%s is a link or no regular file; remove %s", p.file(i), p.path+partSuffix)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// lock makes path.part and takes the journal's lock.
func (p *Partial) lock() error {
	for range 100 {
		dir := p.path + partSuffix
		if err := p.d.FS.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		st, err := p.d.FS.Lstat(dir)
		if err == nil && !st.IsDir() {
			return fmt.Errorf("%s is in the way", dir)
		}
		if err == nil && foreign(st) {
			return fmt.Errorf("%s belongs to another user, who could change what is written; remove it or write elsewhere", dir)
		}
		f, err := p.d.FS.OpenFile(p.part(journalName), os.O_RDWR|os.O_CREATE, 0o666)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed between the two calls by a writer that finished
		}
		if err != nil {
			return err
		}
		ok, err := f.TryLock()
		if err != nil {
			f.Close()
			return err
		}
		if !ok {
			f.Close()
			return fail.Inputf(p.path, "wait for it, or end it", "another process is writing it")
		}
		if p.d.same(f, p.part(journalName)) {
			p.journal = f
			return nil
		}
		f.Close()
	}
	return errors.New("the unfinished part keeps changing")
}

// load reads the journal and keeps what the files bear out.
func (p *Partial) load() error {
	p.kept = true
	records, err := p.readJournal()
	if err != nil {
		return err
	}
	p.kept = len(records) > 0
	if records == nil {
		if err := p.reset(); err != nil {
			return err
		}
	}
	if err := p.files(); err != nil {
		return err
	}
	for key, r := range records {
		if p.intact(r) {
			p.done[key] = r
		}
	}
	return nil
}

// readJournal returns the last record of every key, nil when the journal is of
// another plan or none. The journal's end is set behind its last whole line.
func (p *Partial) readJournal() (map[string]record, error) {
	st, err := p.journal.Stat()
	if err != nil || st.Size() > maxJournal {
		return nil, err
	}
	r := bufio.NewReader(io.NewSectionReader(p.journal, 0, st.Size()))
	line, err := r.ReadBytes('\n')
	var h header
	if err != nil || json.Unmarshal(line, &h) != nil || h.Partial != 1 || h.ID != p.plan.ID {
		return nil, nil
	}
	p.end = int64(len(line))
	out := map[string]record{}
	for {
		line, err := r.ReadBytes('\n')
		var rec record
		if err != nil || json.Unmarshal(line, &rec) != nil {
			return out, nil
		}
		p.end += int64(len(line))
		out[rec.Key] = rec
	}
}

// reset drops what another plan left and begins the journal.
func (p *Partial) reset() error {
	if err := p.d.FS.RemoveAll(p.part(dataName)); err != nil {
		return err
	}
	if err := p.journal.Truncate(0); err != nil {
		return err
	}
	line, err := json.Marshal(header{1, p.plan.ID})
	if err != nil {
		return err
	}
	p.end = 0
	return p.append(line)
}

// files makes the files of the plan that are missing or of another size.
func (p *Partial) files() error {
	if p.plan.Dir {
		if err := p.d.FS.Mkdir(p.part(dataName), 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for i, f := range p.plan.Files {
		if err := p.reserve(i, f.Size); err != nil {
			return failed(p.path, fmt.Sprintf("reserving %d bytes", f.Size), err)
		}
	}
	return nil
}

func (p *Partial) reserve(i int, size int64) error {
	f, err := p.open(i, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > size {
		err = f.Truncate(size)
	}
	if err == nil && st.Size() < size {
		err = f.Allocate(size)
	}
	return errors.Join(err, f.Close())
}

// intact reports whether the pieces of r lie in the plan and have r's hash.
func (p *Partial) intact(r record) bool {
	h := sha256.New()
	for _, q := range r.Pieces {
		file, off, n := q[0], q[1], q[2]
		if file < 0 || file >= int64(len(p.plan.Files)) {
			return false
		}
		size := p.plan.Files[file].Size
		if off < 0 || n < 0 || n > size || off > size-n {
			return false
		}
		f, err := p.open(int(file), os.O_RDONLY)
		if err != nil {
			return false
		}
		_, err = io.Copy(h, io.NewSectionReader(f, off, n))
		f.Close()
		if err != nil {
			return false
		}
	}
	return hex.EncodeToString(h.Sum(nil)) == r.SHA256
}

// Has reports whether key was finished, in this run or before.
func (p *Partial) Has(key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.done[key]
	return ok
}

// Write stores the pieces of key and then records it as finished. The pieces of
// all keys must be disjoint. The first error is kept and returned by Commit.
func (p *Partial) Write(key string, pieces ...Piece) error {
	if err := p.failure(); err != nil {
		return err
	}
	h := sha256.New()
	rec := record{Key: key, Pieces: [][3]int64{}}
	for _, q := range pieces {
		if err := p.put(q); err != nil {
			return p.keep(failed(p.path, "writing "+key, err))
		}
		h.Write(q.Data)
		rec.Pieces = append(rec.Pieces, [3]int64{int64(q.File), q.Off, int64(len(q.Data))})
	}
	rec.SHA256 = hex.EncodeToString(h.Sum(nil))
	line, err := json.Marshal(rec)
	if err != nil {
		return p.keep(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return fs.ErrClosed
	}
	if err := p.append(line); err != nil {
		p.err = failed(p.path, "recording "+key, err)
		return p.err
	}
	p.done[key] = rec
	return nil
}

func (p *Partial) put(q Piece) error {
	size := p.plan.Files[q.File].Size
	if n := int64(len(q.Data)); q.Off < 0 || n > size || q.Off > size-n {
		return fmt.Errorf("%d bytes at %d lie outside a file of %d", n, q.Off, size)
	}
	f, err := p.open(q.File, os.O_RDWR)
	if err != nil {
		return err
	}
	n, err := f.WriteAt(q.Data, q.Off)
	if err == nil && n != len(q.Data) {
		err = io.ErrShortWrite
	}
	return errors.Join(err, f.Close())
}

// append writes one line behind the journal's last whole one.
func (p *Partial) append(line []byte) error {
	line = append(bytes.Clone(line), '\n')
	if n, err := p.journal.WriteAt(line, p.end); err != nil || n != len(line) {
		return errors.Join(err, io.ErrShortWrite)
	}
	p.end += int64(len(line))
	return nil
}

// ReadAt reads bytes of a file of the plan that were written before.
func (p *Partial) ReadAt(file int, b []byte, off int64) error {
	f, err := p.open(file, os.O_RDONLY)
	if err != nil {
		return failed(p.path, "reading back", err)
	}
	_, err = io.ReadFull(io.NewSectionReader(f, off, int64(len(b))), b)
	return failed(p.path, "reading back", errors.Join(err, f.Close()))
}

func (p *Partial) keep(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	return err
}

func (p *Partial) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return fs.ErrClosed
	}
	return p.err
}

// Commit syncs everything and publishes the artifact. The caller has written
// every key; sizes are checked here. After an error the unfinished part stays,
// unless a file could not be synced: then nothing of it can be trusted.
func (p *Partial) Commit() error {
	if err := p.failure(); err != nil {
		return failed(p.path, "committing", err)
	}
	for i, f := range p.plan.Files {
		if err := p.sync(i, f.Size); err != nil {
			p.Abort() // what a failed sync left in memory must not pass for written
			return failed(p.path, "syncing", err)
		}
	}
	if p.plan.Dir {
		if err := p.d.FS.SyncDir(p.part(dataName)); err != nil {
			return failed(p.path, "syncing", err)
		}
	}
	if err := p.rename(); err != nil {
		return failed(p.path, "renaming", err)
	}
	p.ended = true
	err := p.d.FS.SyncDir(filepath.Dir(p.path))
	p.d.FS.RemoveAll(p.path + partSuffix)
	p.journal.Close()
	return failed(p.path, "syncing the folder above", err)
}

func (p *Partial) rename() error {
	if p.plan.Dir {
		return p.d.publish(p.part(dataName), p.path)
	}
	return p.d.FS.Rename(p.part(dataName), p.path)
}

func (p *Partial) sync(i int, size int64) error {
	f, err := p.open(i, os.O_RDWR)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.Size() != size {
		err = fmt.Errorf("%s has %d bytes, %d were planned", p.file(i), st.Size(), size)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Suspend closes the unfinished artifact and leaves it for the next Resume.
func (p *Partial) Suspend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	p.ended = true
	return failed(p.path, "closing its unfinished part", p.journal.Close())
}

// Abort removes the unfinished artifact; after Commit or Suspend it does nothing.
func (p *Partial) Abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	p.d.FS.RemoveAll(p.path + partSuffix)
	p.journal.Close()
}

// published reports whether a part folder has lost its data to the artifact.
func (d Disk) published(part string) bool {
	_, err := d.FS.Lstat(filepath.Join(part, dataName))
	return errors.Is(err, fs.ErrNotExist)
}
