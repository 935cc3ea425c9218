package wasm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// attack is a module that means harm, and what the host is to say.
type attack struct {
	module []byte
	load   string // code of the LoadError; "" it loads
	call   string // code of the FilterError
}

const header = "\x00asm\x01\x00\x00\x00"

// greedy is a manifest with every limit at the host's maximum.
var greedy = strings.Replace(testManifest, `"limits":{"in_bytes":16384,"out_bytes":8192,"memory_pages":2}`,
	`"limits":{"in_bytes":16384,"out_bytes":8192,"memory_pages":160,"fuel":50000000,"fuel_init":50000000,"depth":1000}`, 1)

// attacks are the table of the plugin ABI, section 9, and some more.
func attacks() map[string]attack {
	list := map[string]attack{}
	for name, id := range map[string]byte{"import": 2, "function": 3, "table": 4, "memory": 5, "global": 6, "export": 7, "element": 9, "code": 10, "data": 11} {
		list["4 billion of "+name] = attack{module: append([]byte(header), section(id, uleb(0xffffffff))...), load: LoadGuard}
	}
	list["4 billion types"] = attack{module: append([]byte(header), section(1, uleb(0xffffffff))...), load: LoadGuard}
	list["167 million exports"] = attack{module: append([]byte(header), section(7, append(uleb(167_000_000), 1, 'a', 0, 0))...), load: LoadGuard}
	add := func(name string, g guest, load, call string) {
		if g.manifest == "" {
			g.manifest = greedy
		}
		list[name] = attack{g.bytes(), load, call}
	}
	nest := func(n int, open, inside []byte) []byte {
		return slices.Concat(bytes.Repeat(open, n), inside, bytes.Repeat([]byte{0x0b}, n), []byte{0x41, 0})
	}
	block, loop, nop := []byte{0x02, 0x40}, []byte{0x03, 0x40}, []byte{0x01}
	add("500 loops in each other with 500 locals", guest{locals: 500, filter: nest(500, loop, nop)}, LoadGuard, "")
	add("32 loops in each other with 1,000 locals", guest{locals: 1000, filter: nest(32, loop, nop)}, LoadGuard, "")
	add("100,000 blocks in each other", guest{filter: nest(100_000, block, nop)}, LoadGuard, "")
	add("4,000 blocks with 4,000 locals", guest{locals: 4000, filter: append(bytes.Repeat(append(slices.Clone(block), 0x0b), 4000), 0x41, 0)}, LoadGuard, "")
	table := append([]byte{0x02, 0x40, 0x41, 0, 0x0e}, uleb(1_000_000)...)
	add("a br_table of 1 MB", guest{filter: append(append(table, make([]byte, 1_000_001)...), 0x0b, 0x41, 0)}, LoadGuard, "")
	add("a type that is not there", guest{filter: append([]byte{0x41, 0, 0x41, 0, 0x11}, append(uleb(0x7fffffff), 0)...)}, LoadGuard, "")
	add("a call of what is not there", guest{filter: append([]byte{0x10}, uleb(0x7fffffff)...)}, LoadGuard, "")
	add("a start function", guest{start: true}, LoadGuard, "")
	add("table.grow", guest{filter: []byte{0xd0, 0x70, 0x41, 0xff, 0xff, 0xff, 0x3f, 0xfc, 0x0f, 0}}, LoadGuard, "")
	add("2 GiB of memory to begin with", guest{pages: 32768}, LoadGuard, "")
	add("the host's counters among its own", guest{names: map[string]string{"sluice_abi_v1": "sluice_fuel"}}, LoadGuard, "")
	add("regions outside of memory", guest{arena: 0xfffffff8_fffffff0}, LoadStart, "")
	add("configures itself for ever", guest{configure: []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0}}, LoadConfigure, "")

	add("endless loop", guest{filter: []byte{0x03, 0x40, 0x0c, 0, 0x0b, 0}}, "", codeFuel)
	again := []byte{0x20, 0, 0x41, 1, 0x6b, 0x10, 2, 0x1a} // filter(n-1), dropped
	twice := slices.Concat([]byte{0x20, 0, 0x04, 0x40}, again, again, []byte{0x0b, 0x41, 0})
	add("one call makes two, 72 deep and more", guest{filter: twice}, "", codeFuel)
	add("recursion without end", guest{filter: append(slices.Clone(again), 0x41, 0)}, "", codeDepth)
	var fat []byte // 900 values that live across the call
	for i := range 900 {
		fat = slices.Concat(fat, i32Const(int32(i*8)), []byte{0x29, 3, 0, 0x21}, uleb(uint64(i+1)))
	}
	fat = append(fat, again...)
	fat = append(fat, 0x42, 0)
	for i := range 900 {
		fat = append(append(append(fat, 0x20), uleb(uint64(i+1))...), 0x85)
	}
	add("recursion with large frames", guest{locals: 900, filter: append(fat, 0xa7)}, "", codeDepth)
	var wide []byte // 20,000 values on the stack, and the call above them
	for range 20_000 {
		wide = append(wide, 0x41, 0, 0x29, 3, 0)
	}
	wide = append(append(wide, again...), bytes.Repeat([]byte{0x85}, 19_999)...)
	add("recursion with 20,000 values on the stack", guest{filter: append(wide, 0xa7)}, "", codeDepth)
	fill := slices.Concat([]byte{0x41, 0, 0x41, 1}, i32Const(160<<16), []byte{0xfc, 0x0b, 0})
	add("memory.fill of 10 MiB for ever", guest{pages: 160, filter: slices.Concat(loop, fill, []byte{0x0c, 0, 0x0b, 0})}, "", codeFuel)
	copies := slices.Concat([]byte{0x41, 0, 0x41, 8}, i32Const(160<<16-8), []byte{0xfc, 0x0a, 0, 0})
	add("memory.copy of 10 MiB for ever", guest{pages: 160, filter: slices.Concat(loop, copies, []byte{0x0c, 0, 0x0b, 0})}, "", codeFuel)
	page := []byte{0x41, 1, 0x40, 0, 0x22, 0, 0x41, 0x7f, 0x46, 0x04, 0x40, 0x00, 0x0b} // grow by one; trap when refused
	write := slices.Concat([]byte{0x20, 0, 0x41, 16, 0x74, 0x41, 1}, i32Const(1<<16), []byte{0xfc, 0x0b, 0})
	add("grows page by page and writes to all of it", guest{filter: slices.Concat(loop, page, write, []byte{0x0c, 0, 0x0b, 0})}, "", codeMemory)
	add("grows by 2 GiB", guest{filter: slices.Concat(i32Const(32768), []byte{0x40, 0, 0x1a, 0})}, "", codeFuel)
	add("a verdict of 2 GiB", guest{filter: i32Const(1<<31 - 1)}, "", codeRefused)
	add("a verdict that is not written", guest{filter: i32Const(8192)}, "", codeRefused)
	exit := guest{manifest: strings.Replace(greedy, `"bare"`, `"wasi-stub"`, 1), types: wasiTypes, imports: [][]byte{importOf(wasiModule, "random_get", 3)}}
	exit.filter = slices.Concat(loop, []byte{0x41, 0}, i32Const(160<<16), []byte{0x10, 0, 0x1a, 0x0c, 0, 0x0b, 0})
	exit.pages = 160
	add("random for ever", exit, "", codeFuel)
	return list
}

