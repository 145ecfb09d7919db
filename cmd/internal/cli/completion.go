package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tunekit/tunekit/autograd/reference"
	"github.com/tunekit/tunekit/data"
	"github.com/tunekit/tunekit/data/chat"
	"github.com/tunekit/tunekit/quant"
	"github.com/tunekit/tunekit/quant/gguf"
	"github.com/tunekit/tunekit/recipes"
	"github.com/tunekit/tunekit/recipes/schema"
	"github.com/tunekit/tunekit/recipes/stages"
)

func completionCommand() *ucli.Command {
	return &ucli.Command{
		Name: "completion", Usage: "print a completion script: bash, zsh or fish", ArgsUsage: "SHELL",
		Description: examples(`eval "$(tune completion bash)"`, "tune completion fish > ~/.config/fish/completions/tune.fish"),
		Action: func(c *ucli.Context) error {
			if err := args(c, "SHELL", 1); err != nil {
				return err
			}
			script, ok := shells[c.Args().First()]
			if !ok {
				return usagef(c, "found %q, want bash, zsh or fish", c.Args().First())
			}
			names := c.App.Name
			if names != "quant" {
				names += " tunekit quant" // each completes itself
			}
			_, err := fmt.Fprint(c.App.Writer, strings.NewReplacer("NAMES", names, "PROG", c.App.Name, "HIDDEN", completeWord, "@files", anyFile).Replace(script))
			return err
		},
	}
}

const (
	completeWord = "__complete" // the first argument of a program that a shell asks
	anyFile      = "@files"     // a candidate: files, too
)

// complete lists what can stand for the last of the words on a command line.
func complete(name string, words []string) []string {
	last := len(words) - 1
	if last < 0 {
		return nil
	}
	app := newApp(name, io.Discard, io.Discard)
	cmds := app.Commands
	var cmd *ucli.Command
	i := 0
	for ; i < last; i++ {
		at := slices.IndexFunc(cmds, func(c *ucli.Command) bool { return c.HasName(words[i]) })
		if at < 0 {
			break
		}
		cmd = cmds[at]
		cmds = cmd.Subcommands
	}
	if at := strings.IndexByte(words[last], '='); at > 0 && strings.HasPrefix(words[last], "--") { // --flag=value
		out := complete(name, append(slices.Clone(words[:last]), words[last][:at], words[last][at+1:]))
		for k, w := range out {
			if w != anyFile {
				out[k] = words[last][:at+1] + w
			}
		}
		return out
	}
	var all []string
	switch flag := flagBefore(cmd, words[i:last]); {
	case flag != "":
		all = listed(words[last], flagWords(cmd.Name, flag, words[i:last], words[last]))
	case strings.HasPrefix(words[last], "-"):
		all = flagNames(cmd)
	case cmd == nil || len(cmds) > 0:
		for _, c := range cmds {
			all = append(all, c.Name)
		}
	default:
		all = argumentWords(app, cmd)
	}
	var out []string
	for _, s := range all {
		if s == anyFile || strings.HasPrefix(s, words[last]) {
			out = append(out, s)
		}
	}
	return out
}

// flagBefore is the flag of a command whose value comes next, "" for none.
func flagBefore(cmd *ucli.Command, words []string) string {
	if cmd == nil || len(words) == 0 || !strings.HasPrefix(words[len(words)-1], "-") {
		return ""
	}
	f := flagOf(cmd.Flags, strings.TrimLeft(words[len(words)-1], "-"))
	if f == nil || !takesValue(f) {
		return ""
	}
	return f.Names()[0]
}

func flagNames(cmd *ucli.Command) []string {
	out := []string{"--help"}
	if cmd == nil {
		return append(out, "--version")
	}
	for _, f := range cmd.Flags {
		out = append(out, "--"+f.Names()[0])
	}
	return out
}

// optionsOf are the structs of options that a command has flags of.
func optionsOf(command string) []any {
	switch command {
	case "export":
		return []any{&stages.Export{}}
	case "merge":
		return []any{&stages.Merge{}, &data.Source{}}
	case "eval":
		return []any{&stages.Eval{}, &data.Source{}}
	case "ingest", "init", "train", "imatrix":
		return []any{&data.Options{}, &data.Source{}}
	case "gguf":
		return nil
	}
	if slices.Contains(quant.FolderMethods(), command) {
		return []any{&stages.Quantize{}, &data.Source{}}
	}
	return nil
}

// listed are candidates for the last element of a list of words with commas.
func listed(last string, all []string) []string {
	at := strings.LastIndexByte(last, ',') + 1
	if at == 0 || slices.Contains(all, anyFile) {
		return all
	}
	out := make([]string, len(all))
	for i, w := range all {
		out[i] = last[:at] + w
	}
	return out
}

