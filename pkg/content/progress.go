package content

// Progress is what is told while bytes move, over core NATS and without a
// record: a hint for who watches, believed no further.
type Progress struct {
	Phase string `json:"phase" enum:"upload,probe"`
	Done  int64  `json:"done"`            // bytes
	Total int64  `json:"total,omitempty"` // bytes, 0: not known
}

// What moves.
const (
	PhaseUpload = "upload" // the client's bytes arrive
	PhaseProbe  = "probe"  // the file is read by the job
)

// ProgressSubject is where the watchers of a resource listen.
func ProgressSubject(resource string) string { return "writ.progress." + resource }
