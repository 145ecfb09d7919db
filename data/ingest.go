package data

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/data/jinja"
	"github.com/tunekit/tunekit/data/minhash"
	"github.com/tunekit/tunekit/data/rows"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/par"
)

// Ingest reads the datasets of o, turns every row into tokens and a loss mask
// with tok (nil where all rows are of type tokens) and tmpl (nil for a model
// without a chat template), holds rows back and returns both parts with the
// counts of what happened. progress may be nil; it gets the rows read and the
// rows known so far. Errors name file and row and are of kind fail.Input (a
// bad row or file) or fail.Usage (a bad key); on an error about rows the
// report is returned too, with the first 20 bad rows. The caller closes the Dataset
// when Options.Beside was set: what is held does then not grow with the rows.
func Ingest(ctx context.Context, o Options, tok *tokenizer.Tokenizer, tmpl *chat.Template, progress func(done, total int64)) (*Dataset, *Report, error) {
	return ingestHolding(ctx, HeldBytes, o, tok, tmpl, progress)
}

// ingestHolding is Ingest with a limit on the tokens held.
func ingestHolding(ctx context.Context, limit int64, o Options, tok *tokenizer.Tokenizer, tmpl *chat.Template, progress func(done, total int64)) (*Dataset, *Report, error) {
	o.KeepParts()
	if err := o.Fill(); err != nil {
		return nil, nil, err
	}
	in := &ingest{ctx: ctx, o: &o, enc: newEncoding(&o, tok, tmpl), tmpl: tmpl, progress: progress, report: newReport(&o)}
	in.begin(limit)
	defer in.end()
	inputs, notes, err := resolve(&o, tok)
	if err != nil {
		return nil, nil, err
	}
	in.report.Notes = append(in.report.Notes, notes...)
	defer hashes(ctx, inputs, tok)()
	if tok != nil {
		defer tok.Forget()
	}
	d, err := in.run(inputs, tok, tmpl)
	in.report.cut()
	if err != nil {
		in.kept.close()
		return nil, in.report, err
	}
	return d, in.report, nil
}

// run reads every file and makes the dataset.
func (in *ingest) run(inputs []input, tok *tokenizer.Tokenizer, tmpl *chat.Template) (*Dataset, error) {
	for _, input := range inputs {
		if err := in.file(input); err != nil {
			return nil, err
		}
	}
	var err error
	if in.report.Key, err = key(in.o, inputs, tok, tmpl); err != nil {
		return nil, err
	}
	if err := in.checkMet(inputs); err != nil {
		return nil, err
	}
	if err := in.verdict(); err != nil {
		return nil, err
	}
	return in.finish()
}

// meet notes which of the columns that a source names a row has.
func (in *ingest) meet(f input, row *jinja.Dict) {
	left, ok := in.unmet[f.index]
	if !ok {
		left = maps.Clone(columns(f.source.Columns))
		delete(left, "role") // of messages
		delete(left, "content")
		in.unmet[f.index] = left
	}
	for ours, theirs := range left {
		if _, ok := find(row, theirs); ok {
			delete(left, ours)
		}
	}
}

// checkMet refuses the name of a column that none of a source's rows had.
func (in *ingest) checkMet(inputs []input) error {
	for _, f := range inputs {
		for _, ours := range slices.Sorted(maps.Keys(in.unmet[f.index])) {
			return fail.Inputf(f.source.Path, "columns maps our names to the file's", "columns: %s is %s, and no row has a column of this name", ours, in.unmet[f.index][ours])
		}
	}
	return nil
}

// ingestVersion changes when the same inputs give other tokens, masks or hashes
// of samples, by which rows are held back.
const ingestVersion = "tunekit ingest 7"

