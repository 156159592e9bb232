package testkit

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

// find returns the path of an executable: the value of variable if set, else program on PATH, in the
// repository's .tools/bin, or under one of the glob patterns (the last match, that is the newest version).
func find(program, variable string, patterns ...string) (string, error) {
	if path := os.Getenv(variable); path != "" { // a variable without a name is never set
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	if root, ok := repository(); ok {
		patterns = append([]string{filepath.Join(root, ".tools", "bin")}, patterns...)
	}
	for _, pattern := range patterns {
		matches, err := filepath.Glob(filepath.Join(pattern, program))
		if err != nil {
			return "", err
		}
		for i := len(matches) - 1; i >= 0; i-- {
			if path, err := exec.LookPath(matches[i]); err == nil {
				return path, nil
			}
		}
	}
	if variable == "" {
		return "", fmt.Errorf("%s is not on PATH", program)
	}
	return "", fmt.Errorf("%s is not on PATH; install it or set %s", program, variable)
}

// repository is the closest folder upwards that holds go.work.
func repository() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", false
		}
		dir = parent
	}
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// FreePort returns a TCP port of 127.0.0.1 on which nothing listens. It lies below the range from which the
// kernel takes the ports of outgoing connections, and is never given twice by one process.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func freePort() (int, error) {
	const first, count = 20000, 12000
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 200 {
		port := first + rand.IntN(count)
		if ports.given[port] {
			continue
		}
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, err
		}
		ports.given[port] = true
		return port, nil
	}
	return 0, errors.New("no free port on 127.0.0.1")
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
