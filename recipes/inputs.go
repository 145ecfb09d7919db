package recipes

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
	return jobs, nil
}
