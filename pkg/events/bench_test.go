package events_test

import (
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

func BenchmarkNewWrit(b *testing.B) {
	k, d := ring(b, key1), decision()
	c := commandOf(d)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.NewWrit(k, events.SourceAPI, d, c, at.Add(time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for name, m := range examples(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(m.Data)))
			for b.Loop() {
				if _, err := events.Parse(m.Data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	k, m := ring(b, key1), examples(b)["writ"]
	e := parse(b, m.Data)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Verify(k, subjectOf(m)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSkimVerify(b *testing.B) {
	k := ring(b, key1)
	for name, m := range examples(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var e events.Event
			for b.Loop() {
				err := events.Skim(&e, m.Data)
				if err == nil {
					err = e.Verify(k, subjectOf(m))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
