//go:build !race

package testkit

// Race tells that the test runs under the race detector.
const Race = false
