package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
)

type auditCmd struct {
	Tail tailCmd `cmd:"" help:"Show the last decisions."`
}

// tailCmd shows decisions from the local stack's Redis.
type tailCmd struct {
	Follow bool   `short:"f" help:"Go on with new ones."`
	Count  int64  `short:"n" help:"How many of the last ones." default:"20"`
	Output string `short:"o" help:"pretty or json: the decision's bytes, one a line." enum:"pretty,json" default:"pretty"`
}

const decisionsStream = "writ:decisions"

// Run prints the last decisions, oldest first.
func (c *tailCmd) Run(a *app) error {
	l, err := readLocal(a.data)
	if err != nil {
		return err
	}
	options, err := redis.ParseURL(l.Redis)
	if err != nil {
		return err
	}
	rdb := redis.NewClient(options)
	defer rdb.Close()
	last := "0-0"
	entries, err := rdb.XRevRangeN(a.ctx, decisionsStream, "+", "-", c.Count).Result()
	if err != nil {
		return err
	}
	slices.Reverse(entries)
	for {
		for _, e := range entries {
			if err := c.show(a.out, e); err != nil {
				return err
			}
			last = e.ID
		}
		if !c.Follow {
			return nil
		}
		res, err := rdb.XRead(a.ctx, &redis.XReadArgs{Streams: []string{decisionsStream, last}, Count: 100, Block: time.Second}).Result()
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case errors.Is(err, redis.Nil):
			entries = nil
		case err != nil:
			return err
		default:
			entries = res[0].Messages
		}
	}
}

func (c *tailCmd) show(out io.Writer, e redis.XMessage) error {
	raw, _ := e.Values["decision"].(string)
	if c.Output == "json" {
		_, err := fmt.Fprintln(out, raw)
		return err
	}
	var d events.Decision
	if err := json.Unmarshal([]byte(raw), &d); err != nil {
		return fmt.Errorf("entry %s: %w", e.ID, err)
	}
	resource := d.Resource.Kind
	if d.Resource.ID != "" {
		resource += "/" + d.Resource.ID
	}
	_, err := fmt.Fprintf(out, "%s  %-5s  %-7s  %-7s  %-44s  by %s  %s\n", d.EvaluatedAt.Format("2006-01-02T15:04:05.000Z07:00"), d.Effect, d.Stage, d.Action, resource, d.Principal.ID, d.ID)
	return err
}
