package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/argoproj/argo-cd/gitops-engine/pkg/health"
	lua "github.com/yuin/gopher-lua"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	luajson "layeh.com/gopher-json"
	"sigs.k8s.io/yaml"
)

const (
	healthKeyPrefix = "resource.customizations.health."
	// As long as Argo CD gives a check.
	luaTimeout = time.Second
)

// healthChecks are the Lua scripts of a ConfigMap argocd-cm, by their whole keys.
type healthChecks map[string]string

func readHealthChecks(file string) (healthChecks, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var settings corev1.ConfigMap
	if err := yaml.UnmarshalStrict(text, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return settings.Data, nil
}

// judge leaves to Argo CD's own engine what comes before and after a check: objects that are being deleted, kinds that have none.
func (c healthChecks) judge(object *unstructured.Unstructured) (said, error) {
	judged, err := health.GetResourceHealth(object, c)
	if err != nil || judged == nil {
		return said{}, err
	}
	return said{Status: string(judged.Status), Message: judged.Message}, nil
}

// GetResourceHealth implements health.HealthOverride.
func (c healthChecks) GetResourceHealth(object *unstructured.Unstructured) (*health.HealthStatus, error) {
	kind := object.GroupVersionKind()
	script, ok := c[fmt.Sprintf("%s%s_%s", healthKeyPrefix, kind.Group, kind.Kind)]
	if !ok {
		return nil, nil
	}
	return runCheck(script, object)
}

// runCheck gives a script what Argo CD gives it by default: the basic functions, tables, and nothing else.
func runCheck(script string, object *unstructured.Unstructured) (*health.HealthStatus, error) {
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), luaTimeout)
	defer cancel()
	state.SetContext(ctx)
	// Numbers arrive as numbers of Lua, as they do in Argo CD.
	text, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
	value, err := luajson.Decode(state, text)
	if err != nil {
		return nil, err
	}
	state.SetGlobal("obj", value)
	if err := state.DoString(script); err != nil {
		return nil, err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return nil, fmt.Errorf("a health check gives a table, not %s", state.Get(-1).Type())
	}
	encoded, err := luajson.Encode(answer)
	if err != nil {
		return nil, err
	}
	var judged health.HealthStatus
	return &judged, json.Unmarshal(encoded, &judged)
}
