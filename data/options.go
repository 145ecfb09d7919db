package data

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes/schema"
)

// Source is one entry of `datasets`.
type Source struct {
	// Path is a file, a folder or a glob, of Parquet, JSONL, JSON, CSV, TSV,
	// Arrow IPC or plain text files.
	Path string `yaml:"path" json:"path" doc:"file, folder or glob: Parquet, JSONL, CSV, Arrow" unset:"required"`
	// Type is auto (by columns), text, chat, instruct, prompt_completion,
	// tokens, preference or prompt.
	Type string `yaml:"type" json:"type,omitempty" doc:"what the columns mean" default:"auto" enum:"auto|text|chat|instruct|prompt_completion|tokens|preference|prompt"`
	// Columns maps our names to the file's: messages, role, content, tools,
	// system, prompt, completion, instruction, input, output, history, text, input_ids,
	// labels, attention_mask, chosen, rejected, label, margin, score_chosen, score_rejected. A column within one that is an object
	// is named by its path: data.messages.
	Columns map[string]string `yaml:"columns" json:"columns,omitempty" doc:"our column names to yours, e.g. {messages: conv, role: from, content: value}; data.conv is a column within another"`
	// Split takes the files of a folder or glob whose name or folder says so
	// (train-00000-of-00002.parquet, test/x.jsonl).
	Split string `yaml:"split" json:"split,omitempty" doc:"part of the path to choose, e.g. train"`
	// Weight repeats the training rows: 2 takes each twice, 0.5 takes half of
	// them, chosen by content. 0 means 1.
	Weight float64 `yaml:"weight" json:"weight,omitempty" doc:"repeat (2) or thin (0.5) the rows" default:"1" range:"(0,1000]"`
	// Template is the chat template that a command without a recipe reads the rows
	// with: a name or the text; empty means the model's.
	Template string `yaml:"-" json:"-"`
	// MaxSamples takes the first rows only; 0 means all.
	MaxSamples int `yaml:"max_samples" json:"max_samples,omitempty" doc:"first rows only" unset:"all" range:"[1,9000000000000]"`
}

