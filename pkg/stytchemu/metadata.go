package stytchemu

import (
	"encoding/json"
	"maps"
)

// The limits of Stytch's metadata and custom claims
// (https://stytch.com/docs/api/metadata).
const (
	maxMetadataKeys = 20
	maxMetadataSize = 4096 // bytes of JSON
)

// mergeMetadata merges at the top level only: a null removes a key, any other
// value replaces what was there whole, arrays and objects too.
func mergeMetadata(old, update map[string]any) (map[string]any, error) {
	merged := mergeTop(old, update)
	if len(merged) > maxMetadataKeys {
		return nil, errMetadataKeys
	}
	if tooLarge(merged) {
		return nil, errMetadataSize
	}
	return merged, nil
}

// reservedClaims are passed over in custom claims.
var reservedClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", sessionClaim}

func mergeClaims(old, update map[string]any) (map[string]any, error) {
	merged := mergeTop(old, update)
	for _, name := range reservedClaims {
		delete(merged, name)
	}
	if tooLarge(merged) {
		return nil, errClaims
	}
	return merged, nil
}

func mergeTop(old, update map[string]any) map[string]any {
	merged := make(map[string]any, len(old)+len(update))
	maps.Copy(merged, old)
	for k, v := range update {
		if v == nil {
			delete(merged, k)
		} else {
			merged[k] = v
		}
	}
	return merged
}

func tooLarge(v map[string]any) bool {
	raw, err := json.Marshal(v)
	return err != nil || len(raw) > maxMetadataSize
}