// ingest is the work in progress.
type ingest struct {
	ctx      context.Context
	o        *Options
	enc      *encoding
	tmpl     *chat.Template
	progress func(done, total int64)
	report   *Report

	kept       store
	train, val *vector[item]
	taken      map[int]int     // rows read, by source
	unmet      map[int]columns // that a source names and none of its rows had
	seen       *idSet
	against    *idSet          // rows of decontaminate_against, and their samples
	owns       *vector[uint64] // hashes of the content of samples of rows of more than one, or of unwanted answers
	sigs       *signatures     // nil: texts are not compared
	near       *nearIndex      // of what is trained on, for dedup: near; else nil
	nearVal    *nearIndex      // of val_datasets
	likely     *vector[int32]  // signatures of decontaminate_against
	ends       bool            // an end token is supervised in some row
	chats      bool            // some row should supervise one
	first      BadRow
	tooLong    overflow
	notes      map[string]int64
	known      int64 // rows of the files opened so far
}

// begin makes the lists of an ingest that gives so many bytes of memory to tokens.
func (in *ingest) begin(limit int64) {
	beside := scratchBeside(in.o.Beside)
	in.kept = store{beside: beside, limit: limit, info: cacheInfo{Vocab: int(in.enc.vocab), MaxLength: in.o.MaxLength, Groups: true, Marks: true}}
	in.train, in.val, in.seen = newVector[item](beside, 0), newVector[item](beside, 0), newIDSet(beside)
	in.against, in.owns = newIDSet(beside), newVector[uint64](beside, 0)
	if in.o.Near() {
		in.sigs, in.likely = newSignatures(in.o, beside), newVector[int32](beside, 0)
	}
	if in.o.Dedup == "near" {
		in.near, in.nearVal = newNearIndex(in.sigs, in.o.DedupThreshold), newNearIndex(in.sigs, in.o.DedupThreshold)
	}
	in.notes, in.unmet = map[string]int64{}, map[int]columns{}
}

// end gives back what the dataset does not need.
func (in *ingest) end() {
	in.train.close()
	in.val.close()
	in.seen.close()
	in.against.close()
	in.owns.close()
	in.near.close()
	in.nearVal.close()
	in.likely.close()
	in.sigs.close()
}

// item is a sample, or several that are learned from together, with what decides
// its fate.
type item struct {
	first, n int32  // samples of ingest.kept
	row      uint64 // hash of the whole row, before splitting
	nth      int64  // of the rows read
	weight   float64
	sig      int32 // the first of those in ingest.sigs that its samples have
	own      int32 // the first of those in ingest.owns that its samples have
	source   int32 // of the options' sources
	script   int16 // as Report.script returns it
	sigs     int8  // how many
	owns     int8
	bars     [2]int8 // of its samples in Report.Lengths, plus one: two for two answers
	long     bool    // over max_length
}

// tokenized is a row after its texts were read.
type tokenized struct {
	samples []encoded
	fate    fitted
	owns    []uint64            // hashes of the content of samples, where they are not fate.id
	sig     minhash.Signature   // of all, for dedup; nil: not asked for, or no words
	sigs    []minhash.Signature // of each sample with words, to decontaminate
	script  string
	err     error
}

// Rows are tokenized in parallel, a chunk at a time, before their results are
// taken in order.
const (
	firstRows = 128     // of the first chunk, for which all threads wait; each has twice as many as the one before
	mostRows  = 2048    // of a chunk
	mostText  = 8 << 20 // bytes of text, after which a chunk ends
)

// file reads one file to its end.
func (in *ingest) file(f input) (err error) {
	r, err := rows.Open(f.path)
	if err != nil {
		return err
	}
	defer r.Close()
	in.known += max(r.Total(), 0)
	fr := FileReport{Path: f.path, Type: f.source.Type}
	defer func() {
		var herr error
		if fr.Hash, herr = f.hash(); err == nil {
			err = herr
		}
		in.report.Files = append(in.report.Files, fr)
	}()
	kind := ""
	chunks, stop := in.ahead(r, f)
	defer stop()
	for c := range chunks {
		fr.Rows += int64(len(c.rows))
		if c.err == nil && kind == "" {
			kind, c.err = in.kind(f, c.rows)
			fr.Type = kind
		}
		if c.err == nil {
			c.err = in.take(f, kind, c)
		}
		if c.err != nil {
			return c.err
		}
		if in.progress != nil {
			in.progress(in.report.Rows, max(in.known, in.report.Rows))
		}
	}
	if fr.Rows == 0 {
		in.note(f.path+" has no rows", 0)
	}
	in.report.Types[cmp.Or(kind, "unknown")] += fr.Rows
	return nil
}

