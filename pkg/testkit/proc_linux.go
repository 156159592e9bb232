package testkit

import "syscall"

// childAttributes ties a child to this process: it dies with it, even when a test run is killed.
func childAttributes(credential *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: credential, Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
