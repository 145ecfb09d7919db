package report

// Section is what one stage shows in a report: plain data, made by the stage's
// kind.
type Section struct {
	Stage string

	Facts []string  // one line each
	Next  []Command // what to type next
	Try   string    // a model to talk to, "" for none
	TryOn string    // the base of Try, where that is an adapter

	Models     []Row         // what the stage made; sizes are filled in from the files
	Measured   []MeasuredRow // models that the stage measured
	MeasuredOn string        // says which data; evaluations on the same share a table

	Evaluation *Evaluation // for CI systems
	Gates      []Gate
	Failed     bool // a gate of this stage says no

	Curves  *Curves
	Data    *Data
	Layers  []Layers
	Types   []Types
	Answers []Answered
	Learned []Answered // answers that a training learned from, or was validated by, over its time
	Grids   []Grid

	Files map[string][]byte // for other programs, by path in the run folder
}

// MeasuredRow is the row of a model that a stage measured.
type MeasuredRow struct {
	Row
	Alone bool // as its files are, without an adapter on top
}

// Gate is the verdict about one limit.
type Gate struct{ Verdict, Text string }

// Pair is a name and what belongs to it.
type Pair struct{ Name, Value string }

// Curves are numbers over the steps of a training.
type Curves struct {
	Line   string
	Charts []Chart
}

// Data says what became of rows.
type Data struct {
	Line, Longest string
	Words         []string // a paragraph each
	Lengths       []Bar
	Counts, Bad   []Pair
	Tables        []Grid // what to act on
	Samples       []Sample
}

// Bar is one bar of a histogram.
type Bar struct {
	Label string
	Count int64
}

// Sample is a row as the model sees it.
type Sample struct {
	Where  string
	Pieces []Piece
}

// Piece is a part of a sample's text.
type Piece struct {
	Text string
	On   bool // learned
}

// Layers is a number for each layer of a model, drawn and with its worst ones
// named.
type Layers struct {
	Title, Line, WorstTitle, ChartTitle string
	Head                                []string // of the table of the worst
	Values                              []Layer
}

// Layer is one layer in Layers.
type Layer struct {
	Name  string
	Value float64
	Cells []string // beside its name in the table
}

// Types says which storage types tensors have, and why.
type Types struct {
	Title string
	Rows  []TypeRow
}

// TypeRow is one type, chosen for one reason.
type TypeRow struct {
	Type, Size, Why string
	Count           int
}

// Answered is a prompt with the answers of several models.
type Answered struct {
	Prompt, Want string
	Got          []AnswerText
}

// AnswerText is the answer of a model, or of one at some time; Class is right, wrong, or "" where no answer
// is wanted.
type AnswerText struct{ Model, Text, Class string }

// Grid is a table of a stage's own.
type Grid struct {
	Title string     `json:"title"`
	Note  string     `json:"note,omitempty"`
	Head  []string   `json:"head"`
	Left  int        `json:"left"` // so many columns are words; the others are numbers
	Rows  [][]string `json:"rows"`
}

// right says which columns are aligned to the right.
func (g *Grid) right() []bool {
	out := make([]bool, len(g.Head))
	for i := range out {
		out[i] = i >= g.Left
	}
	return out
}
