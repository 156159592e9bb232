package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// observation is the stack's process at one moment. What cannot be known is negative.
type observation struct {
	cpu        time.Duration // user and system time since its start
	peak       int64         // memory high-water in bytes
	resident   int64         // memory now, in bytes
	goroutines float64
	sequence   uint64 // the ledger's last
}

func (s *stack) observe(ctx context.Context) (observation, error) {
	o := observation{cpu: processorTime(s.pid), goroutines: -1}
	o.peak, o.resident = memory(s.pid)
	var err error
	if o.sequence, err = s.sequence(ctx); err != nil {
		return o, err
	}
	if n, err := s.gauge(ctx, "go_goroutines"); err == nil {
		o.goroutines = n
	}
	return o, nil
}

// gauge reads one of the API's metrics.
func (s *stack) gauge(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// tick is the unit of /proc/PID/stat: USER_HZ, 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// processorTime reads the 14th and 15th field of /proc/PID/stat (proc(5)); negative where there is no such file.
func processorTime(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return -1
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the second field is the program's name in parentheses
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return -1
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return -1
	}
	return time.Duration(user+system) * tick
}

// memory reads VmHWM and VmRSS of /proc/PID/status (proc(5)), which are in KiB.
func memory(pid int) (peak, now int64) {
	peak, now = -1, -1
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmHWM":
			peak = n << 10
		case "VmRSS":
			now = n << 10
		}
	}
	return
}
