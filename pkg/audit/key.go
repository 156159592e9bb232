package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key signs checkpoints: one Ed25519 key under the base name writ/<name>. Each
// log has an origin of its own, writ/<name>/<log>, which is also its note key's
// name (C2SP tlog-checkpoint), so a log's signature is never another's.
type Key struct {
	PublicKey
	private ed25519.PrivateKey
}

// PublicKey verifies checkpoints of a Key.
type PublicKey struct {
	base   string // writ/<name>
	public ed25519.PublicKey
}

// The markers of note keys (golang.org/x/mod/sumdb/note).
const (
	privatePrefix = "PRIVATE+KEY+"
	algEd25519    = 1
)

// GenerateKey makes a key. The name, such as the host or the installation, is
// what stands in origins; it must not hold spaces, pluses or slashes.
func GenerateKey(name string) (*Key, error) {
	if name == "" || strings.ContainsAny(name, "/+ \t\r\n") {
		return nil, fmt.Errorf("audit key: name %q: want one word without spaces, + and /", name)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Key{PublicKey{"writ/" + name, public}, private}, nil
}

// String is the key in the form that ParseKey reads: note's encoded signer key
// of the base name. It is secret.
func (k *Key) String() string { return k.encoded(k.base) }

func (k *Key) encoded(name string) string {
	return privatePrefix + name + "+" + k.hash(name) + "+" + base64.StdEncoding.EncodeToString(append([]byte{algEd25519}, k.private.Seed()...))
}

// Signer signs checkpoints of one log.
func (k *Key) Signer(l Log) note.Signer {
	s, err := note.NewSigner(k.encoded(k.Origin(l)))
	if err != nil {
		panic("audit: a key that was checked is refused: " + err.Error())
	}
	return s
}

// ParseKey reads what String writes.
func ParseKey(s string) (*Key, error) {
	s = strings.TrimSpace(s)
	if _, err := note.NewSigner(s); err != nil {
		return nil, errors.New("not an audit key: want PRIVATE+KEY+writ/<name>+<hash>+<base64>") // the cause must not show the key
	}
	parts := strings.SplitN(strings.TrimPrefix(s, privatePrefix), "+", 3)
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return nil, errors.New("not an audit key: not Ed25519")
	}
	private := ed25519.NewKeyFromSeed(raw[1:])
	return &Key{PublicKey{parts[0], private.Public().(ed25519.PublicKey)}, private}, nil
}

// LoadKey reads a key file: one line as String writes it.
func LoadKey(path string) (*Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	k, err := ParseKey(string(b))
	if err != nil {
		return nil, fmt.Errorf("audit key %s: %w", path, err)
	}
	return k, nil
}

// CreateKey makes a key and writes it to a new file that only its owner may
// read. It reports fs.ErrExist if there is one already: a key is never overwritten.
func CreateKey(path, name string) (*Key, error) {
	k, err := GenerateKey(name)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".audit-key-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(k.String() + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	// A link, unlike a rename, does not replace: a half-written or a second key never stands there.
	if err := os.Link(f.Name(), path); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	return k, nil
}

// LoadOrCreateKey reads the key file, or makes it where there is none.
func LoadOrCreateKey(path, name string) (*Key, error) {
	k, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = CreateKey(path, name); errors.Is(err, fs.ErrExist) { // another process was faster
		return LoadKey(path)
	}
	return k, err
}

// ParsePublicKey reads a verifier key, writ/<name>+<hash>+<base64>, of the base
// name or of one log: they hold the same public key.
func ParsePublicKey(s string) (PublicKey, error) {
	s = strings.TrimSpace(s)
	if _, err := note.NewVerifier(s); err != nil {
		return PublicKey{}, fmt.Errorf("not an audit verifier key (%w): want writ/<name>+<hash>+<base64>", err)
	}
	parts := strings.SplitN(s, "+", 3)
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return PublicKey{}, errors.New("not an audit verifier key: not Ed25519")
	}
	base := parts[0]
	for _, l := range Logs {
		base = strings.TrimSuffix(base, "/"+string(l))
	}
	return PublicKey{base, raw[1:]}, nil
}

// IsZero tells whether there is no key.
func (p PublicKey) IsZero() bool { return p.public == nil }

// String is the verifier key of the base name, which ParsePublicKey reads: what
// to hand to those who are to check the log.
func (p PublicKey) String() string { return p.vkey(p.base) }

// VKey is the verifier key of one log, for any client of signed notes.
func (p PublicKey) VKey(l Log) string { return p.vkey(p.Origin(l)) }

// Origin is the log's name in checkpoints: writ/<name>/<log>.
func (p PublicKey) Origin(l Log) string { return p.base + "/" + string(l) }

// ID names the key in subjects: 8 hex digits.
func (p PublicKey) ID() string { return p.hash(p.base) }

// Verifier verifies checkpoints of one log.
func (p PublicKey) Verifier(l Log) note.Verifier {
	v, err := note.NewVerifier(p.VKey(l))
	if err != nil {
		panic("audit: a key that was checked is refused: " + err.Error())
	}
	return v
}

func (p PublicKey) vkey(name string) string {
	s, err := note.NewEd25519VerifierKey(name, p.public)
	if err != nil {
		panic("audit: a key that was checked is refused: " + err.Error())
	}
	return s
}

func (p PublicKey) hash(name string) string {
	hash, _, _ := strings.Cut(strings.TrimPrefix(p.vkey(name), name+"+"), "+")
	return hash
}
