package server

import (
	"encoding/json"

	"github.com/writ-project/writ/pkg/events"
)

// ended tells of a session that was ended in one api instance, so that the
// others refuse its tokens, too. It is sealed: who can write to NATS and has no
// key signs nobody out. A notice that is lost, or comes while an instance is
// away, costs what it cost without: an opaque token is asked about again within
// 30 s, a JWT lives for 5 minutes at most.
type ended struct {
	SessionID string      `json:"session_id"`
	Seal      events.Seal `json:"seal"`
}

// maxNotice bounds a notice, in bytes: anybody may send to the subject.
const maxNotice = 1024

// sealed is what the seal is over: nothing else that is sealed begins like this.
func (n ended) sealed() []byte { return []byte("writ session ended\x00" + n.SessionID) }

// tellEnded tells the other instances. This one has refused the session already.
func (s *Server) tellEnded(sessionID string) {
	n := ended{SessionID: sessionID}
	n.Seal = s.Keys.Seal(n.sealed())
	data, err := json.Marshal(n)
	if err == nil {
		err = s.Ledger.Notify(events.SubjectRevoked, data)
	}
	if err != nil {
		s.Log.Warn("the other instances were not told of a session that has ended", "error", err)
	}
}

// hearEnded refuses the tokens of a session that another instance ended.
func (s *Server) hearEnded(data []byte) {
	var n ended
	if len(data) > maxNotice || json.Unmarshal(data, &n) != nil || n.SessionID == "" || s.Keys.Verify(n.sealed(), n.Seal) != nil {
		return // not an api's
	}
	s.Identity.Refuse(n.SessionID)
}
