package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// ErrSignature means that a checkpoint is not signed by the key expected.
var ErrSignature = errors.New("the checkpoint is not signed by this key")

// Checkpoint is what a signed note vouches for: the log's tree had this hash at
// this size.
type Checkpoint struct {
	Origin string
	Tree   tlog.Tree
	Note   []byte // the signed note as it was read or made
}

// maxNote bounds a signed note, in bytes.
const maxNote = 1 << 16

// Sign makes the log's checkpoint. The same tree gives the same bytes: Ed25519
// has no randomness, and the note no time.
func (k *Key) Sign(l Log, tree tlog.Tree) (Checkpoint, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.Origin(l), tree.N, tree.Hash)
	signed, err := note.Sign(&note.Note{Text: text}, k.Signer(l))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign the checkpoint: %w", err)
	}
	return Checkpoint{k.Origin(l), tree, signed}, nil
}

// Open reads a signed note and checks that it is the log's and signed by the
// key. Errors are ErrSignature or tell what is malformed.
func (p PublicKey) Open(l Log, signed []byte) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("malformed checkpoint: %d bytes, at most %d", len(signed), maxNote)
	}
	n, err := note.Open(signed, note.VerifierList(p.Verifier(l)))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	c, err := parse(n.Text)
	if err != nil {
		return Checkpoint{}, err
	}
	if c.Origin != p.Origin(l) {
		return Checkpoint{}, fmt.Errorf("the checkpoint is of the log %q, not of %q", c.Origin, p.Origin(l))
	}
	c.Note = signed
	return c, nil
}

// ParseCheckpoint reads a signed note without checking who signed it: for what
// is believed for another reason, such as a seal.
func ParseCheckpoint(signed []byte) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("malformed checkpoint: %d bytes, at most %d", len(signed), maxNote)
	}
	text, _, ok := strings.Cut(string(signed), "\n\n")
	if !ok {
		return Checkpoint{}, errors.New("malformed checkpoint: no signature")
	}
	c, err := parse(text + "\n")
	c.Note = signed
	return c, err
}

// Log gives the log that the checkpoint is of, by its origin.
func (c Checkpoint) Log() (Log, error) {
	for _, l := range Logs {
		if strings.HasSuffix(c.Origin, "/"+string(l)) {
			return l, nil
		}
	}
	return "", fmt.Errorf("checkpoint of an unknown log: %q", c.Origin)
}

// parse reads a checkpoint's text: origin, size, hash, and lines that are for
// others to understand (C2SP tlog-checkpoint).
func parse(text string) (Checkpoint, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) != 4 || lines[0] == "" {
		return Checkpoint{}, errors.New("malformed checkpoint: want origin, size and hash")
	}
	n, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != lines[1] {
		return Checkpoint{}, errors.New("malformed checkpoint: size")
	}
	h, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(h) != tlog.HashSize {
		return Checkpoint{}, errors.New("malformed checkpoint: hash")
	}
	return Checkpoint{Origin: lines[0], Tree: tlog.Tree{N: n, Hash: tlog.Hash(h)}}, nil
}

// Signed is the latest checkpoint of each log, signed at the same moment.
type Signed struct {
	Decisions, Outcomes []byte // signed notes
	// Sequence is the ledger address up to which the two trees account for
	// every event.
	Sequence events.Address
}

// Of gives one log's note.
func (s Signed) Of(l Log) []byte {
	if l == Outcomes {
		return s.Outcomes
	}
	return s.Decisions
}
