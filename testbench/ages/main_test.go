package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestShortAgesGoAsTheManualSays(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds of disk")
	}
	var stdout, stderr bytes.Buffer
	if status := run([]string{"--short", "--json", "--dir", t.TempDir()}, &stdout, &stderr); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
	for _, line := range bytes.Split(bytes.TrimSpace(stdout.Bytes()), []byte("\n")) {
		var r result
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", line)
		if r.Proofs != 50 || r.Age.Collector && (r.Shipped == 0 || r.Trimmed == 0) {
			t.Errorf("%s", line)
		}
	}
}
