//go:build !race

package store

// raceDetector tells that the tests run under it.
const raceDetector = false
