package events

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
	"sync"
)

// Seal proves that a record was made by a holder of the key, not merely by
// somebody who can write to NATS.
type Seal struct {
	KeyID string `json:"kid"`
	MAC   string `json:"mac"` // base64url, unpadded, of HMAC-SHA256 over the record's bytes
}

// Keyring holds the seal keys. The first one seals; all of them verify. To
// rotate, give every service the new key at the end of the list, then move it to
// the front everywhere; an old key is kept as long as the ledger holds records
// that it sealed, or they could not be verified when the audit log is rebuilt.
type Keyring struct {
	current string
	keys    map[string][]byte
	macs    map[string]*sync.Pool // of hash.Hash: one that was reset costs half of a new one
}

// minKey is the shortest key accepted, in bytes: RFC 2104 section 3 advises
// against keys shorter than the hash's output.
const minKey = sha256.Size

// ParseKeyring reads "id:base64[,id:base64…]", the form of WRIT_SEAL_KEYS.
func ParseKeyring(s string) (*Keyring, error) {
	k := &Keyring{keys: map[string][]byte{}, macs: map[string]*sync.Pool{}}
	for part := range strings.SplitSeq(s, ",") {
		id, text, ok := strings.Cut(strings.TrimSpace(part), ":")
		if !ok || id == "" {
			return nil, errors.New("seal keys: want id:base64[,id:base64…]")
		}
		key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
		if err != nil {
			return nil, fmt.Errorf("seal key %q: not base64", id)
		}
		if len(key) < minKey {
			return nil, fmt.Errorf("seal key %q: %d bytes, want %d or more", id, len(key), minKey)
		}
		if _, dup := k.keys[id]; dup {
			return nil, fmt.Errorf("seal key %q: given twice", id)
		}
		if k.current == "" {
			k.current = id
		}
		k.keys[id] = key
		k.macs[id] = &sync.Pool{New: func() any { return hmac.New(sha256.New, key) }}
	}
	return k, nil
}

// GenerateKey makes a key in the form that ParseKeyring reads.
func GenerateKey(id string) string {
	var key [minKey]byte
	_, _ = rand.Read(key[:]) // never fails: crypto/rand
	return id + ":" + base64.RawStdEncoding.EncodeToString(key[:])
}

// Seal seals record with the current key.
func (k *Keyring) Seal(record []byte) Seal {
	return Seal{KeyID: k.current, MAC: k.mac(k.current, record)}
}

// Verify reports ErrSeal unless s seals record with a key of the ring.
func (k *Keyring) Verify(record []byte, s Seal) error {
	if _, ok := k.keys[s.KeyID]; !ok {
		return fmt.Errorf("%w: unknown key %q", ErrSeal, s.KeyID)
	}
	if !hmac.Equal([]byte(s.MAC), []byte(k.mac(s.KeyID, record))) {
		return fmt.Errorf("%w: it does not fit the record", ErrSeal)
	}
	return nil
}

// mac gives the MAC as it stands in a seal. Seals are compared in this form:
// base64 that is merely read may be spelled in several ways.
func (k *Keyring) mac(id string, record []byte) string {
	m := k.macs[id].Get().(hash.Hash)
	defer k.macs[id].Put(m)
	m.Reset()
	_, _ = m.Write(record) // never fails: hash.Hash
	var sum [sha256.Size]byte
	return base64.RawURLEncoding.EncodeToString(m.Sum(sum[:0]))
}

// Derive gives a key of 32 bytes for another purpose from each key of the ring
// (HKDF-SHA256, RFC 5869), the current one's first: what is made with it says
// nothing about the seal keys, and rotates with them.
func (k *Keyring) Derive(purpose string) ([][]byte, error) {
	ids := []string{k.current}
	for id := range k.keys {
		if id != k.current {
			ids = append(ids, id)
		}
	}
	out := make([][]byte, len(ids))
	for i, id := range ids {
		var err error
		if out[i], err = hkdf.Key(sha256.New, k.keys[id], nil, purpose, sha256.Size); err != nil {
			return nil, fmt.Errorf("derive a key for %s: %w", purpose, err)
		}
	}
	return out, nil
}

// Current is the id of the key that seals.
func (k *Keyring) Current() string { return k.current }

// DeriveFrom is Derive from the key of one id; an error when the ring has none.
func (k *Keyring) DeriveFrom(id, purpose string) ([]byte, error) {
	key, ok := k.keys[id]
	if !ok {
		return nil, fmt.Errorf("there is no seal key %q", id)
	}
	out, err := hkdf.Key(sha256.New, key, nil, purpose, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive a key for %s: %w", purpose, err)
	}
	return out, nil
}

// Digest is the hex SHA-256 of b.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// String is the seal as it stands in the audit log: <kid>.<mac>.
func (s Seal) String() string { return s.KeyID + "." + s.MAC }

// ParseSeal reads what String writes. A key id may hold dots, a MAC cannot.
func ParseSeal(s string) (Seal, error) {
	i := strings.LastIndexByte(s, '.')
	if i < 1 {
		return Seal{}, fmt.Errorf("%w: %q is not <kid>.<mac>", ErrSeal, s)
	}
	return Seal{s[:i], s[i+1:]}, nil
}
