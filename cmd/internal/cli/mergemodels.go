package cli

import (
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/model/merge"
	"github.com/tunekit/tunekit/recipes/stages"
)

func mergeModelsCommand() *ucli.Command {
	return &ucli.Command{
		Name: "merge-models", Usage: "one model of several, by a configuration of mergekit", ArgsUsage: "CONFIG.yaml",
		Description: examples("tune merge-models ties.yaml --output merged", "tune merge-models franken.yaml --output merged --memory-limit 8GiB"),
		Flags: modelFlags(append(optionFlags(&stages.MergeModels{}, "max_shard_size"), outputFlag(), forceFlag(),
			&ucli.Uint64Flag{Name: "seed", Value: 42, Usage: "of the random masks of DARE and DELLA"})...),
		Action: func(c *ucli.Context) error {
			if err := required(c, "output"); err != nil {
				return err
			}
			if err := args(c, "CONFIG.yaml", 1); err != nil {
				return err
			}
			var opts stages.MergeModels
			if err := readOptions(c, &opts, "max_shard_size"); err != nil {
				return err
			}
			config, err := stages.ReadMergeConfig(c.Args().First())
			if err != nil {
				return err
			}
			dev, err := openDevice(c)
			if err != nil {
				return err
			}
			defer dev.Close()
			progress, clear := bar(c, "merge", "bytes")
			defer clear()
			var left *stages.MergeModelsResult
			err = writeOutput(c, c.String("output"), func() (err error) {
				left, err = stages.MergeModelsTo(c.Context, dev, stages.MergeModelsOptions{Config: config, Output: c.String("output"),
					MaxShard: int64(opts.MaxShardSize), Seed: c.Uint64("seed"), Progress: progress, Note: noteOn(c)})
				return err
			})
			if err != nil {
				return err
			}
			return writeJSON(c, struct {
				Output string `json:"output"`
				*merge.Report
			}{c.String("output"), left.Report})
		},
	}
}
