//go:build !race

package authz

// raceDetector tells that the tests run under it.
const raceDetector = false