// chunk is what ahead read.
type chunk struct {
	rows  []rawRow
	order []int32 // of rows, the longest first
	err   error
}

// ahead reads chunks on a goroutine of its own, at most two before the one that
// is tokenized. stop ends it; until then the reader is in use.
func (in *ingest) ahead(r rows.Reader, f input) (chunks <-chan chunk, stop func()) {
	out, quit := make(chan chunk, 1), make(chan struct{})
	go func() {
		defer close(out)
		for n := firstRows; ; n = min(2*n, mostRows) {
			read, last, err := in.chunk(r, f, n)
			select {
			case out <- chunk{read, longestFirst(read), err}:
			case <-quit:
				return
			}
			if err != nil || last {
				return
			}
		}
	}()
	return out, func() {
		close(quit)
		for range out {
		}
	}
}

// rawRow is a row as read: its dictionary or why it has none.
type rawRow struct {
	row  *jinja.Dict
	ref  RowRef
	bad  *rows.RowError
	size int // bytes of text
}

// chunk reads up to n rows.
func (in *ingest) chunk(r rows.Reader, f input, n int) (read []rawRow, last bool, err error) {
	if in.taken == nil {
		in.taken = map[int]int{}
	}
	for text := 0; len(read) < n && text < mostText; {
		if f.source.MaxSamples > 0 && in.taken[f.index] == f.source.MaxSamples {
			return read, true, nil
		}
		row, number, err := r.Next()
		var bad *rows.RowError
		if err == io.EOF {
			return read, true, nil
		}
		if err != nil && !errors.As(err, &bad) {
			return read, true, err
		}
		in.taken[f.index]++
		next := rawRow{row: row, ref: RowRef{f.path, number}, bad: bad}
		if row != nil {
			if rows.FillsIn(f.path) {
				dropNulls(row)
			}
			next.size = textSize(row)
		}
		text += next.size
		read = append(read, next)
	}
	return read, false, in.ctx.Err()
}

// longestFirst is the order in which rows are given to threads: a long one that
// came last would keep a single thread busy.
func longestFirst(rows []rawRow) []int32 {
	order := make([]int32, len(rows))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return rows[b].size - rows[a].size })
	return order
}

// textSize is the number of bytes of text in a value, and one for all else.
func textSize(v any) int {
	n := 1
	switch v := v.(type) {
	case string:
		n = len(v)
	case []any:
		for _, e := range v {
			n += textSize(e)
		}
	case *jinja.Dict:
		for i := range v.Len() {
			_, e := v.At(i)
			n += textSize(e)
		}
	}
	return n
}

// kind finds the type of a file by its first good row; "" while there is none.
func (in *ingest) kind(f input, chunk []rawRow) (string, error) {
	i := slices.IndexFunc(chunk, func(r rawRow) bool { return r.row != nil })
	if i < 0 {
		return "", nil
	}
	kind, row := f.source.Type, chunk[i].row
	var err error
	if kind == "" || kind == "auto" {
		kind, err = detect(f.path, f.source.Columns, row, in.enc.tmpl != nil)
	} else {
		err = checkType(f.path, kind, f.source.Columns, row)
	}
	if err == nil {
		err = checkRead(f.path, kind, f.source.Columns)
	}
	switch {
	case err != nil:
	case kind != typeTokens && in.enc.tok == nil:
		err = fail.Usagef(in.o.Name, "take tokenizer.json from where the model was published, or name another tokenizer", "%s is of type %s and there is no tokenizer", f.path, kind)
	case kind == typeInstruct && in.enc.tmpl == nil:
		in.note("instruct rows are written in the Alpaca form: the model has no chat template", 0)
	case f.part == compared: // in no step
	case kind != typePreference && in.o.MaxPromptLength > 0:
		err = fail.Usagef(in.o.Name, "max_length with overflow is for all rows", "max_prompt_length shortens the prompts of preference rows, and %s is of type %s", f.path, kind)
	case kind == typePreference:
		err = in.checkPreference(f, row)
	case kind == typePromptOnly:
		err = in.checkPromptOnly(f)
	}
	if err == nil && kind != typePromptOnly && f.part != compared && in.kept.info.Rows {
		err = fail.Usagef(in.o.Name, "an ingest stage of its own", "%s is learned from as it is, rows before it are prompts", f.path)
	}
	return kind, err
}

