package main

import (
	"os"
	"path/filepath"
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
			return nil
		},
	})
}
