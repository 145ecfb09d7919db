package recipes

import (
	"context"

	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/kernels/dtype"
	"github.com/tunekit/tunekit/recipes/report"
)

// Prepared is a run that has not begun.
type Prepared struct{ x *run }

// Prepare is what Run and Plan begin with.
func (r *Recipe) Prepare(o RunOptions) (*Prepared, error) {
	x, err := r.prepare(o)
	return &Prepared{x}, err
}

// Execute runs the stages without the plan and the report.
func (p *Prepared) Execute(ctx context.Context) error { return p.x.execute(ctx) }

// Peak is what the last stage's device counted.
func (p *Prepared) Peak() kernels.MemStats { return p.x.dev.Info().Mem }

// Addresses are those of all stages.
func (p *Prepared) Addresses() ([]Digest, error) {
	var out []Digest
	for _, j := range p.x.jobs {
		res, err := p.x.address(j)
		if err != nil {
			return nil, err
		}
		out = append(out, res.Address)
	}
	return out, nil
}

// Summary is that of a run in which these stages are done.
func (p *Prepared) Summary(done map[string]*Result, err error) *report.Summary {
	p.x.done = done
	return p.x.summary(1, err)
}

// WalkWithDisk plans with so many free bytes of disk.
func (p *Prepared) WalkWithDisk(ctx context.Context, free uint64) error {
	pl := p.x.planner(ctx, true)
	defer pl.close()
	pl.plan.DiskFree = free
	return pl.walk()
}

// Hashed is how many files were read through to know their content.
func (p *Prepared) Hashed() int { return len(p.x.hashes.Seen) }

// DiskSlack is what a run leaves free.
const DiskSlack = diskSlack

// Unpack puts an embedded file or folder into the cache.
var Unpack = unpack

// FrontMatter reads one key of a model card.
var FrontMatter = frontMatter

// Rounded are the tensors of the model that a stage makes, planned or made, whose products
// have rounded inputs, by name.
func (p *Prepared) Rounded(ctx context.Context, stage string) (map[string]dtype.Type, error) {
	pl := p.x.planner(ctx, true)
	defer pl.close()
	src, err := pl.Source(Ref{Stage: stage})
	if err != nil {
		return nil, err
	}
	out := map[string]dtype.Type{}
	for _, t := range src.Tensors() {
		if t.Act != (dtype.Type{}) {
			out[t.Name] = t.Act
		}
	}
	return out, nil
}