// take tokenizes a chunk and files its rows in order.
func (in *ingest) take(f input, kind string, c chunk) error {
	chunk := c.rows
	results := make([]tokenized, len(chunk))
	par.For(len(chunk), 1, func(lo, hi int) {
		for _, i := range c.order[lo:hi] {
			results[i] = in.tokenize(f, kind, chunk[i])
		}
	})
	for i, r := range chunk {
		in.report.Rows++
		src := &in.report.Sources[f.index]
		src.Rows++
		if r.row != nil {
			in.meet(f, r.row)
		}
		if err := results[i].err; err != nil {
			src.Dropped++
			if err := in.bad(r.ref, err); err != nil {
				return err
			}
			continue
		}
		if f.part == compared {
			in.compare(r.ref, results[i])
			continue
		}
		if err := in.row(f, r.ref, kind, results[i]); err != nil {
			return err
		}
	}
	return nil
}

// compare keeps what training rows are compared with.
func (in *ingest) compare(ref RowRef, r tokenized) {
	in.report.Compared++
	in.against.add(r.fate.id)
	for _, id := range r.owns {
		in.against.add(id)
	}
	for _, sig := range r.sigs {
		in.likely.add(in.sigs.add(sig, ref))
	}
}

// tokenize encodes the sample of a row, or its two answers, and makes them fit.
func (in *ingest) tokenize(f input, kind string, r rawRow) tokenized {
	if r.bad != nil {
		return tokenized{err: r.bad}
	}
	var samples []sample
	var err error
	switch {
	case kind == typePreference:
		samples, err = convertPreference(f.source.Columns, r.row)
	case kind == typeTokens && in.enc.encoder:
		samples = make([]sample, 1)
		samples[0], err = convertTokenPair(f.source.Columns, r.row)
	default:
		samples = make([]sample, 1)
		samples[0], err = convert(kind, f.source.Columns, r.row, in.enc.tmpl != nil)
	}
	if err == nil && f.part != compared && (f.source.Type == "" || f.source.Type == "auto") {
		err = columns(f.source.Columns).checkLabel(kind, r.row)
	}
	out := make([]encoded, len(samples))
	var owns []uint64
	for i := range samples {
		if err == nil {
			out[i], err = in.enc.encode(samples[i])
			out[i].mark = samples[i].mark
			if len(samples) > 1 || samples[i].mark < 0 {
				owns = append(owns, contentID(out[i].ids, out[i].loss))
			}
			if kind == typePreference {
				out[i], out[i].cut = shortened(out[i], in.o.MaxPromptLength)
			}
		}
	}
	if err != nil {
		return tokenized{err: err}
	}
	out[0].lost = append(out[0].lost, columns(f.source.Columns).unread(kind, r.row, samples[0])...)
	t := tokenized{samples: out, owns: owns, script: scriptOf(samples)}
	if in.sigs != nil {
		t.sig, t.sigs = sign(in.sigs.of, in.o, samples)
	}
	if len(out) > 1 {
		t.fate = fitPair(r.ref, out[0], out[1], in.o.MaxLength, in.o.Overflow)
	} else {
		t.fate = fit(r.ref, out[0], in.o.MaxLength, in.o.Overflow)
	}
	return t
}

// bad counts a bad row; errors that are not about a row end the work.
func (in *ingest) bad(ref RowRef, err error) error {
	var b *rows.RowError
	if !errors.As(err, &b) {
		var known *fail.Error
		if errors.As(err, &known) && known.Where == "" {
			known.Where = ref.String()
		}
		return err
	}
	row := BadRow{ref, *b}
	if in.report.badRows == 0 {
		in.first = row
	}
	in.report.bad(row)
	if in.o.OnBad != nil {
		in.o.OnBad(row)
	}
	return nil
}

