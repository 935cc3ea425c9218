//go:build peers

package conformance

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The committed modules are what the committed sources make. Needs clang 14 and lld 14.
func TestReferenceBuildsAreReproducible(t *testing.T) {
	for _, name := range references(t) {
		out := filepath.Join(t.TempDir(), name+".wasm")
		if text, err := exec.Command("../"+name+"/build.sh", out).CombinedOutput(); err != nil {
			t.Fatalf("%s: build.sh: %v\n%s", name, err, text)
		}
		built, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := os.ReadFile("../" + name + "/" + name + ".wasm"); err != nil || !bytes.Equal(built, want) {
			t.Errorf("%s: build.sh makes %d bytes that differ from the %d committed (%v)", name, len(built), len(want), err)
		}
	}
}

// A reference plugin that is compiled for this machine, undefined behaviour trapped, says what its module says, to the byte. Needs
// clang 14 and a C library.
func TestReferencePluginsSayTheSameNatively(t *testing.T) {
	for _, name := range references(t) {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), name)
			source, err := filepath.Abs("../" + name + "/" + name + ".c")
			if err != nil {
				t.Fatal(err)
			}
			build := exec.Command("clang-14", "-std=gnu11", "-O1", "-ffp-contract=off", "-fsanitize=undefined", "-fsanitize-trap=all", "-Wno-unknown-attributes",
				"-Wno-ignored-attributes", "-DPLUGIN=\""+source+"\"", "-o", program, "../guest/c/native.c", "-lm")
			if text, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			list := selfTest(t, name)
			var in bytes.Buffer
			put := func(b []byte) {
				in.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(b))))
				in.Write(b)
			}
			for _, v := range list {
				put([]byte(v.config))
				put(v.request)
			}
			run := exec.Command(program)
			var errs bytes.Buffer
			run.Stdin, run.Stderr = &in, &errs
			out, err := run.Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, errs.Bytes())
			}
			word := func() int32 {
				if len(out) < 4 {
					t.Fatal("the program ended early")
				}
				n := int32(binary.LittleEndian.Uint32(out))
				out = out[4:]
				return n
			}
			for _, v := range list {
				if n := word(); n != 0 {
					t.Fatalf("%s: the configuration is refused", v.name)
				}
				n := word()
				got := fmt.Sprintf("error %d", n)
				if n > 0 {
					got = fmt.Sprintf("verdict %x", out[:n])
					out = out[n:]
				}
				if !v.wants(got) {
					t.Errorf("%s:\n  %s\nwant\n  %s", v.name, cut(got), cut(v.want))
				}
			}
		})
	}
}
