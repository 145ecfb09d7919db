package recipes

import (
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub"
)

// Input is one resolved input of a stage under the key it answers.
type Input struct {
	Name string
	Ref  Ref
}

// Job is a stage with all its references resolved.
type Job struct {
	*Stage
	Inputs []Input
}

// In returns the reference of an input, and whether there is one.
func (j *Job) In(name string) (Ref, bool) {
	for _, in := range j.Inputs {
		if in.Name == name {
			return in.Ref, true
		}
	}
	return Ref{}, false
}

// Resolve turns every default into a typed reference. All problems that need
// no file are found here.
func (r *Recipe) Resolve() ([]*Job, error) {
	var jobs []*Job
	for i := range r.Stages {
		v := &Resolver{Above: jobs, r: r, self: &r.Stages[i]}
		in, err := v.self.Kind.Inputs(v, v.self.Options)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, &Job{v.self, in})
	}
	return jobs, r.pinned(jobs)
}

// pinned refuses models of the hub without a commit where the recipe asks for it:
// what a branch or tag stands for can change.
func (r *Recipe) pinned(jobs []*Job) error {
	if !slices.Contains(r.FailOn, "unpinned") {
		return nil
	}
	for _, j := range jobs {
		for _, in := range j.Inputs {
			if !hub.IsRef(in.Ref.Path) {
				continue
			}
			ref, err := hub.Parse(in.Ref.Path)
			if err != nil {
				return err
			}
			if !ref.Pinned() {
				return fail.Usagef(r.path+": "+j.ID+"."+in.Name, "name a commit, 40 hexadecimal digits; fail_on lists unpinned", "%s is unpinned", in.Ref.Path)
			}
		}
	}
	return nil
}
