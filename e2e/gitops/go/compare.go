package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/diff"
	openapi "github.com/google/gnostic-models/openapiv2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/util/proto"
)

// The field manager of Argo CD.
const manager = "argocd-controller"

// comparer compares as Argo CD does. It reads the types of the API server once, when they are needed first.
type comparer struct {
	openAPIFile string
	types       *managedfields.GvkParser
}

// predicted answers for the API server with what it has answered before.
type predicted json.RawMessage

func (p predicted) Run(context.Context, *unstructured.Unstructured, string) (string, error) {
	return string(p), nil
}

// compare compares by patch, as Argo CD does by default, where the object was applied that way; by the owners of fields, as with the option
// ServerSideApply, and by a dry run, as with ServerSideDiff, where the answer to one is given.
func (c *comparer) compare(asked request) (map[string][2]json.RawMessage, error) {
	ways := map[string][]diff.Option{"patch": nil}
	if asked.Predicted != nil {
		types, err := c.readTypes()
		if err != nil {
			return nil, err
		}
		owned := []diff.Option{diff.WithGVKParser(types), diff.WithManager(manager)}
		ways = map[string][]diff.Option{
			"owners": append(owned, diff.WithStructuredMergeDiff(true)),
			"dryRun": append(owned, diff.WithServerSideDiff(true), diff.WithServerSideDryRunner(predicted(asked.Predicted))),
		}
	}
	drift := make(map[string][2]json.RawMessage, len(ways))
	for way, options := range ways {
		compared, err := diff.Diff(asked.Manifest.DeepCopy(), asked.Object.DeepCopy(), options...)
		if err != nil {
			return nil, fmt.Errorf("compare by %s: %w", way, err)
		}
		if compared.Modified {
			drift[way] = [2]json.RawMessage{compared.NormalizedLive, compared.PredictedLive}
		}
	}
	return drift, nil
}

func (c *comparer) readTypes() (*managedfields.GvkParser, error) {
	if c.types != nil {
		return c.types, nil
	}
	text, err := os.ReadFile(c.openAPIFile)
	if err != nil {
		return nil, err
	}
	document, err := openapi.ParseDocument(text)
	if err != nil {
		return nil, err
	}
	models, err := proto.NewOpenAPIData(document)
	if err != nil {
		return nil, err
	}
	c.types, err = managedfields.NewGVKParser(models, false)
	return c.types, err
}
