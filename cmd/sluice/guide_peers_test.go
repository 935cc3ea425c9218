//go:build peers

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// guideCommands are the fenced commands of docs/plugins.md, in their order.
func guideCommands(t *testing.T) (blocks []string) {
	t.Helper()
	for _, block := range regexp.MustCompile(`(?m)(?:^    .*\n)+`).FindAllString(readText(t, "docs/plugins.md"), -1) {
		if block = strings.ReplaceAll(block[4:], "\n    ", "\n"); !strings.HasPrefix(block, "{") {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// TestTheAuthorsGuide runs the commands of docs/plugins.md in a folder of their own, once for each language. What is changed: the
// language, and the ports of the gateway.
func TestTheAuthorsGuide(t *testing.T) {
	bin := t.TempDir()
	if text, err := exec.Command("go", "build", "-o", filepath.Join(bin, "sluice"), ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	blocks := guideCommands(t)
	if n := strings.Count(strings.Join(blocks, ""), "\n"); n < 30 {
		t.Fatalf("%d commands", n)
	}
	for lang, tools := range map[string][]string{"go": {"go"}, "c": {"clang", "wasm-ld"}, "rust": {"/usr/bin/rustc", "wasm-ld"}, "as": {"node", "npm"}} {
		t.Run(lang, func(t *testing.T) {
			for _, tool := range tools {
				if _, err := exec.LookPath(tool); err != nil {
					t.Skipf("no %s here", tool)
				}
			}
			script := "set -eu\ntrap 'jobs -p | xargs -r kill; wait' EXIT\n"
			for _, line := range strings.SplitAfter(strings.Join(blocks, ""), "\n") {
				script += strings.Replace(line, "--lang c ", "--lang "+lang+" ", 1)
				switch {
				case strings.HasPrefix(line, "sluice init"):
					script += fmt.Sprintf("sed -i 's/:1883/:%d/; s/:1884/:%d/; s/:9600/:%d/' box/sluice.yaml\n", freePort(t), freePort(t), freePort(t))
				case strings.HasPrefix(line, "sluice run"):
					script += "for i in $(seq 600); do [ ! -S box/data/admin.sock ] || break; sleep 0.1; done\n"
				}
			}
			cmd := exec.Command("bash", "-x", "-c", script)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOPROXY=off", "GOFLAGS=", "SLUICE=")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, want := range []string{
				`(?m)^speedguard.wasm  speedguard 0.1.0, serial 1: ok$`,
				`(?m)^testdata/messages.ndjson:2  v1/car-1/trip: hold, reason 1 `,
				`(?m)^speedguard.vectors  2 vectors, sha256 `,
				`(?m)^compiler +1 KB, 12 findings `,
				`(?m)^interpreter +testdata `,
				`(?m)^plugin speedguard 0.1.0, serial 1$`,
				`(?m)^hold \(`, // explain
				`(?m)^speedguard  0.2.0  serial 2  [0-9a-f]{12}  shadow  `,
				`(?m)^on probation until `,
				`(?m)^speedguard  0.1.0  serial 1  [0-9a-f]{12}  in force  `,
			} {
				if !regexp.MustCompile(want).Match(out) {
					t.Errorf("nothing like %s in\n%s", want, out)
				}
			}
		})
	}
}

// freePort is a port of loopback that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// What the guide says to install is what the check of a fresh clone installs.
func TestTheGuideNamesThePackagesThatAreTested(t *testing.T) {
	ci := readText(t, ".ci/run")
	for _, m := range regexp.MustCompile("`apt-get install ([a-z0-9 -]+)`").FindAllStringSubmatch(readText(t, "docs/plugins.md"), -1) {
		for _, name := range strings.Fields(m[1]) {
			if !regexp.MustCompile(`want\+=\([^)]*\b` + name + `\b`).MatchString(ci) {
				t.Errorf(".ci/run does not install %s", name)
			}
		}
	}
}
