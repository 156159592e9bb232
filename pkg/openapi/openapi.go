// Package openapi is what the OpenAPI documents of writ's services have in
// common, and the page that shows one.
package openapi

import (
	"cmp"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/problem"
)

// settle sets what is global in huma, once: another server of this process may
// be answering already.
var settle = sync.OnceFunc(func() {
	problem.Install()
	huma.ValidateStrictCasing = true // a member is its name to the letter: policies are asked about names
})

// Config is a service's configuration of huma: problems for errors, sessions
// for everybody, an OpenAPI 3.1 document at /openapi.json. publicURL may be empty.
func Config(title, description, version, publicURL string) huma.Config {
	settle()
	c := huma.DefaultConfig(title, version)
	c.Info.Description = description
	c.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	c.CreateHooks = nil                                       // no $schema members in answers
	c.DocsPath = ""                                           // ours needs nothing from elsewhere: Page
	c.Servers = []*huma.Server{{URL: cmp.Or(publicURL, "/")}} // relative to the document
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"session": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "A Stytch session JWT or session token"},
	}
	c.Security = []map[string][]string{{"session": {}}}
	return c
}
