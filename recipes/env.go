package recipes

import (
	"slices"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
)

// Env is a run as its stages see it.
type Env struct {
	x    *run
	team *Team // of the running stage; nil: it is alone
}

// Name is the run's.
func (e *Env) Name() string { return e.x.Name }

// Seed is the recipe's.
func (e *Env) Seed() uint64 { return *e.x.Seed }

// BaseModel is the recipe's, "" where it has none.
func (e *Env) BaseModel() string { return e.x.BaseModel }

// Device is where to compute. What it counts begins with the running stage.
func (e *Env) Device() kernels.Backend { return e.x.dev }

// WriteBaseline is the file to keep measurements in, "" for none.
func (e *Env) WriteBaseline() string { return e.x.opt.WriteBaseline }

// Where is the place of a stage that errors name.
func (e *Env) Where(j *Job) string { return e.x.path + ": " + j.ID }

// Jobs lists the stages of the run in order.
func (e *Env) Jobs() []*Job { return e.x.jobs }

// Job is the stage with an id that a resolved reference names.
func (e *Env) Job(id string) *Job {
	for _, j := range e.x.jobs {
		if j.ID == id {
			return j
		}
	}
	panic("recipes: a resolved reference without its stage")
}

// Later lists the stages after the running one, as far as they are to be run.
func (e *Env) Later() []*Job {
	later := e.x.jobs[e.x.at+1:]
	if i := slices.IndexFunc(later, func(j *Job) bool { return !e.x.wanted(j.ID) }); i >= 0 {
		return later[:i]
	}
	return later
}

// Begin marks a later stage's folder as being worked on, so that the running
// stage can write there what that one will find done.
func (e *Env) Begin(j *Job) error {
	r, err := e.x.address(j)
	if err != nil {
		return err
	}
	return e.x.clear(j, r.Address)
}

// Dir is where a stage's artifact lies.
func (e *Env) Dir(j *Job) string { return e.x.dir.stage(j.ID) }

// WorkDir holds the state of a stage's unfinished work, of each rank its own.
func (e *Env) WorkDir(j *Job) string { return rankDir(e.x.dir.work(j.ID), e.team) }

// Team is the processes that the running stage works in; nil: this one alone.
func (e *Env) Team() *Team { return e.team }

// Path is the file or folder a reference stands for.
func (e *Env) Path(ref Ref) string {
	if ref.Stage == "" {
		return ref.Path
	}
	j, dir := e.Job(ref.Stage), e.x.dir.stage(ref.Stage)
	if j.Kind.Path != nil {
		return j.Kind.Path(dir, e.x.Name, j.Options, ref.Member)
	}
	return dir
}

// Began is when work of this name began in the run folder, in Unix seconds: at, where no
// time was recorded before.
func (e *Env) Began(name string, at float64) float64 { return e.x.began(name, at) }

// ContentHash is the hash of a model's content, or of a file's or folder's.
func (e *Env) ContentHash(ref Ref) (Digest, error) {
	path, err := ResolvePath(e.Path(ref))
	if err != nil {
		return "", err
	}
	return e.x.hashes.tree(path)
}

// Event tells the watchers what the running stage is doing.
func (e *Env) Event(ev Event) {
	x := e.x
	if x.opt.Events == nil && x.log == nil {
		return
	}
	ev.Stage, ev.Index, ev.Of = x.jobs[x.at].ID, x.at+1, len(x.jobs)
	if ev.Memory == 0 && x.dev != nil {
		ev.Memory = x.dev.Info().InUse()
	}
	x.log.write(LoggedEvent{Event: ev})
	if x.opt.Events != nil {
		x.opt.Events(ev)
	}
}

// Note tells the watcher something in words.
func (e *Env) Note(text string) { e.Event(Event{What: "note", Text: text}) }

// Progress is a function that tells the watcher how far the stage is.
func (e *Env) Progress(unit string) func(done, total int64) {
	return func(done, total int64) {
		e.Event(Event{What: "progress", Done: done, Total: total, Unit: unit})
	}
}

// FailOn turns a counted event into an error where the recipe says so.
func (e *Env) FailOn(j *Job, what string, n int64) error {
	if n == 0 || !slices.Contains(e.x.FailOn, what) {
		return nil
	}
	return fail.Inputf(e.Where(j), "fail_on lists it", "%d %s", n, what)
}
