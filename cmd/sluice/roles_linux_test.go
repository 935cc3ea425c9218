package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// TestTheRoleFileIsReadAgainAtReload changes who may do what under a gateway that runs, and looks at the record.
func TestTheRoleFileIsReadAgainAtReload(t *testing.T) {
	sum := func(text string) string {
		b := sha256.Sum256([]byte(text))
		return hex.EncodeToString(b[:])
	}
	d := &demo{dir: t.TempDir(), cloud: &demoCloud{address: "127.0.0.1:1"}}
	file, err := d.configure("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(text, []byte("admin: { ")) {
		t.Fatal(err, "no admin")
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte("admin: { "), []byte("admin: { roles: roles.yaml, "), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	roles := func(token string) string {
		return "callers:\n  - { token_sha256: " + sum(token) + ", name: ci, roles: [operator] }\n"
	}
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(d.dir, "roles.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(roles("one"))
	cfg, report := loadConfig(file, time.Now())
	if err := report.Err(); err != nil {
		t.Fatal(err)
	}
	a, err := assemble(cfg, slog.New(slog.DiscardHandler), parts{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	call := func(method, path, token, body string) int {
		t.Helper()
		r, err := http.NewRequest(method, "http://"+a.adminAddr.String()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	want("the token", call("PUT", "/api/v1/link", "one", `{"link":"wifi"}`), 200)
	want("nobody", call("PUT", "/api/v1/link", "", `{"link":"lte"}`), 403)
	if err := tell(t.Context(), cfg, http.MethodPut, "link", linkAnswer{"lte"}, &linkAnswer{}); err == nil || len(hintFor(err)) == 0 ||
		!strings.Contains(err.Error(), fmt.Sprintf("this needs the role operator, and uid %d has no role", os.Getuid())) {
		t.Errorf("the gateway's user, whom the file does not name: %v", err)
	}
	if err := ask(t.Context(), cfg, "link", nil, &linkAnswer{}); err != nil {
		t.Errorf("reading needs no role: %v", err)
	}
	write("callers:\n  - { token_sha256: " + sum("two") + ", name: ci, roles: [operator, security_officer, auditor] }\n")
	if err := a.reload("signal", probationOf{}); err == nil || !strings.Contains(err.Error(), "roles.yaml:2:") {
		t.Errorf("a bad role file: %v", err)
	}
	want("the old token after a bad file", call("PUT", "/api/v1/link", "one", `{"link":"wifi"}`), 200)
	want("the new one", call("PUT", "/api/v1/link", "two", `{"link":"wifi"}`), 403)
	write(roles("two"))
	path := filepath.Join(d.dir, "roles.yaml")
	if err := os.Chmod(path, 0o606); err != nil {
		t.Fatal(err)
	}
	if err := a.reload("signal", probationOf{}); err == nil || !strings.Contains(err.Error(), "everybody may write to the role file") {
		t.Errorf("everybody's role file: %v", err)
	}
	want("the old token after everybody's file", call("PUT", "/api/v1/link", "one", `{"link":"wifi"}`), 200)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	want("a reload by the old token", call("POST", "/-/reload", "one", ""), 200)
	want("the old token", call("PUT", "/api/v1/link", "one", `{"link":"wifi"}`), 403)
	want("the new one", call("PUT", "/api/v1/link", "two", `{"link":"lte"}`), 200)

	last := make(chan struct{}) // is committed behind all that came before
	a.journal.Append([]*gateway.Entry{{Record: gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Detail: []byte(`{}`)})}}, func(uint64, error) { close(last) })
	<-last
	seen := ""
	if err := a.journal.Records(0, func(_ uint64, record []byte) error {
		var r gateway.Record
		err := gateway.DecodeRecord(record, &r)
		if err == nil && (r.Kind == gateway.EventRecord || r.Kind == gateway.ChangeRecord) {
			seen += string(r.Detail) + "\n"
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`{"by":"token ci","event":"link changed","link":"wifi"}`,
		`{"by":"token ci","event":"link changed","link":"lte"}`,
		`{"event":"change refused","call":"PUT link","role":"operator","by":"nobody over TCP"}`,
		fmt.Sprintf(`{"event":"change refused","call":"PUT link","role":"operator","by":"uid %d"}`, os.Getuid()),
		`{"event":"change refused","call":"PUT link","role":"operator","by":"an unknown token"}`,
		`"roles_digest":"` + sum(roles("one")), `"roles_digest":"` + sum(roles("two")),
	} {
		if strings.Count(seen, part) == 0 {
			t.Errorf("not on the record: %s", part)
		}
	}
	if b, _ := json.Marshal(seen); strings.Count(seen, `"change":"version set"`) != 2 || strings.Contains(seen, `Bearer`) {
		t.Errorf("on the record: %s", b)
	}
}
