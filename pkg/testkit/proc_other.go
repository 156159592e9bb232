//go:build !linux

package testkit

import "syscall"

// childAttributes leaves children to the tests' own clean-up: only Linux can tie them to this process.
func childAttributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential, Setpgid: true}
}
