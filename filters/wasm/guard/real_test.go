package guard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const geofence = "../../../plugins/geofence/geofence.wasm"

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// build runs a compiler, once for each guest; an error of the command comes back with what it printed.
func build(t testing.TB, name string, env []string, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command(args[0], strings.Split(strings.ReplaceAll(strings.Join(args[1:], "\n"), "OUT", out), "\n")...)
	cmd.Env = append(os.Environ(), env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, text)
	}
	return readFile(t, out)
}

var goOnce struct {
	sync.Mutex
	module []byte
}

// goGuest is the guest in stock Go.
func goGuest(t testing.TB) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a module with the Go tool")
	}
	goOnce.Lock()
	defer goOnce.Unlock()
	if goOnce.module == nil {
		goOnce.module = build(t, "go.wasm", []string{"GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0"},
			"go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", "OUT", "./testdata/goguest")
	}
	return goOnce.module
}

// cGuest is the guest in C, where there is a compiler for it.
func cGuest(t testing.TB, flags ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("clang"); err != nil {
		t.Skip("needs clang")
	}
	if _, err := exec.LookPath("wasm-ld"); err != nil {
		t.Skip("needs wasm-ld")
	}
	args := append([]string{"clang", "--target=wasm32", "-O2", "-nostdlib", "-ffreestanding", "-mbulk-memory"}, flags...)
	return build(t, "c.wasm", nil, append(args, "-Wl,--no-entry", "-Wl,--strip-all", "-o", "OUT", "testdata/cguest/guest.c")...)
}

// same runs one function of the module as it is and metered, in both engines: results and in region agree, and so does the fuel.
func same(t *testing.T, plain, metered map[string]*run, name string, input []byte, arg uint64) int64 {
	t.Helper()
	var first string
	var fuel int64
	for engine := range engines {
		var outcomes []string
		for _, r := range []*run{plain[engine], metered[engine]} {
			at, _, err := r.call("buffer", 1_000_000, 1000)
			if err != nil {
				t.Fatal(err)
			}
			r.mod.Memory().Write(uint32(at[0]), input)
			got, used, err := r.call(name, 50_000_000, 1000, arg)
			if err != nil {
				t.Fatalf("%s in %s: %v, fuel used %d", name, engine, err, used)
			}
			after, _ := r.mod.Memory().Read(uint32(at[0]), uint32(len(input)))
			outcomes = append(outcomes, fmt.Sprintf("%v %x", got, after))
			if r.fuel != nil {
				if fuel != 0 && fuel != used {
					t.Fatalf("%s: %d fuel in one engine, %d in the other", name, fuel, used)
				}
				fuel = used
			}
		}
		if outcomes[0] != outcomes[1] || (first != "" && first != outcomes[0]) {
			t.Fatalf("%s in %s: metered differs", name, engine)
		}
		first = outcomes[0]
	}
	return fuel
}

// both starts a module as it is and metered in both engines, and initializes it.
func both(t *testing.T, module []byte, l Limits) (plain, metered map[string]*run) {
	t.Helper()
	m, err := Read(module, l)
	if err != nil {
		t.Fatal(err)
	}
	plain, metered = map[string]*run{}, map[string]*run{}
	code := m.Meter()
	for engine := range engines {
		plain[engine], metered[engine] = start(t, engine, module, 160), start(t, engine, code, 160)
		for _, r := range []*run{plain[engine], metered[engine]} {
			if r.mod.ExportedFunction("_initialize") == nil {
				continue
			}
			_, used, err := r.call("_initialize", 50_000_000, 1000)
			if err != nil {
				t.Fatalf("initialize in %s: %v, fuel used %d", engine, err, used)
			}
			if r.fuel != nil {
				t.Logf("initializing takes %d fuel in %s", used, engine)
			}
		}
	}
	return plain, metered
}

// text is what the guests look through.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, `{"vin": "LSV%d", "phone": %d, "list": [%d , %.2f ] } `, r.IntN(1e9), 13_000_000_000+r.IntN(1e9), r.IntN(1000), r.Float64())
	}
	return b.Bytes()[:n]
}

