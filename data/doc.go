// Package data turns files of rows into what training reads: what package rows
// reads becomes conversations, package chat makes text of them with the model's
// own template, package tokenizer ids, a mask says which of those are learned, and
// packing lays the samples into steps. It counts what happened to every row and
// knows no tensors. docs/data.md says what each option means.
package data
