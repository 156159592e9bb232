package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"
	"time"
)

type jobsCmd struct {
	List   jobsListCmd    `cmd:"" help:"List the jobs of the tenant: those that wait for their first attempt, then those that changed last."`
	Show   jobsShowCmd    `cmd:"" help:"Show a job."`
	Cancel jobsCancelCmd  `cmd:"" help:"End a job that waits or runs."`
	Retry  jobsRetryCmd   `cmd:"" help:"Run a job that is over, or waits for its next attempt, at once."`
	Queues queuesCmd      `cmd:"" help:"List the queues."`
	Pause  queuePauseCmd  `cmd:"" help:"Stop giving out a queue's jobs; those that run go on."`
	Resume queueResumeCmd `cmd:"" help:"Give out a queue's jobs again."`
}

// job is a background job as the api tells it.
type job struct {
	ID         string     `json:"id"`
	Queue      string     `json:"queue"`
	Status     string     `json:"status"`
	Attempt    int        `json:"attempt"`
	Attempts   int        `json:"attempts"`
	Error      string     `json:"error"`
	NotBefore  *time.Time `json:"not_before"`
	EnqueuedAt time.Time  `json:"enqueued_at"`
}

type jobQueue struct {
	Name    string `json:"name"`
	Waiting uint64 `json:"waiting"`
	Paused  bool   `json:"paused"`
}

func apiAddress(l local) string { return l.API }

type jobsListCmd struct {
	target
	Queue  string `help:"Only those of this queue."`
	Status string `help:"Only those in this state: queued, running, retrying, paused, done, cancelled or dead."`
	Count  int    `short:"n" help:"At most so many." default:"100"`
	Output string `short:"o" help:"table, or json: one a line." enum:"table,json" default:"table"`
}

// Run lists jobs, page by page.
func (c *jobsListCmd) Run(a *app) error {
	if c.Count < 1 {
		return errors.New("--count: want a number from 1 on")
	}
	r, err := c.connect(a, apiAddress, demoAdmin)
	if err != nil {
		return err
	}
	query := url.Values{}
	if c.Queue != "" {
		query.Set("queue", c.Queue)
	}
	if c.Status != "" {
		query.Set("status", c.Status)
	}
	var found []json.RawMessage
	more := true
	for more && len(found) < c.Count {
		query.Set("limit", strconv.Itoa(min(c.Count-len(found), maxJobsPage)))
		var page struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor string            `json:"next_cursor"`
		}
		if err := r.get(a.ctx, "/v1/jobs", query, &page); err != nil {
			return err
		}
		found, more = append(found, page.Items...), page.NextCursor != ""
		query.Set("cursor", page.NextCursor)
	}
	if c.Output == "json" {
		for _, j := range found {
			if _, err := fmt.Fprintf(a.out, "%s\n", j); err != nil {
				return err
			}
		}
	} else if err := showJobs(a.out, found); err != nil {
		return err
	}
	if more {
		_, err = fmt.Fprintln(a.err, "there may be more")
	}
	return err
}

// maxJobsPage is how many jobs the api gives at once.
const maxJobsPage = 200

func showJobs(out io.Writer, items []json.RawMessage) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tQUEUE\tSTATUS\tATTEMPT\tENQUEUED\tNEXT\tERROR")
	for _, raw := range items {
		var j job
		if err := json.Unmarshal(raw, &j); err != nil {
			return err
		}
		next := ""
		if j.NotBefore != nil {
			next = j.NotBefore.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d/%d\t%s\t%s\t%.80q\n", j.ID, j.Queue, j.Status, j.Attempt, j.Attempts, j.EnqueuedAt.Format(time.RFC3339), next, j.Error)
	}
	return w.Flush()
}

// jobTarget names a job.
type jobTarget struct {
	target
	ID string `arg:"" help:"The job's id."`
}

// call sends a request about the job and prints the job as it is then.
func (c *jobTarget) call(a *app, method, action string) error {
	r, err := c.connect(a, apiAddress, demoAdmin)
	if err != nil {
		return err
	}
	var j json.RawMessage
	if _, err := r.call(a.ctx, method, "/v1/jobs/"+url.PathEscape(c.ID)+action, nil, nil, &j, nil); err != nil {
		return err
	}
	return printIndented(a.out, j)
}

func printIndented(out io.Writer, raw json.RawMessage) error {
	b, err := json.MarshalIndent(raw, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", b)
	}
	return err
}

type jobsShowCmd struct{ jobTarget }

// Run shows a job.
func (c *jobsShowCmd) Run(a *app) error { return c.call(a, http.MethodGet, "") }

type jobsCancelCmd struct{ jobTarget }

// Run ends a job.
func (c *jobsCancelCmd) Run(a *app) error { return c.call(a, http.MethodPost, "/cancel") }

type jobsRetryCmd struct{ jobTarget }

// Run runs a job again.
func (c *jobsRetryCmd) Run(a *app) error { return c.call(a, http.MethodPost, "/retry") }

type queuesCmd struct{ target }

// Run lists the queues.
func (c *queuesCmd) Run(a *app) error {
	r, err := c.connect(a, apiAddress, demoAdmin)
	if err != nil {
		return err
	}
	var page struct {
		Items []jobQueue `json:"items"`
	}
	if err := r.get(a.ctx, "/v1/queues", nil, &page); err != nil {
		return err
	}
	return showQueues(a.out, page.Items...)
}

func showQueues(out io.Writer, all ...jobQueue) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "QUEUE\tWAITING\tPAUSED")
	for _, q := range all {
		fmt.Fprintf(w, "%s\t%d\t%t\n", q.Name, q.Waiting, q.Paused)
	}
	return w.Flush()
}

// queueTarget names a queue.
type queueTarget struct {
	target
	Queue string `arg:"" help:"The queue's name."`
}

func (c *queueTarget) call(a *app, action string) error {
	r, err := c.connect(a, apiAddress, demoAdmin)
	if err != nil {
		return err
	}
	var q jobQueue
	if _, err := r.call(a.ctx, http.MethodPost, "/v1/queues/"+url.PathEscape(c.Queue)+action, nil, nil, &q, nil); err != nil {
		return err
	}
	return showQueues(a.out, q)
}

type queuePauseCmd struct{ queueTarget }

// Run pauses a queue.
func (c *queuePauseCmd) Run(a *app) error { return c.call(a, "/pause") }

type queueResumeCmd struct{ queueTarget }

// Run resumes a queue.
func (c *queueResumeCmd) Run(a *app) error { return c.call(a, "/resume") }
