package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == compileVerb { // a test that is the program started itself
		main()
	}
	testscript.Main(m, map[string]func(){"sluice": main, "recapture": recapture})
}

// TestScripts runs testdata/script: each file is a chapter of the manual that checks itself.
func TestScripts(t *testing.T) {
	module, err := filepath.Abs("../../plugins/geofence/geofence.wasm")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GEOFENCE", module) // a module to sign
			e.Setenv("GUEST", filepath.Join(filepath.Dir(module), "../guest"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"anyport": anyPort, "module": writeModule},
	})
}

// anyPort lets the gateways of a file that init wrote listen for admin on any port: scripts run side by side.
func anyPort(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	changed := strings.Replace(text, "127.0.0.1:9600", "127.0.0.1:0", 1)
	if changed == text {
		ts.Fatalf("%s listens on another port", args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(changed), 0o600))
}

// writeModule writes a plugin: its name, serial, what it does with every message, and the file.
func writeModule(ts *testscript.TestScript, _ bool, args []string) {
	serial, err := strconv.Atoi(args[1])
	ts.Check(err)
	does := map[string]byte{"lets": lets, "holds": holds, "blocks": blocks, "traps": traps}[args[2]]
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), module(args[0], serial, does), 0o600))
}