// Options are the keys of an ingest stage. The zero value of a key means its
// default; Fill writes the defaults out.
type Options struct {
	Datasets    []Source `yaml:"datasets" json:"datasets" doc:"files to read" unset:"required"`
	ValDatasets []Source `yaml:"val_datasets" json:"val_datasets,omitempty" doc:"files held back instead"`

	// Tokenizer and ChatTemplate are resolved by the caller, who passes the
	// results to Ingest; here they are only names for messages.
	Tokenizer    string `yaml:"tokenizer" json:"tokenizer,omitempty" doc:"model whose tokenizer is used" unset:"base_model"`
	ChatTemplate string `yaml:"chat_template" json:"chat_template,omitempty" doc:"model, a name (chatml, llama3, gemma …), a file, or the template itself" unset:"model"`

	// TemplateKwargs are further variables of the chat template; a row's own column of
	// this name goes before them.
	TemplateKwargs map[string]TemplateValue `yaml:"chat_template_kwargs" json:"chat_template_kwargs,omitempty" doc:"variables of the template, e.g. {enable_thinking: false}; a column of this name goes before"`

	MaxLength int    `yaml:"max_length" json:"max_length,omitempty" doc:"tokens a sample may have" unset:"min(2048, context)" range:"[2,10000000]"`
	Overflow  string `yaml:"overflow" json:"overflow,omitempty" doc:"what happens to longer ones" default:"error" enum:"error|drop|truncate|split"`

	// MaxPromptLength is of preference rows; 0: no limit.
	MaxPromptLength int `yaml:"max_prompt_length" json:"max_prompt_length,omitempty" doc:"of preference rows: tokens a prompt may have, the last ones stay" unset:"no limit" range:"[1,10000000]"`

	Packing    string `yaml:"packing" json:"packing,omitempty" doc:"best-fit decreasing without attention across samples" default:"bfd" enum:"bfd|none"`
	TrainOn    string `yaml:"train_on" json:"train_on,omitempty" doc:"which turns are learned" default:"assistant" enum:"assistant|last|all"`
	TrainOnEOS string `yaml:"train_on_eos" json:"train_on_eos,omitempty" doc:"which end tokens are learned" default:"turn" enum:"turn|last|all|none"`

	// Reasoning says what becomes of the reasoning of assistant messages: of a field
	// for it, or between <think> and </think>.
	Reasoning string `yaml:"reasoning" json:"reasoning,omitempty" doc:"of assistant messages, in fields or <think>: learn it, show it without learning it, or leave it out" default:"keep" enum:"keep|mask|drop"`

	// ValSetSize is a number of rows ("200"), a share ("0.05", "5%") or "0";
	// empty means 5 %, at most 512 rows, and 0 where ValDatasets are given.
	ValSetSize string `yaml:"val_set_size" type:"rows or share" json:"val_set_size,omitempty" doc:"rows, share or 0, held back by content hash" unset:"5 %, at most 512 rows"`

	Shuffle *bool `yaml:"shuffle" json:"shuffle,omitempty" doc:"shuffle by seed" default:"true"`
	// Dedup drops rows that occurred before: equal tokens and mask, or text as alike
	// as DedupThreshold.
	Dedup string `yaml:"dedup" json:"dedup,omitempty" doc:"drop rows that occurred before: the same tokens, or nearly the same text (MinHash); equal ones are always counted" default:"none" enum:"none|exact|near"`
	// Decontaminate drops training rows that are also held back, stand in ValDatasets
	// or in DecontaminateAgainst.
	Decontaminate        string   `yaml:"decontaminate" json:"decontaminate,omitempty" doc:"drop training rows that are also held back, in val_datasets or in decontaminate_against; equal ones are always counted" default:"none" enum:"none|exact|near"`
	DecontaminateAgainst []Source `yaml:"decontaminate_against" json:"decontaminate_against,omitempty" doc:"files of evaluations, read to compare the training rows with"`
	DedupAction          string   `yaml:"dedup_action" json:"dedup_action,omitempty" doc:"what becomes of rows that dedup and decontaminate find" default:"drop" enum:"drop|count"`

	// The similarity of near: Jaccard's, of sets of DedupNgram words in a row, estimated
	// by DedupNumPerm hashes.
	DedupThreshold float64 `yaml:"dedup_threshold" json:"dedup_threshold,omitempty" doc:"of near: Jaccard similarity from which texts are nearly the same" default:"0.8" range:"[0.3,1]"`
	DedupNgram     int     `yaml:"dedup_ngram" json:"dedup_ngram,omitempty" doc:"of near: words in a row that are compared" default:"5" range:"[1,32]"`
	DedupNumPerm   int     `yaml:"dedup_num_perm" json:"dedup_num_perm,omitempty" doc:"of near: hashes of a row; more are more exact" default:"128" range:"[16,1024]"`

	BadRows string `yaml:"bad_rows" json:"bad_rows,omitempty" doc:"rows that cannot be used" default:"error" enum:"error|drop"`

	Seed    uint64 `yaml:"-" json:"seed"`              // of the recipe
	Context int    `yaml:"-" json:"context,omitempty"` // the model's; 0 when unknown
	Vocab   int    `yaml:"-" json:"vocab,omitempty"`   // rows of the model's embedding; 0 when unknown
	Encoder bool   `yaml:"-" json:"encoder,omitempty"` // the model reads the prompt by an encoder: a sample is a prompt and one answer
	Name    string `yaml:"-" json:"-"`                 // of the stage, for messages; default "ingest"

	// Beside is where the result will be saved: files without a name beside it take
	// the tokens that do not fit into HeldBytes, and what is known of each row. Empty
	// keeps both in memory.
	Beside string `yaml:"-" json:"-"`

	// OnBad, when not nil, is told every bad row, in order.
	OnBad func(BadRow) `yaml:"-" json:"-"`
}

