package wasm

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"github.com/sluice-edge/sluice/filters/wasm/guard"
)

// What a module may import.
const (
	wasiModule = "wasi_snapshot_preview1"
	logModule  = "sluice_v1"

	profileBare = "bare"
	profileWASI = "wasi-stub"
)

// Answers of the functions of WASI. [WASI preview 1, errno]
const (
	wasiSuccess = 0
	wasiBadF    = 8
	wasiFault   = 21
	wasiNoSys   = 52
)

// wasiClock is the one time that the stub's clocks show, in nanoseconds; wasiRandom is every byte of its random.
const (
	wasiClock  = 1 << 60
	wasiRandom = 7
)

// hostFunc is a function that the host gives. It reads its parameters from stack and writes its result there.
type hostFunc struct {
	params, results string
	call            func(in *instance, m api.Memory, stack []uint64)
}

// wasi is the stub for plugins made with stock Go: the runtime of that language finds what it needs to start, and nothing
// behind it tells anything, writes anything, or differs from one machine or call to another.
var wasi = map[string]hostFunc{
	"args_get":            answer(i32+i32, wasiSuccess),
	"args_sizes_get":      {i32 + i32, i32, wasiNone},
	"environ_get":         answer(i32+i32, wasiSuccess),
	"environ_sizes_get":   {i32 + i32, i32, wasiNone},
	"clock_time_get":      {i32 + i64 + i32, i32, wasiClockTime},
	"random_get":          {i32 + i32, i32, wasiRandomGet},
	"fd_write":            answer(i32+i32+i32+i32, wasiBadF),
	"fd_close":            answer(i32, wasiBadF),
	"fd_fdstat_get":       answer(i32+i32, wasiBadF),
	"fd_fdstat_set_flags": answer(i32+i32, wasiBadF),
	"fd_prestat_get":      answer(i32+i32, wasiBadF),
	"fd_prestat_dir_name": answer(i32+i32+i32, wasiBadF),
	"poll_oneoff":         answer(i32+i32+i32+i32, wasiNoSys),
	"proc_exit":           {i32, "", func(*instance, api.Memory, []uint64) { panic(errExit) }},
	"sched_yield":         answer("", wasiSuccess),
}

// logFunc is the way of a plugin to say something to who tries it out.
var logFunc = hostFunc{i32 + i32 + i32, "", writeLog}

var errExit = errors.New("plugin ends itself")

func answer(params string, errno uint64) hostFunc {
	return hostFunc{params, i32, func(_ *instance, _ api.Memory, stack []uint64) { stack[0] = errno }}
}

func written(ok bool) uint64 {
	if !ok {
		return wasiFault
	}
	return wasiSuccess
}

// wasiNone answers with no arguments, or no environment, of no length.
func wasiNone(_ *instance, m api.Memory, stack []uint64) {
	stack[0] = written(m.WriteUint32Le(uint32(stack[0]), 0) && m.WriteUint32Le(uint32(stack[1]), 0))
}

func wasiClockTime(_ *instance, m api.Memory, stack []uint64) {
	stack[0] = written(m.WriteUint64Le(uint32(stack[2]), wasiClock))
}

// wasiRandomGet fills the buffer, for as much fuel as memory.fill.
func wasiRandomGet(in *instance, m api.Memory, stack []uint64) {
	at, n := uint32(stack[0]), uint32(stack[1])
	in.charge(uint64(n / 2))
	buf, ok := m.Read(at, n)
	if len(buf) > 0 {
		buf[0] = wasiRandom
	}
	for n := 1; n < len(buf); n *= 2 {
		copy(buf[n:], buf[:n])
	}
	stack[0] = written(ok)
}

// known reports whether the host has a function of this name and type.
func known(i guard.Import) bool {
	f, ok := wasi[i.Name]
	if i.Module == logModule {
		f, ok = logFunc, i.Name == "log"
	} else if i.Module != wasiModule {
		return false
	}
	return ok && f.params == string(i.Type.Params) && f.results == string(i.Type.Results)
}

// instanceKey finds the instance in the context of a call.
type instanceKey struct{}

// link gives a runtime the functions that a module imports, and no others.
func link(ctx context.Context, rt wazero.Runtime, imports []guard.Import) error {
	for _, name := range []string{wasiModule, logModule} {
		var done []string
		b := rt.NewHostModuleBuilder(name)
		for _, i := range imports {
			if i.Module != name || slices.Contains(done, i.Name) {
				continue
			}
			f := logFunc
			if name == wasiModule {
				f = wasi[i.Name]
			}
			b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
				f.call(ctx.Value(instanceKey{}).(*instance), m.Memory(), stack)
			}), []api.ValueType(f.params), []api.ValueType(f.results)).Export(i.Name)
			done = append(done, i.Name)
		}
		if len(done) > 0 {
			if _, err := b.Instantiate(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bounds of what a plugin may write into the log.
const (
	maxLogText = 256
	maxLogRate = 10
)

// diagnostics is the log of one plugin: off without the grant. It is safe for concurrent use.
type diagnostics struct {
	log  *slog.Logger // nil: nothing is written
	name string
	now  func() time.Time

	mu      sync.Mutex // guards what follows
	second  int64
	lines   int
	dropped int
}

// write logs a text, at most maxLogRate in one second; how many were left out is told with the next.
func (d *diagnostics) write(level int32, text []byte) {
	if d == nil || d.log == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.now().Unix(); s != d.second {
		d.second, d.lines = s, 0
	}
	if d.lines++; d.lines > maxLogRate {
		d.dropped++
		return
	}
	levels := [...]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	d.log.Log(context.Background(), levels[min(max(level, 0), 3)], "plugin says", "plugin", d.name, "text", strings.Map(printable, string(text)), "dropped", d.dropped)
	d.dropped = 0
}

// writeLog is sluice_v1.log(level, ptr, len): level 0 debug, 1 info, 2 warn, 3 error. Longer texts are cut; a text outside
// of memory is a trap.
func writeLog(in *instance, m api.Memory, stack []uint64) {
	text, ok := m.Read(uint32(stack[1]), min(uint32(stack[2]), maxLogText))
	if !ok {
		panic(errLength)
	}
	in.log.write(int32(uint32(stack[0])), text)
}
