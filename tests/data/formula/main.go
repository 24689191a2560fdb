// Evaluates formulas as KEDA 2.19 does (apis/keda/v1alpha1/scaledobject_webhook.go, pkg/scaling/modifiers/formula.go).
//
// Reads from stdin, as JSON, a list of formulas with the values of their triggers; writes the list of results.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/expr-lang/expr"
)

type question struct {
	Formula string
	Values  map[string]float64
}

func main() {
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		log.Fatal(err)
	}
	results := []any{}
	for _, each := range questions {
		program, err := expr.Compile("float("+each.Formula+")", expr.Env(each.Values), expr.AsFloat64())
		if err != nil {
			log.Fatal(err)
		}
		result, err := expr.Run(program, each.Values)
		if err != nil {
			log.Fatal(err)
		}
		results = append(results, result)
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}