func TestGuestsInCDoTheSameMetered(t *testing.T) {
	for _, flags := range [][]string{nil, {"-msimd128", "-O3"}, {"-O0"}} {
		plain, metered := both(t, cGuest(t, flags...), DefaultLimits())
		for _, n := range []uint64{0, 1, 300, 1024} {
			t.Logf("%v: scan(%d) takes %d fuel, work %d", flags, n, same(t, plain, metered, "scan", text(1024), n), same(t, plain, metered, "work", text(1024), n))
		}
		same(t, plain, metered, "recurse", text(10), 500)
		for engine, r := range metered {
			if _, _, err := r.call("recurse", 50_000_000, 1000, 1_000_000); err == nil || int32(r.depth.Get()) >= 0 {
				t.Errorf("%s: recursed a million times: %v", engine, err)
			}
		}
	}
}

func TestGuestsInGoDoTheSameMetered(t *testing.T) {
	plain, metered := both(t, goGuest(t), withStub())
	for _, n := range []uint64{0, 1, 300, 1024} {
		t.Logf("scan(%d) takes %d fuel, work %d", n, same(t, plain, metered, "scan", text(1024), n), same(t, plain, metered, "work", text(1024), n))
	}
	same(t, plain, metered, "recurse", text(10), 300)
}

// TestGoNeedsItsImports: without the stub, a module of stock Go is refused.
func TestGoNeedsItsImports(t *testing.T) {
	if _, err := Read(goGuest(t), DefaultLimits()); err == nil || !strings.Contains(err.Error(), "is not granted") {
		t.Errorf("a Go module was read without imports: %v", err)
	}
}

const fenceConfig = `{"areas":[{"name":"works","datum":"wgs84","points":[[39.9,116.38],[39.9,116.4],[39.92,116.4],[39.92,116.38]]}]}`

// fence is a configured instance of the geofence plugin.
type fence struct {
	*run
	in, out uint32
}

func startFence(t testing.TB, engine string, module []byte) *fence {
	t.Helper()
	f := &fence{run: start(t, engine, module, 16)}
	at, _, err := f.call("sluice_arena", 50_000_000, 256, 65536, 65536)
	if err != nil {
		t.Fatal(err)
	}
	f.in, f.out = uint32(at[0]>>32), uint32(at[0])
	f.mod.Memory().Write(f.in, []byte(fenceConfig))
	if res, _, err := f.call("sluice_configure", 50_000_000, 256, uint64(len(fenceConfig))); err != nil || res[0] != 0 {
		t.Fatal(res, err)
	}
	return f
}

// fenceRequest is a record with one position; see package wasm.
func fenceRequest(lat, lon float64) []byte {
	b := make([]byte, 168)
	le := binary.LittleEndian
	le.PutUint32(b, 168)
	le.PutUint16(b[4:], 1)
	le.PutUint16(b[6:], 64)
	b[24], b[25] = 1, 1
	le.PutUint32(b[28:], 30)
	le.PutUint32(b[36:], 64)
	le.PutUint16(b[40:], 2)
	le.PutUint32(b[48:], 128)
	le.PutUint16(b[52:], 1)
	for i, f := range []int{64, 96} {
		le.PutUint32(b[f:], uint32(7+i*10))
		le.PutUint32(b[f+4:], 4)
		le.PutUint16(b[f+8:], 1)
		b[f+10], b[f+12] = 2, 1
		le.PutUint16(b[f+14:], 3)
		le.PutUint32(b[f+16:], uint32(156+3*i))
		le.PutUint32(b[f+20:], 136)
		le.PutUint32(b[f+24:], 20)
	}
	b[128] = 't'
	le.PutUint64(b[136:], math.Float64bits(lat))
	le.PutUint64(b[144:], math.Float64bits(lon))
	le.PutUint32(b[152:], 1)
	copy(b[156:], "latlon")
	return b
}

// ask is one message: what comes back, the verdict, the fuel.
func (f *fence) ask(t testing.TB, request []byte) (string, int64) {
	f.mod.Memory().Write(f.in, request)
	res, used, err := f.call("sluice_filter", 5_000_000, 256, uint64(len(request)))
	if err != nil {
		t.Fatal(err)
	}
	n := int32(res[0])
	verdict, _ := f.mod.Memory().Read(f.out, uint32(max(n, 0)))
	return fmt.Sprintf("%d %x", n, verdict), used
}

