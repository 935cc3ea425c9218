package wasm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/tetratelabs/wazero"
)

// Compiler compiles modules in another process before this one does: what a compiler takes in time and memory for a module
// of somebody else's making, it takes there, within limits. The compiled code comes back through a folder of files. Zero
// values are defaults.
type Compiler struct {
	Command  []string      // program and arguments of the other process, which calls CompileChild with the arguments behind them
	Cache    string        // folder in which compiled code is kept, made when it is not there; "" or not private: one for each load, in the folder for temporary files
	Memory   uint64        // address space that the other process may take beyond what it starts with; 0 = 512 MiB
	Deadline time.Duration // 0 = 20s
}

const (
	childMemory   = 512 << 20
	childDeadline = 20 * time.Second
	childFile     = 256 << 20 // bytes of one file that the child writes
)

// Exit statuses of the child. The runtime's own is 2.
const (
	childDone     = 0
	childRefused  = 3 // the compiler says no; its reason is on standard error
	childUncached = 4 // compiled, but the folder does not take it
)

// prove compiles code in another process and returns the folder with the result, "" when there is none: it is interpreted, or no
// folder takes it. done forgets a folder that is for this load only.
func (c *Compiler) prove(ctx context.Context, code []byte, interpret bool) (dir string, done func(), err error) {
	done = func() {}
	if c == nil {
		return "", done, nil
	}
	if !interpret {
		if dir = private(c.Cache); dir == "" {
			if temp, err := os.MkdirTemp("", "sluice-code-"); err == nil {
				dir, done = private(temp), func() { os.RemoveAll(temp) }
			}
		}
	}
	dir, err = c.compile(ctx, code, dir, interpret)
	return dir, done, err
}

// compile has the child compile code into dir and returns where the result is.
func (c *Compiler) compile(ctx context.Context, code []byte, dir string, interpret bool) (_ string, err error) {
	deadline, memory := c.Deadline, c.Memory
	if deadline == 0 {
		deadline = childDeadline
	}
	if memory == 0 {
		memory = childMemory
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	args := append(c.Command[1:len(c.Command):len(c.Command)], dir, strconv.FormatUint(memory, 10), strconv.Itoa(int(deadline/time.Second)+1), strconv.FormatBool(interpret))
	cmd := exec.CommandContext(ctx, c.Command[0], args...)
	said := &head{most: 4096}
	cmd.Stdin, cmd.Stderr, cmd.Env, cmd.WaitDelay = bytes.NewReader(code), said, []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}, time.Second
	dieWithParent(cmd)
	runtime.LockOSThread() // the child dies with the thread that started it
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	status := -1
	if cmd.ProcessState != nil {
		status = cmd.ProcessState.ExitCode()
	}
	switch text := said.line(); {
	case status == childDone && err == nil:
		return dir, nil
	case status == childUncached:
		return "", nil
	case status == childRefused:
		return "", refuse(LoadCompile, fmt.Errorf("compile module: %s", text))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return "", refuse(LoadTime, fmt.Errorf("compile module: not done after %v", deadline))
	case ctx.Err() != nil:
		return "", refuse(LoadTime, fmt.Errorf("compile module: %w", ctx.Err()))
	case strings.Contains(said.b.String(), "out of memory") || strings.Contains(said.b.String(), "cannot allocate memory"):
		return "", refuse(LoadMemory, fmt.Errorf("compile module: needs more than %d MiB", memory>>20))
	case status < 0 && cmd.ProcessState == nil:
		return "", refuse(LoadCompile, fmt.Errorf("start the compiler: %w", err))
	}
	return "", refuse(LoadCompile, fmt.Errorf("compile module: the compiler died: %v", cmd.ProcessState))
}

// head keeps the beginning of what is written to it.
type head struct {
	b    bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.b.Write(p[:min(len(p), h.most-h.b.Len())])
	return len(p), nil
}

// line is the first line, printable.
func (h *head) line() string {
	line, _, _ := strings.Cut(h.b.String(), "\n")
	return strings.Map(printable, line[:min(len(line), maxErrorText)])
}

// private returns the folder if nobody else can write machine code into it, after making it when it is not there; else "".
func private(dir string) string {
	if dir == "" {
		return ""
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ""
	}
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !owned(info) {
		return ""
	}
	return dir
}

// CompileChild is the whole of the other process: it compiles the module on standard input into the folder that args
// name and returns the exit status. It bounds itself before it reads a byte.
func CompileChild(args []string, stdin io.Reader, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintln(stderr, err)
		return childRefused
	}
	if len(args) != 4 {
		return fail(errors.New("want FOLDER MEMORY SECONDS INTERPRET: this verb is for the program itself"))
	}
	memory, err1 := strconv.ParseUint(args[1], 10, 64)
	seconds, err2 := strconv.ParseUint(args[2], 10, 32)
	interpret, err3 := strconv.ParseBool(args[3])
	if err := errors.Join(err1, err2, err3); err != nil {
		return fail(err)
	}
	if err := confine(memory, seconds); err != nil {
		return fail(fmt.Errorf("bound the compiler: %w", err))
	}
	debug.SetMemoryLimit(int64(memory / 4 * 3))
	code, err := io.ReadAll(io.LimitReader(stdin, 16*MaxModule)) // counters make a module larger
	if err != nil {
		return fail(err)
	}
	if err := compileInto(args[0], code, interpret); err == nil || args[0] == "" {
		if err != nil {
			return fail(err)
		}
		return childDone
	}
	// Damaged code in the folder, or a full disk: once more with an empty folder, then without it.
	files, _ := filepath.Glob(filepath.Join(args[0], "wazero-*", "*"))
	for _, f := range files {
		os.Remove(f)
	}
	if compileInto(args[0], code, interpret) == nil {
		return childDone
	}
	if err := compileInto("", code, interpret); err != nil {
		return fail(err)
	}
	return childUncached
}

// compileInto compiles code for a folder, or for nobody.
func compileInto(dir string, code []byte, interpret bool) error {
	ctx := context.Background()
	c := runtimeConfig(interpret)
	if dir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(dir)
		if err != nil {
			return err
		}
		defer cache.Close(ctx)
		c = c.WithCompilationCache(cache)
	}
	rt := wazero.NewRuntimeWithConfig(ctx, c)
	defer rt.Close(ctx)
	_, err := compile(ctx, rt, code)
	return firstLine(err)
}
