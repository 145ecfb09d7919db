// Package stages holds the kinds of stages that a recipe can have, a file each:
// options, inputs, what the address depends on, plan, run, and what reports
// show. What a command of its own does, too, is a function beside its stage.
package stages

import "github.com/tunekit/tunekit/recipes"

// All is the table of kinds. A new one is one line here and one file.
var All = recipes.Kinds{&addTokensKind, &ingestKind, &trainKind, &mergeKind, &mergeModelsKind, &quantizeKind, &exportKind, &evalKind, &benchKind}