// row files one tokenized row: duplicates, overflow, part.
func (in *ingest) row(f input, ref RowRef, kind string, r tokenized) error {
	longest, learned, samples, fate := 0, 0, r.samples, r.fate
	if slices.ContainsFunc(samples, func(e encoded) bool { return e.cut }) {
		in.report.PromptsCut++
	}
	for _, e := range samples {
		longest = max(longest, len(e.ids))
		if e.note != "" {
			in.notes[e.note]++
		}
		for _, n := range e.lost {
			in.notes[n]++
		}
		if kind != typeTokens && kind != typePromptOnly && in.o.TrainOnEOS != "none" {
			in.chats = true
			in.ends = in.ends || in.enc.supervisesEnd(e.ids, e.loss)
			if in.o.Overflow == "truncate" && len(e.ids) > in.o.MaxLength && in.enc.lostEnd(e, in.o.MaxLength) {
				in.notes[noteCutEnd]++
			}
		}
	}
	src := &in.report.Sources[f.index]
	again := in.again(f, ref, r, src)
	if again != "" && in.o.DedupAction == "drop" {
		in.report.drop(again)
		src.Dropped++
		return nil
	}
	script := in.report.script(r.script, ref)
	var bars [2]int8
	for i, e := range samples {
		n, bar := in.report.length(ref, e)
		if bars[i] = int8(bar + 1); len(e.ids) == longest { // of two answers, of the longer one
			learned = n
		}
	}
	in.report.outliers(ref, longest, learned)
	in.fate(ref, longest, fate)
	if len(fate.parts) == 0 {
		src.Dropped++
	}
	list := in.train
	if f.part == heldBack {
		list = in.val
	}
	it := item{first: int32(in.kept.n), n: 1, row: fate.id, nth: in.report.Rows, weight: cmp.Or(f.source.Weight, 1),
		source: int32(f.index), script: script, long: longest > in.o.MaxLength, bars: bars, own: int32(in.owns.len()), owns: int8(len(r.owns)), sigs: int8(len(r.sigs))}
	for _, id := range r.owns {
		in.owns.add(id)
	}
	for i, sig := range r.sigs {
		if n := in.sigs.add(sig, ref); i == 0 {
			it.sig = n
		}
	}
	if fate.together {
		it.n = int32(len(fate.parts))
	}
	src.Supervised += fate.kept
	src.Longest = max(src.Longest, longest)
	for i, ex := range fate.parts {
		src.Tokens += int64(len(ex.IDs))
		if err := in.kept.add(ex); err != nil {
			return err
		}
		if i%int(it.n) == 0 {
			list.add(it)
			it.first += it.n
		}
	}
	return nil
}

// again counts a row that occurred before in its part: duplicate, or near_duplicate
// where texts are compared; "" is a new one.
func (in *ingest) again(f input, ref RowRef, r tokenized, src *SourceReport) (why string) {
	part, near := r.fate.id, in.near
	if f.part == heldBack { // which has its own duplicates
		part, near = ^r.fate.id, in.nearVal
	}
	exact := in.seen.add(part)
	if exact {
		in.report.Duplicates++
		src.Duplicates++
	}
	if exact && in.o.Dedup != "none" {
		why = "duplicate"
	} else if near != nil && r.sig != nil {
		if other, similarity, ok := near.find(r.sig); ok {
			in.report.NearDuplicates++
			src.NearDuplicates++
			in.report.Near = likes(in.report.Near, Like{ref, in.sigs.ref(other), similarity})
			why = "near_duplicate"
		}
	}
	if near != nil && r.sig != nil && why == "" {
		near.add(in.sigs.add(r.sig, ref))
	}
	return why
}

func (in *ingest) note(s string, n int64) {
	if n > 0 {
		s = fmt.Sprintf("%s rows: %s", group(n), s)
	}
	if !slices.Contains(in.report.Notes, s) {
		in.report.Notes = append(in.report.Notes, s)
	}
}
