package cli

import (
	"fmt"
	"os"
	"path/filepath"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/recipes/stages"
)

// verified is an artifact with nothing wrong, in JSON.
type verified struct {
	Path string `json:"path"`
	OK   bool   `json:"ok"`
	Note string `json:"note,omitempty"`
}

func verifyCommand() *ucli.Command {
	return &ucli.Command{
		Name: "verify", Usage: "read an artifact whole; exit 3 and what is wrong with it", ArgsUsage: "PATH",
		Description: examples("tune verify runs/support/merged"),
		Flags:       []ucli.Flag{jsonFlag()},
		Action: func(c *ucli.Context) error {
			if err := args(c, "PATH", 1); err != nil {
				return err
			}
			path, err := resolvePath(c.Args().First())
			if err != nil {
				return err
			}
			ok := verified{Path: path, OK: true}
			if holdsSamples(path) {
				err = verifySamples(path)
			} else if err = formats.Verify(path); err == nil {
				ok.Note, err = stages.VerifyModel(path)
			}
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return writeJSON(c, ok)
			}
			if ok.Note != "" {
				fmt.Fprintln(c.App.ErrWriter, "note: "+harmless(ok.Note))
			}
			fmt.Fprintln(c.App.Writer, "ok")
			return nil
		},
	}
}

// holdsSamples tells whether path is a folder of tune ingest, also a damaged one.
func holdsSamples(path string) bool {
	if data.IsCache(path) {
		return true
	}
	_, err := os.Lstat(filepath.Join(path, "train.arrow"))
	_, model := os.Lstat(filepath.Join(path, "config.json"))
	return err == nil && model != nil
}

// verifySamples reads every sample of a folder of tune ingest.
func verifySamples(dir string) error {
	d, err := data.LoadArrow(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, part := range []data.Examples{d.Train, d.Val} {
		for i := range part.Len() {
			if _, err := part.At(i); err != nil {
				return err
			}
		}
	}
	return nil
}
