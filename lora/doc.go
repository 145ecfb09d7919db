// Package lora attaches low-rank adapters to a model, reads and writes them as
// PEFT folders, and merges them into weights.
//
// An adapter of a linear layer W [out, in] is A [r, in] and B [out, r]; the
// layer computes x·Wᵀ + s·(x·Aᵀ)·Bᵀ with s = alpha/r, or alpha/√r with rsLoRA
// (Hu et al. 2021, arXiv:2106.09685, §4.1; Kalajdzievski 2023,
// arXiv:2312.03732). Which layers get one, under which names they are stored
// and what every key means is PEFT's: a folder written here loads there and the
// other way round.
package lora
