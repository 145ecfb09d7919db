package cli

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"github.com/dustin/go-humanize"
	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/formats"
	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/formats/hub"
	"github.com/tunekit/tunekit/recipes"
)

func pushCommand() *ucli.Command {
	return &ucli.Command{
		Name: "push", Usage: "upload a folder or file to a repository of the Hugging Face Hub", ArgsUsage: "PATH hf://org/name[@branch]",
		Description: examples("tune push runs/support/merged hf://me/Llama-support --private --base-model meta-llama/Llama-3.2-1B-Instruct",
			"tune push M-Q4_K_M.gguf hf://me/M-GGUF --dry-run"),
		Flags: []ucli.Flag{
			&ucli.BoolFlag{Name: "private", Usage: "make a private repository, where it is not there yet"},
			&ucli.StringFlag{Name: "revision", Usage: "branch; made where it is not there (default: main)"},
			&ucli.BoolFlag{Name: "create-pr", Usage: "open a pull request and leave the branch as it is"},
			&ucli.StringFlag{Name: "message", Usage: "of the commit"},
			&ucli.StringFlag{Name: "token-file", Usage: "file with the token (default: HF_TOKEN, then the file of hf auth login)"},
			&ucli.StringFlag{Name: "base-model", Usage: "for the model card: what it was made of, org/name"},
			&ucli.StringSliceFlag{Name: "dataset", Usage: "for the model card: org/name (may repeat)"},
			&ucli.StringFlag{Name: "license", Usage: "for the model card (default: what the base says)"},
			&ucli.BoolFlag{Name: "no-card", Usage: "write no README.md"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "say what would be uploaded, with the card, and change nothing"},
			&ucli.BoolFlag{Name: "json", Usage: "what was done as one JSON object"},
			&ucli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress"}},
		Action: runPush,
	}
}

func runPush(c *ucli.Context) error {
	if err := args(c, "PATH hf://org/name[@branch]", 2); err != nil {
		return err
	}
	path, ref := c.Args().Get(0), c.Args().Get(1)
	if hub.IsRef(path) && !hub.IsRef(ref) {
		path, ref = ref, path // both orders can mean only one thing
	}
	if !hub.IsRef(ref) {
		return fail.Usagef("", "tune push PATH hf://org/name", "%q is no repository of the hub", ref)
	}
	if rev := c.String("revision"); rev != "" {
		if strings.Contains(ref, "@") {
			return fail.Usagef("", "one of the two", "the branch is given twice: %s and --revision %s", ref, rev)
		}
		ref += "@" + rev
	}
	r, err := hub.Parse(ref)
	if err != nil {
		return err
	}
	o := hub.PushOptions{Private: c.Bool("private"), CreatePR: c.Bool("create-pr"), Message: c.String("message"), DryRun: c.Bool("dry-run")}
	if f := c.String("token-file"); f != "" {
		raw, err := os.ReadFile(f)
		if o.Token = strings.TrimSpace(string(raw)); err != nil || o.Token == "" || len(raw) > 4096 || strings.ContainsAny(o.Token, " \n") {
			return fail.Inputf(f, "a file with the token and nothing else", "holds no token")
		}
	}
	if _, err := recipes.ResolvePath(path); err != nil { // a run folder is not one of its models
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return fail.Inputf(path, "", "%w", err)
	}
	if n := len(formats.Parts(path)); n > 1 {
		return fail.Usagef(path, "put them into a folder of their own and push that", "is one of the %d parts of a GGUF, and it alone is no model", n)
	}
	card, err := recipes.CardOf(path, recipes.CardOptions{Name: r.Repo, BaseModel: c.String("base-model"), Datasets: c.StringSlice("dataset"), License: c.String("license")})
	if err != nil {
		return err
	}
	own, note := recipes.OwnCard(path)
	if note != "" {
		card.Notes = append(card.Notes, note)
	}
	o.Replace = card.Replace
	if !own && !c.Bool("no-card") { // nor where the hub has one
		o.Extra, o.Replace["README.md"] = map[string][]byte{"README.md": card.Text}, nil
	}
	for _, n := range card.Notes {
		noteOn(c)(n)
	}
	var clear func()
	o.Progress, clear = bar(c, "push", "bytes")
	out, err := hub.Push(c.Context, path, ref, o)
	clear()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, out)
	}
	w := c.App.Writer
	if o.DryRun {
		for _, name := range out.Uploaded {
			fmt.Fprintln(w, "would upload", name)
		}
		if text, ok := o.Extra["README.md"]; ok && len(out.Uploaded) > 0 {
			fmt.Fprintf(w, "\n%s", text)
		}
		return nil
	}
	switch {
	case len(out.Uploaded) > 0:
		fmt.Fprintf(w, "%d files, %s; %s sent, %d unchanged\n", len(out.Uploaded), humanize.Bytes(uint64(out.Bytes)), humanize.Bytes(uint64(out.Sent)), len(out.Same))
	case len(out.Same) > 0:
		fmt.Fprintf(w, "%s has all %d files already\n", r, len(out.Same))
	default:
		fmt.Fprintf(w, "nothing to upload: %s ignores every file\n", r)
	}
	if len(out.Ignored) > 0 {
		fmt.Fprintln(w, "left out:", strings.Join(out.Ignored, " "))
	}
	if link := cmp.Or(out.PR, out.URL); link != "" {
		fmt.Fprintln(w, link)
	}
	return nil
}
