package conformance

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	module = flag.String("module", "", "run the vectors against this module instead of those of the repository")
	guest  = flag.String("guest", "conformance", "what -module is: conformance, example, or any other name for a plugin of its own")
)

// vectors reads every vector file.
func vectors(t testing.TB) (list []vector) {
	t.Helper()
	files, err := filepath.Glob("*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no vector files", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range strings.Split(string(text), "\n\n")[1:] {
			v, err := parse(block)
			if err != nil {
				t.Fatalf("%s: %v in\n%s", file, err, block)
			}
			v.name = file + ": " + v.name
			list = append(list, v)
		}
	}
	return list
}

// plugins opens what is to be tested.
func plugins(t testing.TB) (list []*plugin) {
	t.Helper()
	if *module != "" {
		return []*plugin{open(t, *guest, *module)}
	}
	for _, name := range []string{"conformance", "example"} {
		files, err := filepath.Glob("../guest/*/" + name + "/" + name + ".wasm")
		if err != nil || len(files) != languages {
			t.Fatalf("%d modules %s.wasm; want one for each of %d languages (%v)", len(files), name, languages, err)
		}
		for _, file := range files {
			list = append(list, open(t, name, file))
		}
	}
	return list
}

// languages of the kit.
const languages = 4

// concerns reports whether the vector is for the plugin.
func (v *vector) concerns(p *plugin) bool { return v.guest == "any" || v.guest == p.name }

// usual reports whether the vector wants an instance like the others.
func (v *vector) usual() bool {
	return v.config == "{}" && v.out == outBytes && v.want != "trap" && !strings.HasPrefix(v.want, "refused")
}

// cut shortens a long answer for a message.
func cut(s string) string {
	if len(s) > 400 {
		return s[:400] + "…"
	}
	return s
}

func TestVectors(t *testing.T) {
	list := vectors(t)
	for _, p := range plugins(t) {
		t.Run(p.file, func(t *testing.T) {
			usual, _ := p.start(t, outBytes, "{}")
			ran := 0
			for _, v := range list {
				if !v.concerns(p) {
					continue
				}
				ran++
				in, refused := usual, ""
				if !v.usual() {
					in, refused = p.start(t, v.out, v.config)
				}
				got := "refused " + refused
				if v.request != nil && refused == "" {
					got = said(in.call(v.request, v.length))
				}
				if !v.wants(got) {
					t.Errorf("%s:\n  %s\nwant\n  %s", v.name, cut(got), cut(v.want))
				}
				if !v.usual() {
					in.mod.Close(background)
				}
			}
			if ran == 0 {
				t.Error("no vector concerns it")
			}
		})
	}
}

// 10,000 messages in any order: the memory stays as it is after the first 100, and each answer is the one of the vector.
func TestTenThousandMessagesLeaveNoTrace(t *testing.T) {
	var list []vector
	for _, v := range vectors(t) {
		if v.usual() {
			list = append(list, v)
		}
	}
	for _, p := range plugins(t) {
		t.Run(p.file, func(t *testing.T) {
			mine := slices.DeleteFunc(slices.Clone(list), func(v vector) bool { return !v.concerns(p) })
			in, _ := p.start(t, outBytes, "{}")
			random := rand.New(rand.NewPCG(8, 8))
			size := uint32(0)
			for i := range 10_000 {
				v := &mine[random.IntN(len(mine))]
				if got := said(in.call(v.request, v.length)); !v.wants(got) {
					t.Fatalf("message %d, %s:\n  %s\nwant\n  %s", i, v.name, cut(got), cut(v.want))
				}
				switch now := in.mem.Size(); {
				case i == 100:
					size = now
				case i > 100 && now != size:
					t.Fatalf("memory grew from %d to %d after %d messages", size, now, i)
				}
			}
		})
	}
}

// Whatever comes, a plugin answers, never traps, and the same plugin answers the same in every language.
func FuzzRequest(f *testing.F) {
	for _, v := range vectors(f) {
		if v.usual() && len(v.request) < 2048 {
			f.Add(v.request)
		}
	}
	var instances []*instance
	list := plugins(f)
	for _, p := range list {
		in, _ := p.start(f, outBytes, "{}")
		instances = append(instances, in)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		request := bytes.Clone(data)
		if len(request) > 65536 || strings.Contains(string(request), "trap") {
			return
		}
		for _, whole := range []bool{false, true} {
			if whole && len(request) < 8 {
				return
			}
			if whole { // the damage then gets past the first checks
				le.PutUint32(request, uint32(len(request)))
				le.PutUint32(request[4:], 1|64<<16)
			}
			first := map[string]string{}
			for i, p := range list {
				in := instances[i]
				in.t = t
				got := said(in.call(request, uint32(len(request))))
				if got == "trap" || got == "error 0" {
					t.Fatalf("%s: %s", p.file, got)
				}
				if before, ok := first[p.name]; !ok {
					first[p.name] = got
				} else if got != before {
					t.Errorf("%s:\n  %s\nanother language\n  %s", p.file, cut(got), cut(before))
				}
			}
		}
	})
}

// Whatever bytes it is given as configuration, a plugin answers, and the same in every language.
func FuzzConfiguration(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add([]byte(v.config))
	}
	var instances []*instance
	list := plugins(f)
	for _, p := range list {
		in, _ := p.start(f, outBytes, "{}")
		instances = append(instances, in)
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		if len(config) > 65536 {
			return
		}
		first := map[string]string{}
		for i, p := range list {
			got := instances[i].configure(t, config)
			if before, ok := first[p.name]; !ok {
				first[p.name] = got
			} else if got != before {
				t.Errorf("%s: %q; another language %q", p.file, got, before)
			}
		}
	})
}
