package outside

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// answerTimeout bounds one request, beside what it asks to wait.
const answerTimeout = 45 * time.Second

// Client sends requests to one API as one user. It is safe for concurrent use.
type Client struct {
	Base, Token string
	http        *http.Client
}

// NewClient makes a client; its connections end with the test. An empty token sends no Authorization.
func NewClient(t testing.TB, base, token string) *Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{Base: base, Token: token, http: &http.Client{Transport: transport, Timeout: answerTimeout}}
}

// With is the same client with another token.
func (c *Client) With(token string) *Client { return &Client{Base: c.Base, Token: token, http: c.http} }

// Answer is the answer to a request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Try sends a request. A body is sent as JSON unless headers (name, value, name, value …) say otherwise; "" sends none.
func (c *Client) Try(ctx context.Context, method, path, body string, headers ...string) (Answer, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.Base+path, reader)
	if err != nil {
		return Answer{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.http.Do(request)
	if err != nil {
		return Answer{}, err
	}
	answer, err := io.ReadAll(response.Body)
	return Answer{response.StatusCode, response.Header, answer}, errors.Join(err, response.Body.Close())
}

// Do is Try for requests that must be answered.
func (c *Client) Do(t testing.TB, method, path, body string, headers ...string) Answer {
	t.Helper()
	a, err := c.Try(context.Background(), method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// Want is Do for requests whose answer must have a status; it is decoded into out unless that is nil.
func (c *Client) Want(t testing.TB, status int, out any, method, path, body string, headers ...string) Answer {
	t.Helper()
	a := c.Do(t, method, path, body, headers...)
	if a.Status != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, a.Status, status, a.Body)
	}
	if out != nil {
		a.Decode(t, out)
	}
	return a
}

// Decode reads the answer's JSON body into what out points to; nothing stays of what was there.
func (a Answer) Decode(t testing.TB, out any) {
	t.Helper()
	reflect.ValueOf(out).Elem().SetZero()
	if err := json.Unmarshal(a.Body, out); err != nil {
		t.Fatalf("answer %d is not the JSON that was expected: %v: %s", a.Status, err, a.Body)
	}
}

// CommandID names the command that the answer is about.
func (a Answer) CommandID() string { return a.Header.Get("Writ-Command") }

// Contact is a contact as the API shows it.
type Contact struct {
	ID             string    `json:"id"`
	Tenant         string    `json:"tenant"`
	OwnerID        string    `json:"owner_id"`
	Version        int64     `json:"version"`
	CreatedAt      time.Time `json:"created_at"`
	UpdatedAt      time.Time `json:"updated_at"`
	FirstName      string    `json:"first_name"`
	LastName       string    `json:"last_name"`
	Email          string    `json:"email"`
	Phone          string    `json:"phone"`
	Company        string    `json:"company"`
	Notes          string    `json:"notes"`
	MarketingOptIn bool      `json:"marketing_opt_in"`
	IsActive       bool      `json:"is_active"`
}

// Page is a page of contacts.
type Page struct {
	Items      []Contact `json:"items"`
	NextCursor string    `json:"next_cursor"`
}

// Accepted is the answer to a mutation that was not waited for.
type Accepted struct {
	Command  Command  `json:"command"`
	Resource Resource `json:"resource"`
}

// Command is a command as the API shows it.
type Command struct {
	ID         string   `json:"id"`
	Status     string   `json:"status"`
	Action     string   `json:"action"`
	Code       string   `json:"code"`
	Reason     string   `json:"reason"`
	Attempts   int      `json:"attempts"`
	Version    int64    `json:"version"`
	DecisionID string   `json:"decision_id"`
	Resource   Resource `json:"resource"` // in answers of /v1/commands/{id} only
}

// Resource names a resource.
type Resource struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

// Problem is an RFC 9457 problem.
type Problem struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	RequestID  string `json:"request_id"`
	DecisionID string `json:"decision_id"`
	CommandID  string `json:"command_id"`
	Errors     []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// Me is who the client is.
type Me struct {
	Principal struct {
		ID    string         `json:"id"`
		Email string         `json:"email"`
		Roles []string       `json:"roles"`
		Attr  map[string]any `json:"attr"`
	} `json:"principal"`
}

// Me asks who the client is.
func (c *Client) Me(t testing.TB) Me {
	t.Helper()
	var me Me
	c.Want(t, http.StatusOK, &me, http.MethodGet, "/v1/me", "")
	return me
}

// All reads a list to its end in pages of 200. query is what the first page's URL has beside the limit, such as
// "owner_id=…", or "".
func (c *Client) All(t testing.TB, query string) []Contact {
	t.Helper()
	path := "/v1/contacts?limit=200"
	if query != "" {
		path += "&" + query
	}
	var all []Contact
	for cursor := ""; ; {
		next := path
		if cursor != "" {
			next += "&cursor=" + cursor
		}
		var page Page
		c.Want(t, http.StatusOK, &page, http.MethodGet, next, "")
		all = append(all, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
	}
}
