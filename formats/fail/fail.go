// Package fail holds the one error type that carries an exit code and a hint.
//
// Every message a user reads is one line that names the file, the field and
// the value, and one that says what to do.
package fail

import (
	"errors"
	"fmt"
)

// Kind is the class of a failure; its value is the process's exit code.
type Kind int

const (
	Internal    Kind = 1  // a bug in this program
	Usage       Kind = 2  // a wrong flag or recipe
	Input       Kind = 3  // a bad input file
	Limit       Kind = 4  // would not fit, or ran out of memory, disk or device
	Gate        Kind = 5  // an evaluation gate failed or could not tell
	Numeric     Kind = 6  // NaN or infinite loss; the last good state is kept
	Interrupted Kind = 75 // stopped after saving; the same command goes on
)

var kinds = map[Kind]string{Internal: "internal", Usage: "usage", Input: "input", Limit: "limit", Gate: "gate", Numeric: "numeric", Interrupted: "interrupted"}

// String is the word that scripts read.
func (k Kind) String() string { return kinds[k] }

// Error is a failure for people: Where is a file, a file:line:column or a
// stage; Hint may be empty; Err is the cause, if another error was.
type Error struct {
	Kind  Kind
	Where string
	Msg   string
	Hint  string
	Err   error
}

func (e *Error) Error() string {
	if e.Where == "" {
		return e.Msg
	}
	return e.Where + ": " + e.Msg
}

func (e *Error) Unwrap() error { return e.Err }

func newf(k Kind, where, hint, format string, args []any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: k, Where: where, Msg: plain(err.Error(), err), Hint: hint, Err: errors.Unwrap(err)}
}

// Usagef reports a wrong flag or recipe (exit 2). %w keeps a cause.
func Usagef(where, hint, format string, args ...any) *Error {
	return newf(Usage, where, hint, format, args)
}

// Inputf reports a bad input file (exit 3).
func Inputf(where, hint, format string, args ...any) *Error {
	return newf(Input, where, hint, format, args)
}

// Limitf reports what does not fit or ran out (exit 4).
func Limitf(where, hint, format string, args ...any) *Error {
	return newf(Limit, where, hint, format, args)
}

// Gatef reports a failed or undecided gate (exit 5).
func Gatef(where, hint, format string, args ...any) *Error {
	return newf(Gate, where, hint, format, args)
}

// Numericf reports a loss or gradient that is not finite (exit 6).
func Numericf(where, hint, format string, args ...any) *Error {
	return newf(Numeric, where, hint, format, args)
}

// Interruptedf reports a stop on request after the state was saved (exit 75).
func Interruptedf(where, hint, format string, args ...any) *Error {
	return newf(Interrupted, where, hint, format, args)
}

// Code is the exit code of err: 0 for nil, the Kind of the first *Error in its
// tree, 1 for anything else.
func Code(err error) int {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return int(e.Kind)
	}
	return int(Internal)
}

// Hint is the hint of the first *Error in err's tree that has one.
func Hint(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
