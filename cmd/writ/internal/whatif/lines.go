package whatif

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/writ-project/writ/pkg/events"
)

// maxLine bounds a line of an export, in bytes.
const maxLine = events.MaxEvent + 64<<10

// Lines gives the lines of an export or of a tail one by one, for Run, without
// those that are empty. A line without an end was cut off: io.ErrUnexpectedEOF.
func Lines(from io.Reader) (next func() (line []byte, ok bool, err error)) {
	r := bufio.NewReaderSize(from, 1<<20)
	return func() ([]byte, bool, error) {
		for {
			line, err := readLine(r)
			if errors.Is(err, io.EOF) {
				return nil, false, nil
			}
			if err != nil || len(line) > 0 {
				return line, err == nil, err
			}
		}
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("a line is longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) > 0:
			return nil, fmt.Errorf("the last line is cut off: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return nil, err
		}
		return bytes.TrimSpace(line), nil
	}
}

// decisionOf gives the decision's bytes of a line: of an export, where they are
// the member decision, or of audit tail -o json, where they are the line. A line
// without one (an export's last) is nil. A decision that the auditor has masked
// has none of what it was taken on.
func decisionOf(line []byte) (record []byte, masked bool) {
	var of struct {
		ID         json.RawMessage `json:"id"`
		Decision   json.RawMessage `json:"decision"`
		Masked     json.RawMessage `json:"masked"`
		Checkpoint json.RawMessage `json:"checkpoint"`
	}
	if !events.Members(line, func(name, v []byte) bool {
		switch string(name) {
		case "id":
			of.ID = v
		case "decision":
			of.Decision = v
		case "masked":
			of.Masked = v
		case "checkpoint":
			of.Checkpoint = v
		}
		return true
	}) && json.Unmarshal(line, &of) != nil {
		return line, false // counted as unreadable
	}
	switch {
	case of.Decision != nil:
		return of.Decision, string(of.Masked) == "true"
	case of.ID == nil && of.Checkpoint != nil:
		return nil, false
	}
	return line, false
}
