// Command gitops-judge says what GitOps tools say of objects, by the code of those tools: kstatus, which Flux waits by; the health of Argo CD,
// by checks in Lua as its ConfigMap holds them; and Argo CD's comparison of a manifest with the live object, in each of its three ways.
//
//	gitops-judge ARGOCD_CM OPENAPI_V2 <requests.json >verdicts.json
//
// ARGOCD_CM is a YAML file; OPENAPI_V2 the JSON document that the API server publishes, which two of the comparisons need. Requests and
// verdicts are JSON arrays in the same order.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// request is one object and, for a comparison, the manifest that it was applied from.
type request struct {
	Object   *unstructured.Unstructured `json:"object"`
	Manifest *unstructured.Unstructured `json:"manifest,omitempty"`
	// Predicted is what the API server answered to a server-side apply of the manifest in a dry run.
	Predicted json.RawMessage `json:"predicted,omitempty"`
}

type said struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

type verdict struct {
	Kstatus said `json:"kstatus"`
	Health  said `json:"health"`
	// Drift holds, for each way of comparing that was asked for, what Argo CD would change, as two JSON documents; empty: nothing.
	Drift map[string][2]json.RawMessage `json:"drift,omitempty"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gitops-judge:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: gitops-judge ARGOCD_CM OPENAPI_V2 <requests.json")
	}
	checks, err := readHealthChecks(args[0])
	if err != nil {
		return err
	}
	var requests []request
	if err := json.NewDecoder(os.Stdin).Decode(&requests); err != nil {
		return err
	}
	comparer := &comparer{openAPIFile: args[1]}
	verdicts := make([]verdict, 0, len(requests))
	for _, asked := range requests {
		judged, err := judge(asked, checks, comparer)
		if err != nil {
			return fmt.Errorf("%s %q: %w", asked.Object.GetKind(), asked.Object.GetName(), err)
		}
		verdicts = append(verdicts, judged)
	}
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}

func judge(asked request, checks healthChecks, comparer *comparer) (verdict, error) {
	result, err := status.Compute(asked.Object)
	if err != nil {
		return verdict{}, err
	}
	judged := verdict{Kstatus: said{Status: result.Status.String(), Message: result.Message}}
	if judged.Health, err = checks.judge(asked.Object); err != nil {
		return verdict{}, err
	}
	if asked.Manifest != nil {
		judged.Drift, err = comparer.compare(asked)
	}
	return judged, err
}
