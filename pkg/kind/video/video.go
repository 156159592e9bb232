// Package video is the resource kind video.
package video

import "github.com/writ-project/writ/pkg/kind"

// The states of a video's processing.
const (
	NotProcessed = "NOT_PROCESSED"
	Processing   = "PROCESSING"
	Processed    = "PROCESSED"
	Failed       = "FAILED"
)

// Video is a video and what is known of its file.
type Video struct {
	kind.Meta
	Title       string  `json:"title" minLength:"1" maxLength:"300"`
	Description string  `json:"description,omitempty" maxLength:"10000"`
	IsActive    bool    `json:"is_active" required:"false" default:"true"`
	Region      *string `json:"region,omitempty" minLength:"1" maxLength:"100" doc:"The owner's region unless an admin names another"`
	Status      string  `json:"status" readOnly:"true" default:"NOT_PROCESSED" enum:"NOT_PROCESSED,PROCESSING,PROCESSED,FAILED"`

	// The file's facts: the first four from the upload, the others once it was probed.
	ContentID   *string `json:"content_id,omitempty" readOnly:"true" doc:"The upload that the facts are about"`
	ContentType *string `json:"content_type,omitempty" readOnly:"true"`
	Size        *int64  `json:"size,omitempty" readOnly:"true" doc:"Bytes"`
	SHA256      *string `json:"sha256,omitempty" readOnly:"true"`
	DurationMS  *int64  `json:"duration_ms,omitempty" readOnly:"true"`
	Width       *int64  `json:"width,omitempty" readOnly:"true" doc:"Pixels"`
	Height      *int64  `json:"height,omitempty" readOnly:"true" doc:"Pixels"`
	Codecs      *string `json:"codecs,omitempty" readOnly:"true"`
	Failure     *string `json:"failure,omitempty" readOnly:"true" doc:"Why the file could not be processed"`
}

// Kind registers videos.
var Kind = kind.Define[Video]("video",
	kind.Attr("is_active", "region", "status"),
	kind.Inherit("region"),
	kind.Search("title", "description"),
	kind.BodyAction(ActionUpload, upload),
	kind.SystemAction(ActionProcess, process),
)
