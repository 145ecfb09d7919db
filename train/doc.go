// Package train is the loop: optimizer steps over a model's trainable
// parameters, with schedules, validation, checkpoints and exact resume.
//
// The state of a run is three flat float32 buffers (parameters, first and
// second moments) and a step number. Everything else is a function of the
// configuration: batches of (seed, step), rates of the step, dropout of (seed,
// step, sample, token, site). A run that was killed and goes on therefore ends
// in the same bits as one that was not.
package train
