package video

import (
	"encoding/json"
	"fmt"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// The actions that are about a video's file.
const (
	// ActionUpload puts a new file in the place of the one before. Its body is Upload.
	ActionUpload = "upload"
	// ActionProcess moves the status. The system does it alone, when a job has
	// looked at the file. Its body is Progress.
	ActionProcess = "process"
)

// Upload is the body of an upload command: a file whose bytes are in the
// content store already.
type Upload struct {
	ContentID   string `json:"content_id"`
	ContentType string `json:"content_type"`
	Size        int64  `json:"size"`   // bytes
	SHA256      string `json:"sha256"` // hex
}

// Progress is the body of a process command.
type Progress struct {
	// ContentID is the upload that was looked at: one that has been replaced
	// meanwhile changes nothing.
	ContentID string `json:"content_id"`
	Status    string `json:"status"` // Processing, Processed or Failed
	Facts
	Failure string `json:"failure,omitempty"`
}

// Facts are what a probe finds out about a file.
type Facts struct {
	DurationMS int64  `json:"duration_ms,omitempty"` // 0: the file does not tell
	Width      int64  `json:"width,omitempty"`       // pixels
	Height     int64  `json:"height,omitempty"`
	Codecs     string `json:"codecs,omitempty"` // as in RFC 6381, comma between them
}

// MaxFailure bounds the reason of a failure, in bytes.
const MaxFailure = 500

// upload makes the row of a new file that waits to be probed. What was known of
// the file before is forgotten.
func upload(v *Video, by kind.By) error {
	var u Upload
	if err := json.Unmarshal(by.Body, &u); err != nil {
		return fmt.Errorf("read an upload: %w", err)
	}
	if u.ContentID == "" || u.Size < 0 || len(u.SHA256) != 64 {
		return fault.New(fault.Invalid, "invalid", "the upload is not complete")
	}
	v.Status = NotProcessed
	v.ContentID, v.ContentType, v.Size, v.SHA256 = &u.ContentID, &u.ContentType, &u.Size, &u.SHA256
	v.DurationMS, v.Width, v.Height, v.Codecs, v.Failure = nil, nil, nil, nil, nil
	return nil
}

// process moves the status of the file that was looked at. A newer upload wins
// over the result of an older one's probe.
func process(v *Video, by kind.By) error {
	var p Progress
	if err := json.Unmarshal(by.Body, &p); err != nil {
		return fmt.Errorf("read a progress: %w", err)
	}
	if v.ContentID == nil || *v.ContentID != p.ContentID {
		return fault.Conflict("superseded", "video %s has another file by now", v.ID)
	}
	v.DurationMS, v.Width, v.Height, v.Codecs, v.Failure = nil, nil, nil, nil, nil
	switch v.Status = p.Status; p.Status {
	case Processing:
	case Processed:
		v.DurationMS, v.Width, v.Height, v.Codecs = known(p.DurationMS), known(p.Width), known(p.Height), known(p.Codecs)
	case Failed:
		v.Failure = &p.Failure
	default:
		return fault.New(fault.Invalid, "invalid", "a video's status cannot become %q", p.Status)
	}
	return nil
}

// known gives a fact, nil for one that the file does not tell.
func known[T comparable](v T) *T {
	var none T
	if v == none {
		return nil
	}
	return &v
}

// Waits reports whether the video's file is still to be probed.
func (v *Video) Waits() bool {
	return v.ContentID != nil && (v.Status == NotProcessed || v.Status == Processing)
}
