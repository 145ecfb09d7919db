package train

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tunekit/tunekit/autograd"
	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/tokenizer"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels"
	"github.com/tunekit/tunekit/lora"
)

// Job is one training: what is trained on what, and where its state is kept.
type Job struct {
	Config  Config       // as returned by Resolve
	Model   *model.Model // loaded as Trainable where Config.Adapter is none
	Adapter *lora.Adapter
	Train   data.Examples
	Val     data.Examples // may be empty

	Answering Answering            // where Config.Asks or Writes
	Tokenizer *tokenizer.Tokenizer // of the samples, where Config.EvalTasks
	Teacher   *model.Model         // where Config.Distills, and the samples do not hold what it expects; not trained
	Reader    Reader               // where Config.UseULD, and the teacher has other tokens

	// Sources names the data sets that samples come from, and Source is the number of that
	// of a file, -1 for none; losses are told apart where there are several.
	Sources []string
	Source  func(file string) int

	MaxLength int    // longest sample, and size of a packed row
	Packing   string // bfd, none
	Shuffle   bool

	// Comm connects the ranks that train together; nil: one rank. A step then
	// has gradient_accumulation_steps micro-batches for each rank, and the result
	// depends on the number of ranks only by the order of sums. The caller owns
	// it, and closes it when Run returns so that other ranks do not wait. It has
	// Config.Ranks ranks.
	Comm Comm
	// Reference is what answers are held against; nil: the model without its adapter
	// or, where all weights are trained, as it is before the first step.
	Reference *Reference
	// AsItBegan takes the model as it is before the first step also where it has an
	// adapter, which is then a part of it.
	AsItBegan bool
	// Dir holds the run's state: checkpoints, metrics.jsonl, a lock. It is
	// made when absent; a run that finds its own state there goes on. Other ranks
	// than 0 have each another one, or none, for what has no room in memory and for
	// what answers are held against; they keep no state.
	Dir string
	// Identity names the inputs (base model, data, recipe): the state of a run
	// with another identity is refused.
	Identity string

	Progress func(Progress) // nil: none; called after every step and during validation
	Log      func(string)   // nil: none; things a user should read
}

// Progress is where a run is.
type Progress struct {
	Step, Total int
	Micro       int      // micro-batches done in the step in work
	Loss        float64  // of the last step; NaN before the first, and where it was left out for it
	Objective   Values   // of the last step
	Val         float64  // of the last validation; NaN before the first
	Tokens      int64    // seen so far
	PerSecond   float64  // tokens a second, over about the last ten steps
	Memory      int64    // bytes the device holds now
	ETA         float64  // seconds; NaN before the first step
	SavedStep   int      // of the newest checkpoint; -1: none yet
	Answering   bool     // the model writes answers
	Reward      *float64 // mean of the last answers; nil: none yet
	Evaluating  bool
}

// Result is what a finished run says about itself.
type Result struct {
	Steps     int
	Resumed   int     // step it went on from; 0: from the start
	Loss      float64 // of the last step; NaN where that was left out for it
	ValLoss   float64 // of the last validation, NaN without one
	BestStep  int     // step of the parameters that were kept
	Stopped   bool    // early, by validations
	Trainable int64   // values
	Skipped   int     // steps whose gradients overflowed, with dtype: fp16
	Tokens    int64
	BF16      bool // arithmetic used
	Recompute int  // blocks with gradient checkpointing at the end
	Memory    kernels.MemStats
}

// Total is the number of optimizer steps of a run over perEpoch steps an epoch.
func (c Config) Total(perEpoch int) int {
	if c.MaxSteps > 0 {
		return c.MaxSteps
	}
	return max(1, int(math.Ceil(c.NumEpochs*float64(perEpoch))))
}

// checkExperts refuses a loss over routers where the model has none.
func (j *Job) checkExperts() error {
	kind := objectives[j.Config.Objective]
	apart := kind.reward || kind.teacher
	if j.Config.RouterAuxLossCoef == nil && j.Model.Spec.RouterLoss && !apart {
		return fail.Usagef("train.router_aux_loss_coef", "router_aux_loss_coef: its router_aux_loss_coef; 0 leaves the loss out", "config.json of the model turns on a loss over its routers (output_router_logits), and the recipe does not say how much it weighs")
	}
	routers := slices.ContainsFunc(j.Model.Params(), func(p *autograd.Param) bool { return j.Model.TensorOf(p).Role == arch.Router })
	for _, c := range []struct {
		key  string
		coef float64
	}{{"router_aux_loss_coef", value(j.Config.RouterAuxLossCoef, 0)}, {"router_z_loss_coef", value(j.Config.RouterZLossCoef, 0)}} {
		switch {
		case c.coef == 0:
		case apart:
			return fail.Usagef("train."+c.key, "leave it out", "%s is not supported with objective: %s", c.key, j.Config.Objective)
		case !routers:
			return fail.Usagef("train."+c.key, "leave it out", "%s is %g, and the model has no experts", c.key, c.coef)
		}
	}
	return nil
}

// identity is the hash of all that decides the run's values, so that a state
// is only ever continued by the run it belongs to.
func (j *Job) identity(ps []param, bf16 bool, total int) (string, error) {
	c := j.Config
	c.GradientCheckpointing, c.SaveSteps, c.SaveTotalLimit, c.DType, c.OffloadOptimizer, c.ActivationOffloading, c.Tracking, c.Ranks, c.DDPTimeout = "", Every{}, 0, "", "", "", Tracking{}, 0, 0
	if c.Objective == "sft" { // states from before there were others go on
		c.Objective = ""
	}
	conf, err := yaml.Marshal(c)
	if err != nil {
		return "", err
	}
	info := j.Model.Dev.Info()
	h := sha256.New()
	e := json.NewEncoder(h)
	device := info.Name
	if j.Comm.Size() > 1 { // each rank has another of its kind
		device, _, _ = strings.Cut(device, ":")
	}
	err = e.Encode([]any{j.Identity, string(conf), device, info.Level, bf16, total, j.MaxLength, j.Packing, j.Shuffle})
	if n := j.Comm.Size(); n > 1 && err == nil { // a step is larger
		err = e.Encode([]any{"ranks", n})
	}
	if j.Config.DType == fp16 && err == nil {
		err = e.Encode(fp16)
	}
	for _, p := range ps {
		if err == nil {
			err = e.Encode([]any{p.Name, p.Rows, p.Cols, p.rate, p.decay})
		}
	}
	var id [8]byte
	for _, ex := range []data.Examples{j.Train, j.Val} {
		for i := range ex.Len() {
			binary.LittleEndian.PutUint64(id[:], ex.ID(i))
			h.Write(id[:])
		}
	}
	return hex.EncodeToString(h.Sum(nil)), err
}
