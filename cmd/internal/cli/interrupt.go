package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/tunekit/tunekit/formats/fail"
)

// interrupts is what Ctrl-C and SIGTERM do.
type interrupts struct {
	mu      sync.Mutex
	instead func() // of ending the command, on Ctrl-C; nil: nothing
	saves   bool   // there is something to save
	by      os.Signal
}

type interruptsKey struct{}

// signalContext is cancelled by the first interrupt where something is to be
// saved; the second one, elsewhere the first, ends the process at once (nothing
// is ever half-written).
func signalContext(saves bool) (context.Context, func()) {
	in := &interrupts{saves: saves}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), interruptsKey{}, in))
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		for s := range ch {
			if in.take(s) {
				continue
			}
			if !in.saving() {
				os.Exit(stoppedBy(s))
			}
			if isTerminal(os.Stderr) {
				fmt.Fprint(os.Stderr, "\r\x1b[K") // over the bar, and the ^C that the terminal shows
			}
			fmt.Fprintln(os.Stderr, "tune: stopping, and saving the last finished step where there is one; interrupt again to stop at once")
			cancel()
			break
		}
		if s, ok := <-ch; ok {
			os.Exit(stoppedBy(s))
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); cancel() }
}

// take does what is to be done instead of ending the command, and remembers the
// signal that ends it.
func (in *interrupts) take(s os.Signal) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.instead != nil && s == os.Interrupt {
		in.instead()
		return true
	}
	in.by = s
	return false
}

func (in *interrupts) saving() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.saves
}

// savesNow says that from here on an interrupted command has something to save.
func savesNow(ctx context.Context) {
	if in, ok := ctx.Value(interruptsKey{}).(*interrupts); ok {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.saves = true
	}
}

// onInterrupt makes f what Ctrl-C does instead of ending the command; nil: as before.
func onInterrupt(ctx context.Context, f func()) {
	if in, ok := ctx.Value(interruptsKey{}).(*interrupts); ok {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.instead = f
	}
}

// stoppedBy is the exit code of a process that a signal stopped, as shells have it.
func stoppedBy(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return int(fail.Internal)
}

// stopped reports whether err is the end of a command that was interrupted and had
// nothing to save, says so, and gives its exit code.
func stopped(ctx context.Context, err error, w io.Writer) (code int, ok bool) {
	in, _ := ctx.Value(interruptsKey{}).(*interrupts)
	if in == nil || ctx.Err() == nil || !errors.Is(err, context.Canceled) || fail.Code(err) == int(fail.Interrupted) {
		return 0, false
	}
	fmt.Fprintln(w, "tune: interrupted")
	in.mu.Lock()
	defer in.mu.Unlock()
	return stoppedBy(in.by), true
}
