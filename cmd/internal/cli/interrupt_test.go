package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/engine"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/kernels/cpu"
	"github.com/tunekit/tunekit/recipes/stages"
)

var pocketModel = filepath.Join(root, "recipes", "pocket", "model")

// interruptible is a context as Main has it, without the process's signals.
func interruptible() (context.Context, *interrupts, func()) {
	in := &interrupts{}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), interruptsKey{}, in))
	return ctx, in, cancel
}

// A command that is interrupted with nothing to save ends with the code of the signal.
func TestInterrupted(t *testing.T) {
	for s, want := range map[os.Signal]int{os.Interrupt: 130, syscall.SIGTERM: 143} {
		ctx, in, cancel := interruptible()
		in.take(s)
		cancel()
		var out, errs bytes.Buffer
		code := run(ctx, "tune", []string{"generate", "--model", pocketModel, "--prompt", "a"}, &out, &errs)
		if code != want || errs.String() != "tune: interrupted\n" || out.Len() > 0 {
			t.Errorf("%v: exit %d: %s%s", s, code, &out, &errs)
		}
	}
}

// onWrite calls f at every write.
type onWrite struct{ f func() }

func (w onWrite) Write(p []byte) (int, error) { w.f(); return len(p), nil }

// Ctrl-C ends an answer of a chat, not the chat; SIGTERM ends it.
func TestInterruptedAnswer(t *testing.T) {
	ctx, in, cancel := interruptible()
	defer cancel()
	m, tok := pocket(t)
	e, err := engine.New(m.Model, engine.Options{Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	c := ucli.NewContext(&ucli.App{Writer: onWrite{func() { in.take(os.Interrupt) }}}, nil, &ucli.Context{Context: ctx})
	r := engine.Request{Prompt: tok.Encode("a", true), MaxNew: 900, Text: tok.Stream(true)}
	for range 2 {
		if a, err := answer(c, e, r); err != nil || a.Stop != stopInterrupted || len(a.IDs) == 900 || ctx.Err() != nil {
			t.Fatalf("%d tokens, %q, %v", len(a.IDs), a.Stop, err)
		}
	}
	if in.take(syscall.SIGTERM) {
		t.Error("SIGTERM did not end the chat")
	}
}

// stopAfter is a decoder that stops the command at a token.
type stopAfter struct {
	left int
	stop func()
}

func (d *stopAfter) Push(int32) string {
	if d.left--; d.left == 0 {
		d.stop()
	}
	return ""
}

func (d *stopAfter) Flush() string { return "" }

// What is there of an answer is written when it is interrupted.
func TestInterruptedGenerate(t *testing.T) {
	ctx, _, cancel := interruptible()
	defer cancel()
	m, tok := pocket(t)
	requests := []engine.Request{{Prompt: tok.Encode("a", true), MaxNew: 900, Text: &stopAfter{5, cancel}}}
	e, streams, err := engine.Start(ctx, m.Model, requests)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var out bytes.Buffer
	c := ucli.NewContext(&ucli.App{Writer: &out, ErrWriter: &out}, nil, &ucli.Context{Context: ctx})
	err = writeAnswers(c, tok, []prompt{{Request: requests[0]}}, streams)
	if !errors.Is(err, context.Canceled) || !strings.Contains(out.String(), `"new_tokens":5,"stop":"interrupted"`) {
		t.Errorf("%v: %s", err, &out)
	}
}

// pocket loads the embedded model.
func pocket(t *testing.T) (*stages.Loaded, *tokenizer.Tokenizer) {
	t.Helper()
	m, err := stages.LoadModel(cpu.New(cpu.Options{}), pocketModel, stages.ModelOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	tok, err := m.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	return m, tok
}
