package data

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"

	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/atomic"
	"github.com/tunekit/tunekit/formats/fail"
)

const (
	cacheVersion = 2         // of the folder's layout
	maxInfo      = 256 << 20 // bytes of dataset.json
)

// cacheInfo is dataset.json: what the Arrow files must hold.
type cacheInfo struct {
	Version   int      `json:"version"`
	Key       string   `json:"key"`
	Vocab     int      `json:"vocab"`
	MaxLength int      `json:"max_length"`
	Files     []string `json:"files"` // the column file counts in these
	Train     int      `json:"train_samples"`
	Val       int      `json:"val_samples"`
}

// cacheSchema is the table of both files: one sample a row. Tokens take 2 bytes
// where the vocabulary allows.
func cacheSchema(vocab int) *arrow.Schema {
	token := arrow.DataType(arrow.PrimitiveTypes.Int32)
	if vocab > 0 && vocab <= 1<<16 {
		token = arrow.PrimitiveTypes.Uint16
	}
	return arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Uint64},
		{Name: "input_ids", Type: arrow.ListOfNonNullable(token)},
		{Name: "loss", Type: arrow.ListOfNonNullable(arrow.PrimitiveTypes.Int32)}, // start, end, start, end, …
		{Name: "file", Type: arrow.PrimitiveTypes.Int32},
		{Name: "row", Type: arrow.PrimitiveTypes.Int64},
	}, nil)
}

// samplesABatch bounds a record batch of the cache.
const samplesABatch = 4096

// SaveArrow writes the dataset as a folder dir, which must not exist:
// train.arrow and val.arrow (Arrow IPC streams) and dataset.json. The folder
// appears whole. The same dataset gives the same bytes.
func (d *Dataset) SaveArrow(dir string) error {
	f, err := atomic.Dir(dir)
	if err != nil {
		return err
	}
	defer f.Abort()
	info := cacheInfo{Version: cacheVersion, Key: d.Key, Vocab: d.Vocab, MaxLength: d.MaxLength, Train: d.Train.Len(), Val: d.Val.Len()}
	files := map[string]int32{}
	train, err := d.Train.Read(d.Train.Len())
	if err != nil {
		return err
	}
	val, err := d.Val.Read(d.Val.Len())
	if err != nil {
		return err
	}
	for _, ex := range [][]Example{train, val} {
		for i := range ex {
			if _, ok := files[ex[i].From.File]; !ok {
				files[ex[i].From.File] = int32(len(info.Files))
				info.Files = append(info.Files, ex[i].From.File)
			}
		}
	}
	if err := saveSamples(f, "train.arrow", d.Vocab, train, files); err != nil {
		return err
	}
	if err := saveSamples(f, "val.arrow", d.Vocab, val, files); err != nil {
		return err
	}
	b, err := json.MarshalIndent(info, "", " ")
	if err != nil {
		return err
	}
	if err := f.WriteFile("dataset.json", append(b, '\n')); err != nil {
		return err
	}
	return f.Commit()
}

// LoadArrow reads what SaveArrow wrote. Every count, range and token is
// checked, and every sample against its hash: a damaged folder is an error
// that wraps formats.ErrCorrupt.
func LoadArrow(dir string) (d *Dataset, err error) {
	path := filepath.Join(dir, "dataset.json")
	b, err := readInfo(path)
	if err != nil {
		return nil, rows.FileError(path, err)
	}
	var info cacheInfo
	if err := json.Unmarshal(b, &info); err != nil {
		return nil, corrupt(path, "%v", err)
	}
	if info.Version != cacheVersion {
		return nil, corrupt(path, "version %d, this program reads %d", info.Version, cacheVersion)
	}
	d = &Dataset{Key: info.Key, Vocab: info.Vocab, MaxLength: info.MaxLength}
	train, err := loadSamples(filepath.Join(dir, "train.arrow"), &info, info.Train)
	if err != nil {
		return nil, err
	}
	val, err := loadSamples(filepath.Join(dir, "val.arrow"), &info, info.Val)
	d.Train, d.Val = InMemory(train...), InMemory(val...)
	return d, err
}

// readInfo reads at most maxInfo bytes: a longer file is no JSON when cut there.
func readInfo(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxInfo))
}

func corrupt(path, format string, args ...any) error {
	return fail.Inputf(path, "remove the folder and ingest again", "%w: %s", formats.ErrCorrupt, fmt.Sprintf(format, args...))
}

func loadSamples(path string, info *cacheInfo, n int) (ex []Example, err error) {
	defer func() {
		if r := recover(); r != nil { // the Arrow library on a damaged file
			err = corrupt(path, "%v", r)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return nil, rows.FileError(path, err)
	}
	defer f.Close()
	r, total, err := rows.ArrowBatches(f)
	if err != nil {
		return nil, corrupt(path, "%v", err)
	}
	defer r.Release()
	if !r.Schema().Equal(cacheSchema(info.Vocab)) {
		return nil, corrupt(path, "columns are %v", r.Schema().Fields())
	}
	if total != int64(n) {
		return nil, corrupt(path, "%d samples, dataset.json says %d", total, n)
	}
	ex = make([]Example, 0, n)
	for r.Next() {
		rec := r.Record()
		for i := range int(rec.NumRows()) {
			e, err := sampleOf(rec, i, info)
			if err != nil {
				return nil, corrupt(path, "sample %d: %v", len(ex), err)
			}
			ex = append(ex, e)
		}
	}
	if err := r.Err(); err != nil && err != io.EOF {
		return nil, corrupt(path, "%v", err)
	}
	if len(ex) != n {
		return nil, corrupt(path, "%d samples, dataset.json says %d", len(ex), n)
	}
	return ex, nil
}

// sampleOf reads row i of a batch and checks it.
func sampleOf(rec arrow.Record, i int, info *cacheInfo) (Example, error) {
	ids, loss := int32s(rec.Column(1), i), int32s(rec.Column(2), i)
	file := int(rec.Column(3).(*array.Int32).Value(i))
	if file < 0 || file >= len(info.Files) || len(loss)%2 != 0 || len(ids) > info.MaxLength {
		return Example{}, fmt.Errorf("file %d, %d numbers of ranges, %d tokens", file, len(loss), len(ids))
	}
	e := Example{ID: rec.Column(0).(*array.Uint64).Value(i), IDs: ids, From: RowRef{info.Files[file], rec.Column(4).(*array.Int64).Value(i)}}
	for _, id := range ids {
		if id < 0 || info.Vocab > 0 && int(id) >= info.Vocab {
			return Example{}, fmt.Errorf("token %d of a vocabulary of %d", id, info.Vocab)
		}
	}
	end := int32(-1)
	for k := 0; k < len(loss); k += 2 {
		if loss[k] <= end || loss[k] >= loss[k+1] || int(loss[k+1]) > len(ids) {
			return Example{}, fmt.Errorf("range %d–%d", loss[k], loss[k+1])
		}
		end = loss[k+1]
		e.Loss = append(e.Loss, [2]int32{loss[k], loss[k+1]})
	}
	if contentID(e.IDs, e.Loss) != e.ID {
		return Example{}, fmt.Errorf("content does not fit its hash")
	}
	return e, nil
}
