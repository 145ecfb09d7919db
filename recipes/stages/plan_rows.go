package stages

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
)

// rowsPlan is what is known of an ingest's rows.
type rowsPlan struct {
	sampled     int // rows looked at; 0: all, the ingest has run
	rows        int64
	tokens      int64
	supervised  int64
	train, val  int64 // samples
	trainTokens int64
	valTokens   int64
	bins        int64 // packed rows of max_length
	maxLength   int
	longest     int
	over        int64 // rows longer than max_length
	bad         int64 // rows that are left out
	seconds     float64
	unknown     string        // why nothing is known
	dataset     *data.Dataset // when the ingest has run
	examples    data.Examples // of the sample
	packing     string
	shuffle     bool
}

func (r *rowsPlan) mean() int {
	if r.train+r.val == 0 {
		return max(1, r.maxLength/2)
	}
	return max(1, int((r.trainTokens+r.valTokens)/(r.train+r.val)))
}

// planRows is how many rows of each source are looked at.
const planRows = 2000

// rowsOf finds out about the rows of an ingest stage.
func rowsOf(p *recipes.Planner, id string) (*rowsPlan, error) {
	return recipes.Once(p, "rows of "+id, func() (*rowsPlan, error) { return lookAtRows(p, p.Env.Job(id)) })
}

func lookAtRows(p *recipes.Planner, j *recipes.Job) (*rowsPlan, error) {
	if res := p.Done(j); res != nil {
		return knownRows(p, j, res.Left.(*data.Report))
	}
	o := j.Options.(*Ingest)
	r := &rowsPlan{maxLength: o.MaxLength, packing: o.Packing, shuffle: o.Shuffle == nil || *o.Shuffle}
	ref, _ := j.In("tokenizer")
	if r.unknown = notLooked(p, ref); r.unknown != "" {
		return r, nil
	}
	opts, tok, tmpl, err := ingestParts(p.Env, j)
	if err != nil {
		return nil, err
	}
	return r, r.sample(p, opts, tok, tmpl)
}

// notLooked says why rows cannot be looked at that a model's tokenizer is to read; ""
// where they can.
func notLooked(p *recipes.Planner, model recipes.Ref) string {
	switch {
	case model.Stage != "" && p.Done(p.Env.Job(model.Stage)) == nil:
		return "its tokenizer comes from " + model.Stage + ", which has not run"
	case p.Quick:
		return "not looked at"
	}
	return ""
}

// rowsFor finds out about the rows of the ingest stage, the folder or the file that a
// stage names, as dataset will load them.
func rowsFor(p *recipes.Planner, ref, model recipes.Ref) (*rowsPlan, error) {
	if ref.Stage != "" {
		return rowsOf(p, ref.Stage)
	}
	return recipes.Once(p, fmt.Sprint("rows of ", ref.Path, " for ", model), func() (*rowsPlan, error) { return pathPlan(p, ref.Path, model) })
}

// pathPlan finds out about the rows of a path, as pathRows reads them.
func pathPlan(p *recipes.Planner, path string, model recipes.Ref) (*rowsPlan, error) {
	local, err := recipes.ResolvePath(path)
	if err != nil {
		return nil, err
	}
	r := &rowsPlan{maxLength: 2048, packing: defaultPacking, shuffle: true}
	if r.unknown = notLooked(p, model); r.unknown != "" {
		return r, nil
	}
	if data.IsCache(local) {
		ds, err := loadFor(local, p.Env.Path(model))
		if err != nil {
			return nil, err
		}
		r.known(ds)
		r.rows = r.train + r.val
		return r, nil
	}
	tok, src, err := ingestTokenizer(p.Env.Path(model))
	if err != nil {
		return nil, err
	}
	defer src.Close()
	o := fileOptions(local, path, p.Env.Seed())
	o.ForModel(src.Spec.Trained(), src.Spec.V, src.Spec.Encoder > 0)
	tmpl, err := templateOf(tok, "")
	if err != nil {
		return nil, err
	}
	return r, r.sample(p, o, tok, tmpl)
}

// known takes over what a dataset says that is there.
func (r *rowsPlan) known(ds *data.Dataset) {
	r.train, r.trainTokens = int64(ds.Train.Len()), lengths(ds.Train)
	r.val, r.valTokens = int64(ds.Val.Len()), lengths(ds.Val)
	r.tokens = r.trainTokens + r.valTokens
	r.maxLength, r.dataset, r.examples = ds.MaxLength, ds, ds.Train
	r.bins = int64(data.Bins(ds.Train, ds.MaxLength))
}

// lengths is the number of tokens of all samples.
func lengths(ex data.Examples) (total int64) {
	for i := range ex.Len() {
		n, _ := ex.Size(i)
		total += int64(n)
	}
	return total
}

// knownRows are those of an ingest that has run.
func knownRows(p *recipes.Planner, j *recipes.Job, rep *data.Report) (*rowsPlan, error) {
	ds, err := data.LoadArrow(p.Env.Dir(j))
	if err != nil {
		return nil, err
	}
	o := j.Options.(*Ingest)
	r := &rowsPlan{rows: rep.Rows, supervised: rep.TrainSupervised + rep.ValSupervised, longest: rep.Longest,
		packing: o.Packing, shuffle: o.Shuffle == nil || *o.Shuffle}
	r.known(ds)
	return r, nil
}

