package stages

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/tunekit/tunekit/autograd/model"
	"github.com/tunekit/tunekit/autograd/model/arch"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/train"
)

// teaching is the teacher of a training that distils, while it is in memory.
type teaching struct {
	src   *arch.Source
	model *model.Model
}

// open loads the teacher of j.
func (t *teaching) open(x *recipes.Env, j *recipes.Job) error {
	if t.model != nil {
		return nil
	}
	ref, _ := j.In("teacher")
	var err error
	if t.src, err = OpenSource(x.Path(ref)); err != nil {
		return err
	}
	t.model, err = model.Load(x.Device(), t.src, model.Options{})
	return err
}

// teacherReader reads the rows of j, at data, with the tokens of its teacher.
func teacherReader(x *recipes.Env, j *recipes.Job, data, to recipes.Ref) (r train.Reader, err error) {
	if r.From, err = rowsTokenizer(x, data, to); err != nil {
		return r, err
	}
	ref, _ := j.In("teacher")
	if r.To, err = TokenizerOf(x.Path(ref)); err != nil {
		return r, err
	}
	return r, checkReader(r, ref)
}

// checkReader refuses a reader without a tokenizer of the rows, as rows of tokens may
// have, or of the teacher at ref.
func checkReader(r train.Reader, ref recipes.Ref) error {
	switch {
	case r.From == nil:
		return fail.Usagef("train.use_uld_loss", "put the tokenizer.json that the rows were made with beside the model, or leave use_uld_loss out for a teacher of the same tokens", "use_uld_loss reads the rows' text for the teacher, and there is no tokenizer of the rows")
	case r.To == nil:
		return fail.Usagef("train.teacher", "put its tokenizer.json beside it", "use_uld_loss reads the rows' text with the teacher's tokens, and %s has no tokenizer", ref)
	}
	return nil
}

func (t *teaching) close() {
	if t.model != nil {
		t.model.Close()
	}
	if t.src != nil {
		t.src.Close()
	}
	*t = teaching{}
}

// checkTeacher refuses a teacher that is the model itself, as it is held.
func checkTeacher(x *recipes.Env, j *recipes.Job) error {
	ref, _ := j.In("teacher")
	of, _ := j.In("model")
	if ref.Stage != of.Stage || ref.Path != of.Path || ref.Member != of.Member {
		return nil
	}
	src, err := OpenSource(x.Path(of))
	if err != nil {
		return err
	}
	defer src.Close()
	if quantized(src) || j.Options.(*Train).Adapter != "qlora" {
		return fail.Usagef("train.teacher", "name what it was quantized from", "the teacher is the model itself, as it is held")
	}
	return nil
}

// keepTaught has the teacher of j say what it expects of the rows, before
// the model takes its memory: its likeliest tokens, in files beside the checkpoints.
func keepTaught(ctx context.Context, x *recipes.Env, j *recipes.Job, ds *data.Dataset) error {
	var t teaching
	defer t.close()
	ask := func() (*model.Model, error) { err := t.open(x, j); return t.model, err }
	ref, _ := j.In("teacher")
	hash, err := x.ContentHash(ref)
	if err != nil {
		return err
	}
	c := j.Options.(*Train).Config
	src, err := trainSource(x, j, &c)
	if err != nil {
		return err
	}
	v := src.Spec.V
	src.Close()
	for _, part := range []struct {
		name string
		rows *data.Examples
	}{{"train", &ds.Train}, {"val", &ds.Val}} {
		path := filepath.Join(x.WorkDir(j), "teacher-"+part.name+".arrow")
		if *part.rows, err = train.Teach(ctx, c, path, fmt.Sprint(hash, " ", ds.Key), *part.rows, v, ask, x.Progress("samples asked of the teacher")); err != nil {
			return err
		}
	}
	return nil
}