// flagWords are the values of a flag; words are those of the line so far, last the one that
// is written.
func flagWords(command, flag string, words []string, last string) []string {
	key := strings.ReplaceAll(flag, "-", "_")
	switch {
	case flag == "type" && (command == "gguf" || command == "export"), strings.HasSuffix(flag, "-type") && command == "gguf":
		return append(gguf.FileTypes(), "F32")
	case flag == "for" && command == "init":
		return []string{"ollama", "llama.cpp", "vllm", "transformers"}
	case flag == "for":
		return quant.Programs()
	case flag == "tasks":
		return stages.Tasks
	case flag == "device":
		keys := stages.All.Keys("")
		return keys[slices.IndexFunc(keys, func(k schema.Key) bool { return k.Name == flag })].Words
	case flag == "dtype":
		return []string{"auto", "f32", "bf16"}
	case flag == "storage":
		return []string{"auto", "f32", "f16", "bf16"}
	case flag == "chat-template":
		return append([]string{"model", anyFile}, chat.Builtins()...)
	case flag == "copy":
		return recipeNames()
	case flag == "only" || flag == "from":
		return stageNames(words)
	case flag == "set":
		return setWords(words, last)
	}
	for _, o := range optionsOf(command) {
		if schema.Has(o, key) {
			if enum := schema.Lookup(o, key).Enum; enum != nil {
				return enum
			}
		}
	}
	return []string{anyFile}
}

func recipeNames() []string {
	var out []string
	for _, e := range recipes.Embedded() {
		out = append(out, e.Name)
	}
	return out
}

// stagesOf are the stages of the first of the words that is a recipe; nil where none is.
func stagesOf(words []string) []recipes.Stage {
	for _, w := range words {
		if r, err := stages.All.Open(w, nil); err == nil {
			return r.Stages
		}
	}
	return nil
}

// stageNames are the ids of those stages.
func stageNames(words []string) []string {
	var out []string
	for _, s := range stagesOf(words) {
		out = append(out, s.ID)
	}
	return out
}

// setWords are the keys of a recipe as --set writes them, of stages by the ids in the
// recipe on the line, else by their kinds; behind a key and = its values.
func setWords(line []string, last string) []string {
	kinds := map[string][]string{} // ids
	var ids []string
	for _, s := range stagesOf(line) {
		kinds[s.Kind.Name], ids = append(kinds[s.Kind.Name], s.ID), append(ids, s.ID)
	}
	key, _, value := strings.Cut(last, "=")
	var out []string
	for _, section := range append([]string{""}, stages.All.Sections()...) {
		kind, rest, _ := strings.Cut(section, ".")
		at := []string{kind}
		if len(ids) > 0 && section != "" {
			at = kinds[kind]
		}
		for _, k := range stages.All.Keys(section) {
			for _, id := range at {
				name := schema.Join(schema.Join(id, rest), k.Name)
				switch {
				case k.Name == "stages":
				case !value:
					out = append(out, name+"=")
				case name == key:
					words := k.Words
					if words == nil && (k.Type == "text" || strings.HasPrefix(k.Type, "name")) { // it may be a stage or a path
						words, out = ids, append(out, anyFile)
					}
					for _, w := range words {
						out = append(out, key+"="+w)
					}
				}
			}
		}
	}
	return out
}

// argumentWords are what the argument of a command can be.
func argumentWords(app *ucli.App, cmd *ucli.Command) []string {
	switch cmd.Name {
	case "run", "plan", "validate":
		return append(recipeNames(), anyFile)
	case "completion":
		return []string{"bash", "fish", "zsh"}
	case "graph":
		return reference.Names()
	case "help":
		out := []string{"recipe", "recipe.stages"}
		for _, s := range stages.All.Sections() {
			out = append(out, "recipe."+s)
		}
		for _, c := range slices.Concat(app.Commands, quantCommands()) {
			out = append(out, c.Name)
		}
		return out
	}
	return []string{anyFile}
}

// shells are scripts that ask the program itself.
var shells = map[string]string{
	"bash": `_PROG_complete() {
  local cur="${COMP_WORDS[COMP_CWORD]}" all i words=() line="${COMP_LINE:0:COMP_POINT}" front=""
  for ((i = 1; i <= COMP_CWORD; i++)); do # key=value, which bash may take apart
    if [[ ${#words[@]} -gt 0 && ( ${COMP_WORDS[i]} == "=" || ${COMP_WORDS[i-1]} == "=" ) ]]; then
      words[-1]+="${COMP_WORDS[i]}"
    else
      words+=("${COMP_WORDS[i]}")
    fi
  done
  [[ ${#words[@]} -gt 0 && ${words[-1]} == *=* && $COMP_WORDBREAKS == *=* ]] && front="${words[-1]%%=*}=" && cur="${words[-1]#*=}"
  all="$("${COMP_WORDS[0]}" HIDDEN "${words[@]}" 2>/dev/null)"
  COMPREPLY=($(compgen -W "$(for i in $all; do [[ $i == @files || $i != *@files ]] && echo "${i#"$front"}"; done)" -- "$cur"))
  [[ "$all" == *@files* ]] && COMPREPLY+=($(compgen -f -- "$cur"))
  [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o filenames -F _PROG_complete NAMES
`,
	"zsh": `#compdef NAMES
_PROG() {
  local -a all
  all=("${(@f)$(${words[1]} HIDDEN "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  (( ${all[(I)@files]} )) && _files
  all=(${all:#@files})
  local -a keys=(${(M)all:#*=})
  compadd -S '' -a keys
  all=(${all:#*=})
  compadd -a all
}
compdef _PROG NAMES
`,
	"fish": `function __PROG_complete
  set -l words (commandline -opc)
  for w in ($words[1] HIDDEN $words[2..] (commandline -ct) 2>/dev/null)
    if test "$w" = @files
      __fish_complete_path (commandline -ct)
    else
      echo $w
    end
  end
end
for p in NAMES
  complete -c $p -f -a '(__PROG_complete)'
end
`,
}