// Fill writes the defaults into o and checks every key. Errors are of kind
// fail.Usage.
func (o *Options) Fill() error {
	if o.Name == "" {
		o.Name = "ingest"
	}
	schema.Fill(o)
	o.MaxLength = cmp.Or(o.MaxLength, defaultMaxLength(o.Context))
	return o.check()
}

// Near tells whether texts are compared, and not only tokens.
func (o *Options) Near() bool { return o.Dedup == "near" || o.Decontaminate == "near" }

// Shaping is o without the values that change nothing, so that what was made before
// there were these keys is still known by them.
func (o Options) Shaping() Options {
	if o.Reasoning == "keep" {
		o.Reasoning = ""
	}
	if o.Decontaminate == "none" {
		o.Decontaminate = ""
	}
	if o.DedupAction == "drop" {
		o.DedupAction = ""
	}
	if !o.Near() {
		o.DedupThreshold, o.DedupNgram, o.DedupNumPerm = 0, 0, 0
	}
	return o
}

// sources are all entries of files, in the order of their numbers.
func (o *Options) sources() []Source {
	return slices.Concat(o.Datasets, o.ValDatasets, o.DecontaminateAgainst)
}

// ForModel says what the model reads: its context (0: unknown), the rows of its
// embedding, and whether an encoder takes its prompts.
func (o *Options) ForModel(context, vocab int, encoder bool) {
	o.Context, o.Vocab, o.Encoder = context, vocab, encoder
}

func defaultMaxLength(context int) int {
	if context > 0 {
		return min(2048, context)
	}
	return 2048
}

func (o *Options) check() error {
	if err := schema.Check(o.Name, o); err != nil {
		return err
	}
	if o.MaxLength < 2 || o.MaxLength > 1<<24 {
		return fail.Usagef(o.Name, "", "max_length: %d is not a length in tokens", o.MaxLength)
	}
	if o.Context > 0 && o.MaxLength > o.Context {
		return fail.Usagef(o.Name, fmt.Sprintf("max_length: %d", o.Context), "max_length %d is more than the model's context of %d", o.MaxLength, o.Context)
	}
	if o.Encoder {
		switch {
		case o.TrainOn == "all":
			return fail.Usagef(o.Name, "leave train_on out: of a conversation the last answer is learned", "train_on: all of a model with an encoder, which does not predict what it reads")
		case o.Overflow == "split":
			return fail.Usagef(o.Name, "overflow: drop or truncate", "overflow: split of a model with an encoder: the parts would be without their prompt")
		}
	}
	if len(o.Datasets) == 0 {
		return fail.Usagef(o.Name, "datasets: [{path: data/*.parquet}]", "no datasets")
	}
	for _, s := range o.sources() {
		if err := checkSource(o.Name, s); err != nil {
			return err
		}
	}
	if err := o.checkTemplateKwargs(); err != nil {
		return err
	}
	_, err := o.ValRows(1)
	return err
}

// HeldRows is ValRows where some of n rows are left to train on, else an error of kind
// fail.Usage.
func (o *Options) HeldRows(n int) (int, error) {
	held, err := o.ValRows(n)
	if err == nil && held > 0 && held >= n {
		return 0, fail.Usagef(o.Name, "make it smaller, or 0", "val_set_size %s leaves none of %s rows to train on", o.ValSetSize, group(int64(n)))
	}
	return held, err
}

// ValRows is how many of n rows are held back; val_set_size that is no number of
// rows, share or percentage is an error of kind fail.Usage.
func (o *Options) ValRows(n int) (int, error) {
	s := strings.TrimSpace(o.ValSetSize)
	if s == "" {
		if len(o.ValDatasets) > 0 {
			return 0, nil
		}
		return min(int(0.05*float64(n)+0.5), 512), nil
	}
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || v < 0 || v != v || percent && v >= 100 || !percent && v >= 1 && v != math.Trunc(v) || v > 1e9 {
		return 0, fail.Usagef(o.Name, "rows (200), a share (0.05 or 5%) or 0", "val_set_size: found %q", o.ValSetSize)
	}
	switch {
	case percent:
		v *= float64(n) / 100
	case v < 1:
		v *= float64(n)
	}
	return int(v + 0.5), nil
}
