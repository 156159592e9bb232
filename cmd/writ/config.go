package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/caarlos0/env/v11"

	"github.com/writ-project/writ/pkg/settings"
	"github.com/writ-project/writ/services/api"
	"github.com/writ-project/writ/services/auditor"
	"github.com/writ-project/writ/services/worker"
)

type configCmd struct{}

// Run prints every setting of the three services, its value and who reads it.
func (configCmd) Run(a *app) error {
	type setting struct {
		value string
		of    []string
	}
	all := map[string]*setting{}
	for _, s := range []struct {
		service string
		config  any
	}{{"api", &api.Config{}}, {"worker", &worker.Config{}}, {"auditor", &auditor.Config{}}} {
		params, err := env.GetFieldParams(s.config)
		if err != nil {
			return err
		}
		for _, p := range params {
			if p.Key == "" || p.Ignored {
				continue
			}
			if all[p.Key] == nil {
				value, set := os.LookupEnv(p.Key)
				switch {
				case set:
					value = settings.Hide(p.Key, value)
				case p.HasDefaultValue && p.DefaultValue != "":
					value = p.DefaultValue + " (default)"
				case p.Required:
					value = "(missing)"
				default:
					value = "(not set)"
				}
				all[p.Key] = &setting{value: value}
			}
			all[p.Key].of = append(all[p.Key].of, s.service)
		}
	}
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, n := range names {
		fmt.Fprintf(w, "%s\t%s\t%s\n", n, all[n].value, strings.Join(all[n].of, " "))
	}
	return w.Flush()
}
