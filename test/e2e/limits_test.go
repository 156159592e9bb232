package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/test/e2e/outside"
)

// TestPastItsLimitsTheAPIRefusesAtOnce holds every place that there is with requests whose bodies are on their way.
func TestPastItsLimitsTheAPIRefusesAtOnce(t *testing.T) {
	const places, perSecond = 4, 40
	d := outside.StartDev(t, t.TempDir(), []string{"--max-in-flight", fmt.Sprint(places), "--rate-limit", fmt.Sprint(perSecond)}, nil)
	sam, rim := d.SignIn(t, "sam@example.com"), d.SignIn(t, "rim@example.com")
	c := outside.NewClient(t, d.API, sam)

	t.Run("requests in flight", func(t *testing.T) {
		body := `{"first_name":"Slow"}`
		var held []net.Conn
		for range places {
			conn := dial(t, d.API)
			fmt.Fprintf(conn, "POST /v1/contacts HTTP/1.1\r\nHost: writ\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", sam, len(body))
			// 100 Continue is sent when the handler reads: this one holds a place.
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.Contains(line, "100") {
				t.Fatalf("%q, %v", line, err)
			}
			held = append(held, conn)
		}
		began := time.Now()
		a := c.Do(t, http.MethodGet, "/v1/contacts", "")
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.Body), "overloaded") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("refused after %s", took)
		}
		c.Want(t, http.StatusOK, nil, http.MethodGet, "/livez", "") // who looks after it still gets in
		const refused = `http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="503",http_route="/v1/contacts"} 1`
		if page := c.Want(t, http.StatusOK, nil, http.MethodGet, "/metrics", ""); !strings.Contains(string(page.Body), refused) {
			t.Error("what is refused is not counted")
		}
		for _, conn := range held {
			if _, err := io.WriteString(conn, body); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			for line := ""; line == "" || line == "\r\n"; { // the rest of 100 Continue
				var err error
				if line, err = r.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				if line != "\r\n" && !strings.Contains(line, " 202 ") {
					t.Errorf("one that was let in was answered %q", line)
				}
			}
		}
	})

	t.Run("requests of one principal", func(t *testing.T) {
		refused := 0
		for range 4 * perSecond {
			a := c.Do(t, http.MethodGet, "/v1/commands/x", "")
			if a.Status != http.StatusTooManyRequests {
				continue
			}
			if refused++; a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.Body), "too-many-requests") {
				t.Fatalf("%v %s", a.Header, a.Body)
			}
			if refused == 1 {
				c.With(rim).Want(t, http.StatusOK, nil, http.MethodGet, "/v1/contacts", "")
			}
		}
		if refused == 0 {
			t.Errorf("none of %d was refused at %d a second", 4*perSecond, perSecond)
		}
	})

	t.Run("headers that are too large", func(t *testing.T) {
		a := c.Do(t, http.MethodGet, "/livez", "", "X-Large", strings.Repeat("x", 64<<10))
		if a.Status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%d", a.Status)
		}
	})

	t.Run("headers that never end", func(t *testing.T) {
		conn := dial(t, d.API)
		fmt.Fprint(conn, "GET /livez HTTP/1.1\r\nHost: writ\r\nX-Slow: ")
		began := time.Now()
		_, err := io.Copy(io.Discard, conn) // ends when the api closes the connection
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("not cut off after %s: %v", took, err)
		}
	})
}

func dial(t *testing.T, api string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(api, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}
