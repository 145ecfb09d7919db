package cli

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/stages"
)

// rankWord is what this program is called with to be one rank of a training. Nobody
// types it.
const rankWord = "__rank"

// startRank is this program, to be started as a rank.
func startRank() *exec.Cmd {
	path, err := os.Executable()
	if err != nil {
		path = os.Args[0]
	}
	c := exec.Command(path, rankWord)
	c.Args[0] = os.Args[0]
	return c
}

// runRank is one rank of a training that the process before started. It ends with it,
// and what a terminal or a scheduler sends to both is that one's to answer.
func runRank() int {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	parent := os.Getppid()
	go func() {
		for range time.Tick(time.Second) {
			if os.Getppid() != parent {
				os.Exit(int(fail.Interrupted))
			}
		}
	}()
	err := limits(rank(context.Background()))
	if err != nil {
		_ = json.NewEncoder(os.Stderr).Encode(recipes.RankFailure{Code: fail.Kind(fail.Code(err)), Message: err.Error(), Hint: fail.Hint(err)})
	}
	return fail.Code(err)
}

func rank(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = crashed(r)
		}
	}()
	defer formats.CatchFaults(&err)()
	return stages.All.Rank(ctx, os.Stdin, os.Stdout)
}
