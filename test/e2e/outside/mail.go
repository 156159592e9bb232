package outside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

// LocalProject is the Stytch project that a local stack's emulator stands for.
const LocalProject = "project-test-00000000-0000-4000-8000-000000000000"

// Mailed waits for the newest sign-in link to an address in an emulator's mailbox (its URL), one that was sent after
// the mail with the number after.
func Mailed(t testing.TB, mailbox, to string, after int64) (link string) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() error {
		seq, found, err := newest(mailbox, to)
		if err == nil && (found == "" || seq <= after) {
			err = errors.New("no link was sent to " + to)
		}
		link = found
		return err
	})
	return link
}

// LastMail gives the number of the newest mail to an address ("" for all), 0 for none.
func LastMail(t testing.TB, mailbox, to string) int64 {
	t.Helper()
	seq, _, err := newest(mailbox, to)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func newest(mailbox, to string) (seq int64, link string, err error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, mailbox+"/mailbox.json?to="+url.QueryEscape(to), nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	var box struct {
		Mails []struct {
			Seq int64  `json:"seq"`
			URL string `json:"url"`
		} `json:"mails"`
	}
	if err := json.NewDecoder(response.Body).Decode(&box); err != nil || response.StatusCode != http.StatusOK {
		return 0, "", fmt.Errorf("the mailbox answers %s: %w", response.Status, err)
	}
	if len(box.Mails) == 0 {
		return 0, "", nil
	}
	return box.Mails[0].Seq, box.Mails[0].URL, nil
}
