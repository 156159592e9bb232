package server

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// errGone means that the client is gone, or does not read.
var errGone = errors.New("the client is gone")

// sink writes an answer that lasts. A client has some time to take each part;
// nothing is kept for one that does not, whose connection ends then.
type sink struct {
	*bufio.Writer
	control *http.ResponseController
}

// sinkBuffer is what a client has to take in the time that it has, in bytes.
const sinkBuffer = 32 << 10

func newSink(w http.ResponseWriter, within time.Duration) *sink {
	control := http.NewResponseController(w)
	return &sink{bufio.NewWriterSize(patient{w, control, within}, sinkBuffer), control}
}

// patient gives each write its own deadline.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	within  time.Duration
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(p.within)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

func (s *sink) text(t string) error {
	_, err := s.WriteString(t)
	return err
}

// event writes a server-sent event; id may be empty.
func (s *sink) event(id, name string, data any) error {
	b, err := encode(data)
	if err != nil {
		return err
	}
	if id != "" {
		_ = s.text("id: " + id + "\n") // an error stays
	}
	_ = s.text("event: " + name + "\ndata: ")
	_, _ = s.Write(b)
	return s.text("\n\n")
}

// flush sends what was written.
func (s *sink) flush() error {
	if err := s.Flush(); err != nil {
		return err
	}
	return s.control.Flush()
}

// encode gives JSON on one line, recorded bytes unchanged.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