// packedBins is the number of rows of most tokens that packing makes of by times as
// many samples.
func packedBins(ex data.Examples, most int, by float64) int64 {
	lengths := make([]int, ex.Len())
	for i := range lengths {
		n, _ := ex.Size(i)
		lengths[i] = min(n, most)
	}
	bins := data.PackBFD(lengths, most)
	if by == 1 || len(bins) == 0 {
		return int64(len(bins))
	}
	fullest := 0
	for _, b := range bins[:max(1, len(bins)-1)] { // the last bin is only as full as the sample was long
		for _, i := range b {
			fullest += lengths[i]
		}
	}
	fill := float64(fullest) / float64(max(1, len(bins)-1)) / float64(most)
	total := 0
	for _, n := range lengths {
		total += n
	}
	return int64(math.Ceil(float64(total) * by / (float64(most) * min(1, max(fill, 0.5)))))
}

// sample reads the first rows as the stage will, errors included, and takes the
// rest to be like them.
func (r *rowsPlan) sample(p *recipes.Planner, o data.Options, tok *tokenizer.Tokenizer, tmpl *chat.Template) error {
	asked := o
	apart, err := countAll(o.ValDatasets) // held back in files of their own
	if err != nil {
		return err
	}
	total, err := countAll(o.Datasets)
	if err != nil {
		return err
	}
	o.ValSetSize, o.ValDatasets, o.DecontaminateAgainst = "0", nil, nil
	o.Datasets = slices.Clone(o.Datasets)
	for i := range o.Datasets {
		if m := o.Datasets[i].MaxSamples; m == 0 || m > planRows {
			o.Datasets[i].MaxSamples = planRows
		}
	}
	began := time.Now()
	ds, rep, err := data.Ingest(p.Context, o, tok, tmpl, nil)
	if err != nil {
		return err
	}
	if rep.Rows == 0 {
		return fail.Inputf(o.Datasets[0].Path, "", "no rows")
	}
	by := max(1, float64(total)/float64(rep.Rows))
	r.sampled, r.rows = int(rep.Rows), int64(float64(rep.Rows)*by+0.5)
	r.seconds = time.Since(began).Seconds() * by
	r.tokens, r.supervised = int64(by*float64(rep.TrainTokens)), int64(by*float64(rep.TrainSupervised))
	r.bad = int64(by*float64(rep.Dropped["bad_row"]) + 0.5)
	r.maxLength, r.longest, r.over = rep.MaxLength, rep.Longest, int64(by*float64(rep.Truncated+rep.Split+rep.Dropped["too_long"])+0.5)
	n := int64(float64(ds.Train.Len()) * by)
	if apart > 0 {
		more := 1 + float64(apart)/float64(max(n, 1))
		n += apart
		r.rows, r.val = r.rows+apart, apart
		r.tokens, r.supervised, r.seconds = int64(float64(r.tokens)*more), int64(float64(r.supervised)*more), r.seconds*more
		by *= more
	} else {
		held, err := asked.HeldRows(int(r.rows))
		if err != nil {
			return err
		}
		r.val = n * min(int64(held), r.rows) / max(r.rows, 1) // samples of a row stay together
	}
	r.train = n - r.val
	r.valTokens = int64(float64(r.tokens) * float64(r.val) / float64(max(n, 1)))
	r.trainTokens = r.tokens - r.valTokens
	r.examples = ds.Train
	r.bins = packedBins(ds.Train, r.maxLength, by*float64(r.train)/float64(max(n, 1)))
	return nil
}

// countAll is the number of rows of several sources.
func countAll(list []data.Source) (total int64, err error) {
	for _, s := range list {
		n, err := countRows(s)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// countRows is the number of rows of a source, from headers where they say,
// from line ends where they do not; of a large text file it is an estimate.
func countRows(s data.Source) (int64, error) {
	files, _, err := rows.Files(s.Path, s.Split)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, f := range files {
		n, err := countFile(f)
		if err != nil {
			return 0, err
		}
		total += n
	}
	if s.MaxSamples > 0 {
		total = min(total, int64(s.MaxSamples))
	}
	if s.Weight > 0 {
		total = int64(float64(total) * s.Weight)
	}
	return total, nil
}

// countedBytes is how much of a text file is read to count its lines.
const countedBytes = 64 << 20

func countFile(path string) (int64, error) {
	r, err := rows.Open(path)
	if err != nil {
		return 0, err
	}
	n := r.Total()
	if err := r.Close(); err != nil || n >= 0 {
		return n, err
	}
	t, err := rows.OpenText(path)
	if err != nil {
		return 0, err
	}
	defer t.Close()
	buf := make([]byte, 1<<20)
	var lines, read int64
	ends := func(b []byte) int64 { return int64(bytes.Count(b, []byte("\n"))) }
	if ext := rows.Ext(path); strings.HasPrefix(ext, ".csv") || strings.HasPrefix(ext, ".tsv") {
		lines, ends = -1, recordEnds() // without the names of columns
	}
	for read < countedBytes {
		k, err := t.Read(buf)
		lines += ends(buf[:k])
		read += int64(k)
		if err == io.EOF {
			return max(lines, 1), nil
		}
		if err != nil {
			return 0, rows.FileError(path, err)
		}
	}
	return max(1, int64(float64(lines)/t.Share())), nil
}

// recordEnds counts the line ends outside of quotes in consecutive parts of a CSV file.
func recordEnds() func([]byte) int64 {
	quoted := false
	return func(part []byte) (n int64) {
		for _, c := range part {
			switch {
			case c == '"':
				quoted = !quoted
			case c == '\n' && !quoted:
				n++
			}
		}
		return n
	}
}

// count writes a large number shortly: 2.1 M.
func count(v float64) string {
	if v < 10000 {
		return humanize.Comma(int64(v))
	}
	return humanize.SIWithDigits(v, 1, "")
}
