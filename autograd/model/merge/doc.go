// Package merge makes one model of several, tensor by tensor, as mergekit's
// configuration files describe it: averages, task arithmetic and its sparse
// variants, interpolation on spheres, layers of several models one above another.
//
// A tensor of the result is a function of the same tensor of the models, taken as
// Hugging Face folders hold it. Only the tensors of one name are in memory at a
// time. Random masks (DARE, DELLA) come from a counter: the same bits for a seed,
// whatever the number of threads. Where the results of mergekit are surprising, its
// meaning is kept, and said where it is done.
package merge
