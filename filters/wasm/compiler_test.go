package wasm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const childVerb = "compile-plugin"

// TestMain makes this program its own child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case childVerb:
			os.Exit(CompileChild(os.Args[2:], os.Stdin, os.Stderr))
		case "attack":
			if err := attackVerb(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		case "hang":
			select {}
		case "die":
			panic("pushed")
		}
	}
	os.Exit(m.Run())
}

// child compiles in this program, started again.
func child(t testing.TB, cache string) *Compiler {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Compiler{Command: []string{self, childVerb}, Cache: cache}
}

// codeFiles lists the files of compiled code in a cache.
func codeFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wazero-*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestModulesAreCompiledInAnotherProcess(t *testing.T) {
	data := geofenceModule(t)
	cache := filepath.Join(t.TempDir(), "made", "cache")
	env := Env{Pinned: []string{digestOf(data)}, Categories: vehicleCategories, Instances: 2, Compiler: child(t, cache)}
	c := PluginConfig{Name: "geofence", Config: oneArea(), Grants: geofenceGrants}
	ask := func(p *Plugin) {
		t.Helper()
		m, b, class := typical(t)
		o := noObjection()
		if err := p.Filter(m, b, class, o); err != nil || len(o.Edits) != 2 {
			t.Error(err, o)
		}
	}
	ask(loadWith(t, c, data, env))
	want := 1
	if !compiles() {
		want = 0
	}
	files := codeFiles(t, cache)
	if len(files) != want {
		t.Fatalf("%d files of code; want %d", len(files), want)
	}
	if info, err := os.Stat(cache); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder: %v %v", info.Mode(), err)
	}
	ask(loadWith(t, c, data, env)) // from the folder
	for _, f := range files {      // damaged
		if err := os.WriteFile(f, []byte("WAZEVO: no code at all"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ask(loadWith(t, c, data, env))
	for _, f := range files { // whole again
		if info, err := os.Stat(f); err != nil || info.Size() < 1000 {
			t.Errorf("after the damage: %v %v", info, err)
		}
	}
	env.Compiler = child(t, "") // without a folder
	ask(loadWith(t, c, data, env))
}

// A folder that others can write into, or that is not a folder of ours, holds no code that is run.
func TestOnlyAPrivateFolderHoldsCode(t *testing.T) {
	if !compiles() {
		t.Skip("interpreted here")
	}
	dir := t.TempDir()
	open, link, file := filepath.Join(dir, "open"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o770); err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	data := guest{out: nothing}.bytes()
	for _, cache := range []string{open, link, file} {
		env := testEnv(data)
		env.Compiler = child(t, cache)
		loadWith(t, PluginConfig{}, data, env)
		if n := len(codeFiles(t, cache)); n != 0 {
			t.Errorf("%s: %d files", cache, n)
		}
	}
	if private(real) != real {
		t.Error("a private folder is not used")
	}
}

func TestAChildThatFailsRefusesTheModule(t *testing.T) {
	data := guest{out: nothing}.bytes()
	good := child(t, "")
	self := good.Command[0]
	invalid := guest{filter: []byte{0x6a}}.bytes()
	for name, c := range map[string]struct {
		data     []byte
		compiler *Compiler
		code     string
	}{
		"the compiler says no":      {invalid, good, LoadCompile},
		"it dies":                   {data, &Compiler{Command: []string{self, "die"}}, LoadCompile},
		"it cannot be started":      {data, &Compiler{Command: []string{"/does/not/exist"}}, LoadCompile},
		"it hangs":                  {data, &Compiler{Command: []string{self, "hang"}, Deadline: 50 * time.Millisecond}, LoadTime},
		"it takes too much memory":  {data, &Compiler{Command: good.Command, Memory: 1 << 20}, LoadMemory},
		"it is called with nothing": {data, &Compiler{Command: []string{self, childVerb, "too", "much"}}, LoadCompile},
	} {
		env := testEnv(c.data)
		env.Compiler = c.compiler
		p, err := Load(context.Background(), PluginConfig{Name: "x"}, c.data, env)
		if err == nil {
			p.Close()
		}
		if loadCode(err) != c.code || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want code %q", name, err, c.code)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	env := testEnv(data)
	env.Compiler = &Compiler{Command: []string{self, "hang"}}
	if _, err := Load(ctx, PluginConfig{Name: "x"}, data, env); loadCode(err) == "" {
		t.Errorf("told to stop: %v", err)
	}
}
