// Package data turns files of rows into what training reads: Parquet, JSONL,
// JSON, CSV, Arrow and text rows become conversations, the model's own chat
// template makes text of them, its tokenizer ids, a mask says which of those are
// learned, and packing lays the samples into steps. It counts what happened to
// every row and knows no tensors. docs/data.md says what each option means.
package data
