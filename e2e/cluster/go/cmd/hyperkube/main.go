// Command hyperkube is etcd, every Kubernetes component and kubectl in one executable. Its name, or else its first argument, chooses
// which. One executable is linked once instead of seven times, and all its processes share the same pages in memory.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	_ "time/tzdata" // The controller manager needs time zones for CronJobs, and an image or a machine may have none.

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// component runs one of the programs and does not return.
type component struct {
	name string
	run  func(args []string)
}

var components = []component{
	{"etcd", etcdmain.Main},
	{"kube-apiserver", command(apiserver.NewAPIServerCommand)},
	{"kube-controller-manager", command(controllermanager.NewControllerManagerCommand)},
	{"kube-proxy", command(proxy.NewProxyCommand)},
	{"kube-scheduler", command(func() *cobra.Command { return scheduler.NewSchedulerCommand() })},
	{"kubectl", runKubectl},
	{"kubelet", command(func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) })},
}

func command(build func() *cobra.Command) func([]string) {
	return func([]string) { os.Exit(cli.Run(build())) }
}

// runKubectl leaves the printing of errors to kubectl's own CheckErr, which knows how a user wants to read them.
func runKubectl([]string) {
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

func find(name string) (component, bool) {
	at := slices.IndexFunc(components, func(c component) bool { return c.name == name })
	if at < 0 {
		return component{}, false
	}
	return components[at], true
}

func main() {
	c, ok := find(filepath.Base(os.Args[0]))
	if !ok && len(os.Args) > 1 {
		if c, ok = find(os.Args[1]); ok {
			os.Args = os.Args[1:]
		}
	}
	if !ok {
		names := make([]string, 0, len(components))
		for _, c := range components {
			names = append(names, c.name)
		}
		fmt.Fprintln(os.Stderr, "usage: hyperkube COMPONENT [arguments]; components:", strings.Join(names, ", "))
		os.Exit(2)
	}
	c.run(os.Args)
}