// outcome is what became of one attack in a process of its own.
type outcome struct {
	Load    string        `json:"load"`
	Call    string        `json:"call"`
	Loading time.Duration `json:"loading"`
	Longest time.Duration `json:"longest"` // of the calls, the best of three
	Peak    int64         `json:"peak"`    // resident bytes
}

// attackVerb is the process of one attack: it reads a module, loads it as the gateway does, and calls it three times.
func attackVerb() error {
	data, err := os.ReadFile(os.Args[2])
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	env := testEnv(data)
	env.Instances = 1
	env.Compiler = &Compiler{Command: []string{self, childVerb}}
	var o outcome
	began := time.Now()
	p, err := Load(context.Background(), PluginConfig{Name: "attack"}, data, env)
	o.Loading, o.Load = time.Since(began), loadCode(err)
	if err == nil {
		b := flat("a", "1")
		o.Longest = time.Hour
		for range 3 {
			began, computed := time.Now(), cpuTime()
			err := p.Filter(messageOf(b), b, &gateway.Classification{}, noObjection())
			took := time.Since(began)
			if c := cpuTime() - computed; c > 0 {
				took = min(took, c) // what others on the machine take is not the call's
			}
			o.Longest, o.Call = min(o.Longest, took), codeOf(err)
		}
		if err := p.Close(); err != nil {
			return err
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				o.Peak = kb << 10
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(&o)
}

// TestAttacks runs each attack in a process of its own, which must not end before its time, take more memory than
// the module's limit and 16 MiB over a harmless one, or be held up longer than 50 ms by a call.
func TestAttacks(t *testing.T) {
	dir := t.TempDir()
	try := func(t *testing.T, module []byte) (o outcome) {
		t.Helper()
		file := filepath.Join(dir, digestOf(module))
		if err := os.WriteFile(file, module, 0o600); err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "attack", file)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("the process ended: %v\n%s", err, stderr.Bytes()[:min(stderr.Len(), 2000)])
		}
		if err := json.Unmarshal(out, &o); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return o
	}
	harmless := try(t, guest{manifest: greedy, out: nothing}.bytes())
	if harmless.Load != "" || harmless.Call != "" {
		t.Fatalf("a harmless module: %+v", harmless)
	}
	const room = maxPages*pageSize + 16<<20
	var table strings.Builder
	list := attacks()
	for _, name := range slices.Sorted(maps.Keys(list)) {
		a := list[name]
		t.Run(name, func(t *testing.T) {
			o := try(t, a.module)
			fmt.Fprintf(&table, "%-45s %8d bytes  load %-10s %9v  call %-8s %9v  +%d KiB\n", name, len(a.module), o.Load, o.Loading.Round(time.Microsecond),
				o.Call, o.Longest.Round(time.Microsecond), (o.Peak-harmless.Peak)>>10)
			if o.Load != a.load || o.Call != a.call {
				t.Errorf("load %q, call %q; want %q, %q", o.Load, o.Call, a.load, a.call)
			}
			if raced {
				return // the detector takes time and memory of its own
			}
			if o.Longest > 50*time.Millisecond {
				t.Errorf("a call took %v", o.Longest)
			}
			if more := o.Peak - harmless.Peak; more > room {
				t.Errorf("the process took %d KiB more than with a harmless module", more>>10)
			}
		})
	}
	t.Logf("over a harmless module, which took %v and %d KiB:\n%s", harmless.Longest, harmless.Peak>>10, &table)
}
