package signin

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/writ-project/writ/pkg/events"
)

// box seals what browsers keep for us: nobody reads or changes it but us
// (AES-256-GCM). The first key seals, all of them open.
type box struct{ keys []cipher.AEAD }

func newBox(ring *events.Keyring) (*box, error) {
	keys, err := ring.Derive("writ sign-in cookie")
	if err != nil {
		return nil, err
	}
	b := &box{}
	for _, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("make the cookies' cipher: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("make the cookies' cipher: %w", err)
		}
		b.keys = append(b.keys, aead)
	}
	return b, nil
}

func (b *box) seal(v asked) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("seal a cookie: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b.keys[0].Seal(nil, nil, text, nil)), nil
}

// open reports whether the text is one that we sealed. What is too old the
// caller judges.
func (b *box) open(sealed string) (v asked, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return v, false
	}
	for _, key := range b.keys {
		if text, err := key.Open(nil, nil, raw, nil); err == nil {
			return v, json.Unmarshal(text, &v) == nil
		}
	}
	return v, false
}

// secret makes 32 random bytes as text.
func secret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}
