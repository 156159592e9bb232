package webhook

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// secretPrefix marks a secret of Standard Webhooks.
const secretPrefix = "whsec_"

// Key derives the key of 32 bytes that signs for a webhook from a seal key: who
// has the seal keys needs nothing else, and who has not cannot compute it, whatever
// they read. id is another after each rotation. An error means that the seal key
// is not (or no longer) in the ring.
func Key(keys *events.Keyring, sealKey, webhook, id string) ([]byte, error) {
	key, err := keys.DeriveFrom(sealKey, "writ webhook secret\x00"+webhook+"\x00"+id)
	if err != nil {
		return nil, fmt.Errorf("the secret of webhook %s: %w", webhook, err)
	}
	return key, nil
}

// Secret is Key as a receiver is told it: whsec_ and base64.
func Secret(keys *events.Keyring, sealKey, webhook, id string) (string, error) {
	key, err := Key(keys, sealKey, webhook, id)
	if err != nil {
		return "", err
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(key), nil
}

// Keys are the keys that sign at a time: the webhook's own, and the one before
// while the rotation's overlap lasts.
func (w *Webhook) Keys(keys *events.Keyring, at time.Time) ([][]byte, error) {
	key, err := Key(keys, w.SecretKey, w.ID, w.SecretID)
	if err != nil {
		return nil, err
	}
	out := [][]byte{key}
	if w.PreviousUntil != nil && w.PreviousSecretID != nil && w.PreviousSecretKey != nil && at.Before(*w.PreviousUntil) {
		// One whose seal key is gone signs no more: the new one does.
		if before, err := Key(keys, *w.PreviousSecretKey, w.ID, *w.PreviousSecretID); err == nil {
			out = append(out, before)
		}
	}
	return out, nil
}
