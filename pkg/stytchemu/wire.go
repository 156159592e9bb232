package stytchemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/stytchauth/stytch-go/v16/stytch/stytcherror"
)

// maxBody is the largest request body, in bytes.
const maxBody = 1 << 20

// apiError makes an error with Stytch's type and message; the request id is
// set when it is answered.
func apiError(status int, typ, message string) stytcherror.Error {
	return stytcherror.Error{
		StatusCode:   status,
		ErrorType:    stytcherror.Type(typ),
		ErrorMessage: stytcherror.Message(message),
		ErrorURL:     stytcherror.URL(fmt.Sprintf("https://stytch.com/docs/api/errors/%d#%s", status, typ)),
	}
}

// The errors, with the types of Stytch's error reference
// (https://stytch.com/docs/api/errors/400 and its siblings).
var (
	errCredentials      = apiError(401, "unauthorized_credentials", "Unauthorized credentials.")
	errRoute            = apiError(404, "route_not_found", "The requested route could not be found.")
	errProject          = apiError(404, "project_not_found", "The project could not be found.")
	errJSON             = apiError(400, "bad_request", "The submitted request is invalid.")
	errInternal         = apiError(500, "internal_server_error", "Oops, something seems to have gone wrong.")
	errRateLimit        = apiError(429, "too_many_requests", "Too many requests have been made.")
	errEmail            = apiError(400, "invalid_email", "Email format is invalid.")
	errDuplicateEmail   = apiError(400, "duplicate_email", "A user with the specified email already exists for this project.")
	errUserID           = apiError(400, "invalid_user_id", "user_id format is invalid.")
	errUser             = apiError(404, "user_not_found", "User could not be found.")
	errLinkURL          = apiError(400, "no_match_for_provided_magic_link_url", "The magic link URL is not one of this project's redirect URLs.")
	errExpiration       = apiError(400, "invalid_expiration", "The expiration must be between 5 minutes and 7 days.")
	errLink             = apiError(401, "unable_to_auth_magic_link", "The magic link could not be authenticated because it was either already used or expired. Send another magic link to this user.")
	errVerifierMissing  = apiError(400, "pkce_expected_code_verifier", "A code_verifier was expected: the flow started with a code_challenge.")
	errVerifierTooMuch  = apiError(400, "pkce_did_not_expect_code_verifier", "A code_verifier was not expected: the flow started without a code_challenge.")
	errVerifier         = apiError(401, "pkce_mismatch", "The code_verifier does not match the code_challenge sent at the start of the flow.")
	errDuration         = apiError(400, "invalid_session_duration_minutes", "session_duration_minutes must be between 5 and 527040.")
	errSession          = apiError(404, "session_not_found", "Session could not be found.")
	errSessionID        = apiError(400, "invalid_session_id", "session_id format is invalid.")
	errSessionArguments = apiError(400, "too_many_session_arguments", "Only one of session_token and session_jwt may be provided.")
	errNoSession        = apiError(400, "no_session_arguments", "One of session_token and session_jwt must be provided.")
	errRevokeArguments  = apiError(400, "too_many_session_revoke_arguments", "Exactly one of session_id, session_token and session_jwt must be provided.")
	errJWT              = apiError(401, "invalid_session_jwt", "The session JWT could not be verified.")
	errMetadataKeys     = apiError(400, "metadata_too_many_keys", "Metadata objects may contain a maximum of 20 top-level keys.")
	errMetadataSize     = apiError(400, "metadata_too_large", "Metadata objects cannot exceed 4KB in size.")
	errClaims           = apiError(400, "custom_claims_too_large", "Total custom claims size cannot exceed four kilobytes.")
	errFilter           = apiError(400, "user_search_invalid_filter", "The search filter is not recognized or its value is invalid.")
	errLimit            = apiError(400, "invalid_limit", "limit must be between 1 and 1000.")
	errCursor           = apiError(400, "invalid_cursor", "The cursor is invalid.")
)

// answer turns a call's result or error into JSON with a request id and the
// status in the body, as every answer of Stytch has them.
func (e *Emulator) answer(h func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requestID := e.newID("request-id")
		result, err := h(r)
		if err != nil {
			e.refuse(w, requestID, err)
			return
		}
		body, err := withEnvelope(result, requestID)
		if err != nil {
			e.refuse(w, requestID, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the client is gone: nothing to tell it
	})
}

// withEnvelope adds request_id and status_code to a response object.
func withEnvelope(result any, requestID string) ([]byte, error) {
	raw, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	head := fmt.Sprintf(`{"status_code":200,"request_id":%q`, requestID)
	if rest := bytes.TrimPrefix(raw, []byte("{")); len(rest) > 1 {
		return append([]byte(head+","), rest...), nil
	}
	return []byte(head + "}"), nil
}

func (e *Emulator) refuse(w http.ResponseWriter, requestID string, err error) {
	stytchErr, ok := errors.AsType[stytcherror.Error](err)
	if !ok {
		slog.Error("stytchemu: call failed", "request", requestID, "error", err)
		stytchErr = errInternal
	}
	stytchErr.RequestID = requestID
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(stytchErr.StatusCode)
	_ = json.NewEncoder(w).Encode(stytchErr) // the client is gone: nothing to tell it
}

// decode reads a request body of up to 1 MiB. Members that the emulator does
// not know are passed over, as Stytch does.
func decode[T any](r *http.Request) (T, error) {
	var params T
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody || json.Unmarshal(body, &params) != nil {
		return params, errJSON
	}
	return params, nil
}
