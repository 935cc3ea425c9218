package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call runs a verb and returns its exit status and what it wrote.
func call(verb func([]string, io.Reader, io.Writer, io.Writer) int, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = verb(args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func TestKeysAreMadeListedAndExported(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	for _, use := range []string{"token", "recipient", "custodian", "audit", "at-rest", "plugin"} {
		status, out, errs := call(cmdKeys, "", "new", "--use", use, "--id", "k-"+use, "--dir", dir)
		if status != exitGood || errs != "" || !strings.Contains(out, filepath.Join(dir, "k-"+use+".key")) {
			t.Fatalf("%s: %d %q %q", use, status, out, errs)
		}
		_, err := os.Stat(filepath.Join(dir, "k-"+use+".pub"))
		if public := use != "token" && use != "at-rest"; public != (err == nil) || public != strings.Contains(out, ".pub  public: ") {
			t.Errorf("%s: public file: %v, output %q", use, err, out)
		}
	}
	status, out, _ := call(cmdKeys, "", "ls", "--dir", dir, "--json")
	var list struct{ Keys []keyEntry }
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != exitGood || len(list.Keys) != 6 || strings.Count(out, "\n") != 1 {
		t.Fatalf("%d %q %v", status, out, err)
	}
	if k := list.Keys[0]; k.ID != "k-at-rest" || k.Use != "at-rest" || k.Generation != 1 || !k.Private || k.Public || k.Error != "" {
		t.Errorf("%+v", k)
	}
	status, out, _ = call(cmdKeys, "", "ls", "--dir", dir)
	if status != exitGood || strings.Count(out, "\n") != 6 || !strings.Contains(out, "private+public") {
		t.Errorf("%d %q", status, out)
	}
	for _, part := range []struct{ flag, file, title string }{{"", ".pub", "sluice public key v1"}, {"--private", ".key", "sluice private key v1"}} {
		args := []string{"export", "--id", "k-recipient", "--dir", dir}
		if part.flag != "" {
			args = append(args, part.flag)
		}
		status, out, _ = call(cmdKeys, "", args...)
		file, err := os.ReadFile(filepath.Join(dir, "k-recipient"+part.file))
		if status != exitGood || err != nil || out != string(file) || !strings.HasPrefix(out, part.title) {
			t.Errorf("export %s: %d %v", part.flag, status, err)
		}
	}
}

func TestKeysThatCannotBeUsedAreListedWithAHint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	call(cmdKeys, "", "new", "--use", "token", "--id", "fleet", "--dir", dir)
	if err := os.Chmod(filepath.Join(dir, "fleet.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	status, out, errs := call(cmdKeys, "", "ls", "--dir", dir)
	if status != exitBad || !strings.Contains(out, "unusable") || !strings.Contains(errs, "sluice: hint: chmod 600 ") {
		t.Errorf("%d %q %q", status, out, errs)
	}
}

func TestKeysErrorsSayWhatToType(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	call(cmdKeys, "", "new", "--use", "token", "--id", "taken", "--dir", dir)
	call(cmdKeys, "", "new", "--use", "audit", "--id", "signs-log", "--dir", dir)
	for _, c := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"no verb", nil, exitUsage, "sluice keys ls"},
		{"an unknown verb", []string{"make"}, exitUsage, "sluice keys new"},
		{"an unknown flag", []string{"new", "--kind", "token"}, exitUsage, "--help shows the flags"},
		{"no use", []string{"new", "--id", "a", "--dir", dir}, exitUsage, "--use recipient --id oem-dso"},
		{"an unknown use", []string{"new", "--use", "tls", "--id", "a", "--dir", dir}, exitUsage, "want token, recipient"},
		{"an id with a slash", []string{"new", "--use", "token", "--id", "a/b", "--dir", dir}, exitUsage, "letters, digits"},
		{"a second algorithm where there is none", []string{"new", "--use", "audit", "--id", "a", "--dir", dir, "--ml-dsa"}, exitUsage, "--use plugin"},
		{"a trust entry of another key", []string{"export", "--id", "signs-log", "--dir", dir, "--trust"}, exitBad, "does not sign plugins"},
		{"a private trust entry", []string{"export", "--id", "taken", "--dir", dir, "--trust", "--private"}, exitUsage, "remove --private"},
		{"an argument too many", []string{"new", "--use", "token", "--id", "a", "b"}, exitUsage, `unexpected argument "b"`},
		{"a name that is taken", []string{"new", "--use", "audit", "--id", "taken", "--dir", dir}, exitBad, "choose another --id"},
		{"a folder that is a file", []string{"ls", "--dir", filepath.Join(dir, "taken.key")}, exitBad, "name the folder"},
		{"an export without name", []string{"export", "--dir", dir}, exitUsage, "--id is needed"},
		{"an export of nothing", []string{"export", "--id", "absent", "--dir", dir}, exitBad, "lists the keys"},
		{"a public part that does not exist", []string{"export", "--id", "taken", "--dir", dir}, exitBad, "has no public part"},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, out, errs := call(cmdKeys, "", c.args...)
			if status != c.status || out != "" || !strings.HasPrefix(errs, "sluice: error: ") || !strings.Contains(errs, c.want) {
				t.Errorf("%d %q %q, want %d and %q", status, out, errs, c.status, c.want)
			}
		})
	}
	if status, out, _ := call(cmdKeys, "", "--help"); status != exitGood || !strings.Contains(out, "Usage: sluice keys") {
		t.Errorf("help: %d %q", status, out)
	}
}