func TestGeofenceDoesTheSameMetered(t *testing.T) {
	module := readFile(t, geofence)
	metered := mustRead(t, module).Meter()
	plain, compiled, interpreted := startFence(t, "compiler", module), startFence(t, "compiler", metered), startFence(t, "interpreter", metered)
	r := rand.New(rand.NewPCG(3, 4))
	verdicts := map[string]int{}
	for i := range 500 {
		request := fenceRequest(39.9+r.Float64()*0.04-0.01, 116.38+r.Float64()*0.04-0.01)
		if i%5 == 0 {
			request[r.IntN(len(request))] ^= byte(1 << r.IntN(8))
		}
		want, _ := plain.ask(t, request)
		got1, fuel1 := compiled.ask(t, request)
		got2, fuel2 := interpreted.ask(t, request)
		if want != got1 || want != got2 || fuel1 != fuel2 || fuel1 <= 0 {
			t.Fatalf("request %d: %s; metered %s with %d fuel, interpreted %s with %d", i, want, got1, fuel1, got2, fuel2)
		}
		verdicts[want]++
		if i == 1 {
			t.Logf("one position takes %d fuel", fuel1)
		}
	}
	if len(verdicts) < 3 {
		t.Errorf("the requests did not reach much of the plugin: %v", verdicts)
	}
}

// BenchmarkRead measures the way from a file to metered code.
func BenchmarkRead(b *testing.B) {
	for _, g := range []struct {
		name   string
		module func() []byte
	}{{"geofence", func() []byte { return readFile(b, geofence) }}, {"go", func() []byte { return goGuest(b) }}} {
		b.Run(g.name, func(b *testing.B) {
			module := g.module()
			b.SetBytes(int64(len(module)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := Read(module, withStub())
				if err != nil {
					b.Fatal(err)
				}
				m.Meter()
			}
		})
	}
}

// BenchmarkMetered measures what the counters cost: each guest as it is and metered.
func BenchmarkMetered(b *testing.B) {
	forms := []struct {
		name string
		make func(module []byte) []byte
	}{{"plain", func(m []byte) []byte { return m }}, {"metered", func(module []byte) []byte {
		m, err := Read(module, withStub())
		if err != nil {
			b.Fatal(err)
		}
		return m.Meter()
	}}}
	engine := "compiler"
	if os.Getenv("GUARD_ENGINE") != "" {
		engine = os.Getenv("GUARD_ENGINE")
	}
	for _, g := range []struct {
		name   string
		module func() []byte
	}{{"c", func() []byte { return cGuest(b) }}, {"go", func() []byte { return goGuest(b) }}} {
		for _, name := range []string{"scan", "work"} {
			for _, form := range forms {
				b.Run(g.name+"/"+name+"/"+form.name, func(b *testing.B) {
					r := start(b, engine, form.make(g.module()), 160)
					if r.mod.ExportedFunction("_initialize") != nil {
						if _, _, err := r.call("_initialize", 50_000_000, 1000); err != nil {
							b.Fatal(err)
						}
					}
					at, _, err := r.call("buffer", 1_000_000, 1000)
					if err != nil {
						b.Fatal(err)
					}
					r.mod.Memory().Write(uint32(at[0]), text(1024))
					f := r.mod.ExportedFunction(name)
					var stack [1]uint64
					for b.Loop() {
						if r.fuel != nil {
							r.fuel.Set(50_000_000)
							r.depth.Set(1000)
						}
						stack[0] = 1024
						if err := f.CallWithStack(b.Context(), stack[:]); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
	for _, form := range forms {
		b.Run("geofence/filter/"+form.name, func(b *testing.B) {
			f := startFence(b, engine, form.make(readFile(b, geofence)))
			request := fenceRequest(39.91, 116.39)
			f.mod.Memory().Write(f.in, request)
			filter := f.mod.ExportedFunction("sluice_filter")
			var stack [1]uint64
			for b.Loop() {
				if f.fuel != nil {
					f.fuel.Set(5_000_000)
					f.depth.Set(256)
				}
				stack[0] = uint64(len(request))
				if err := filter.CallWithStack(b.Context(), stack[:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
