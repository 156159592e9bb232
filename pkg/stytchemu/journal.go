package stytchemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// The journal is a file of JSON lines, one line a transaction, so that a kill
// in the middle of a write loses the whole transaction or nothing of it. It is
// written before a call is answered. A write reaches the operating system,
// which is enough for kill -9; the disk is waited for only when it is rewritten.

const journalName = "stytch.jsonl"

// change is one object put or, without a value, deleted.
type change struct {
	Kind  string          `json:"kind"`
	ID    string          `json:"id"`
	Value json.RawMessage `json:"value,omitempty"`
}

type journal struct {
	path  string
	file  *os.File
	size  int64 // bytes of whole lines
	lines int   // since the last rewrite
}

// openJournal reads the journal in dir through apply. What follows the last
// whole line is what a kill left of a write that was never answered.
func openJournal(dir string, apply func(change) error) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("stytchemu: %w", err)
	}
	j := &journal{path: filepath.Join(dir, journalName)}
	var err error
	if j.file, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("stytchemu: %w", err)
	}
	if err := j.replay(apply); err != nil {
		return nil, errors.Join(fmt.Errorf("stytchemu: read %s: %w", j.path, err), j.file.Close())
	}
	return j, nil
}

func (j *journal) replay(apply func(change) error) error {
	r := bufio.NewReaderSize(j.file, 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return j.rewind()
		}
		if err != nil {
			return err
		}
		var changes []change
		if err := json.Unmarshal(line, &changes); err != nil {
			return fmt.Errorf("line %d: %w", j.lines+1, err)
		}
		for _, c := range changes {
			if err := apply(c); err != nil {
				return fmt.Errorf("line %d: %s %s: %w", j.lines+1, c.Kind, c.ID, err)
			}
		}
		j.size += int64(len(line))
		j.lines++
	}
}

// rewind cuts the file back to its whole lines.
func (j *journal) rewind() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	_, err := j.file.Seek(j.size, io.SeekStart)
	return err
}

func (j *journal) append(changes []change) error {
	line, err := json.Marshal(changes)
	if err != nil {
		return fmt.Errorf("stytchemu: encode changes: %w", err)
	}
	line = append(line, '\n')
	if _, err := j.file.Write(line); err != nil {
		return errors.Join(fmt.Errorf("stytchemu: write %s: %w", j.path, err), j.rewind())
	}
	j.size += int64(len(line))
	j.lines++
	return nil
}

// rewrite replaces the journal by one that holds the live objects only: a
// temporary file, made durable and renamed.
func (j *journal) rewrite(live []change) (err error) {
	next, err := os.OpenFile(j.path+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("stytchemu: %w", err)
	}
	fresh := &journal{path: j.path, file: next}
	for _, c := range live {
		if err = fresh.append([]change{c}); err != nil {
			return errors.Join(err, next.Close())
		}
	}
	if err = errors.Join(next.Sync(), os.Rename(j.path+".tmp", j.path)); err != nil {
		return errors.Join(fmt.Errorf("stytchemu: rewrite %s: %w", j.path, err), next.Close())
	}
	old := j.file
	*j = *fresh
	j.lines = 0
	return old.Close()
}
