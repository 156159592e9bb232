package server

import "testing"

func TestBundlesAreZippedForThoseWhoTakeThem(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "identity": false, "gzip": true, "GZIP": true, "br, gzip;q=0.5": true, "gzip;q=0": false, "gzip; q=0.000": false, "*": true,
		"*;q=0": false, "gzip;q=0, *": false, "*, gzip;q=0": false, "x-gzip": true, "gzipped": false,
	} {
		if got := acceptsGzip([]string{text}); got != want {
			t.Errorf("Accept-Encoding %q takes gzip: %t, want %t", text, got, want)
		}
	}
}
