package powercut

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Calls are the system calls that a trace must hold: all that change files or make changes durable, and those that tell
// which file a descriptor is. A call of them that Disk does not know is an error, not a gap.
var Calls = []string{"openat", "open", "creat", "close", "dup", "dup2", "dup3", "lseek", "write", "writev", "pwrite64", "pwritev", "pwritev2",
	"ftruncate", "truncate", "fallocate", "copy_file_range", "sendfile", "splice", "fsync", "fdatasync", "sync_file_range", "syncfs", "msync",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"}

// Command returns the words in front of a program's own that record it into file. The program is the child of whoever
// starts the words; strace is a grandchild and ends with it.
func Command(file string) []string {
	return []string{"strace", "-D", "-f", "--seccomp-bpf", "-xx", "-s", "16777216", "-e", "signal=kill", "-e", "trace=" + strings.Join(Calls, ","), "-o", file}
}

// Event is the beginning or the end of one system call.
type Event struct {
	Call   *Call
	Begins bool
	Ends   bool // both when the trace has the call in one line
}

// Call is one system call.
type Call struct {
	Name   string
	Args   []string // as strace prints them
	Result int64    // set when it has ended; negative for an error
}

// Parse reads what strace wrote and calls fn for every beginning and end of a call, in order.
func Parse(r io.Reader, fn func(Event) error) error {
	open := make(map[string]*Call) // by thread
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read trace: %w", err)
		}
		if !bytes.HasSuffix(line, []byte("\n")) {
			return nil // strace was cut off
		}
		e, err := parseLine(string(line[:len(line)-1]), open)
		if err == nil && e.Call != nil {
			err = fn(e)
		}
		if err != nil {
			return fmt.Errorf("trace line %d: %w", n, err)
		}
	}
}

const (
	unfinished = " <unfinished ...>"
	resumed    = " resumed>"
)

// parseLine parses one line, "thread name(args) = result", or one half of it. Other lines give no call.
func parseLine(line string, open map[string]*Call) (e Event, err error) {
	thread, rest, ok := strings.Cut(line, " ")
	rest = strings.TrimLeft(rest, " ")
	if !ok || strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---") {
		return e, nil
	}
	if head, ok := strings.CutPrefix(rest, "<... "); ok {
		name, tail, found := strings.Cut(head, resumed)
		c := open[thread]
		if !found || c == nil || c.Name != name {
			return e, fmt.Errorf("a call resumes that was not begun: %.60q", rest)
		}
		delete(open, thread)
		args, result, err := splitResult(tail)
		if err != nil {
			return e, err
		}
		c.Args, c.Result = append(c.Args, splitArgs(args)...), result
		return Event{Call: c, Ends: true}, nil
	}
	name, rest, ok := strings.Cut(rest, "(")
	if !ok {
		return e, fmt.Errorf("not a call: %.60q", line)
	}
	c := &Call{Name: name}
	if begun, ok := strings.CutSuffix(rest, unfinished); ok {
		c.Args = splitArgs(strings.TrimSuffix(begun, ","))
		open[thread] = c
		return Event{Call: c, Begins: true}, nil
	}
	args, result, err := splitResult(rest)
	if err != nil {
		return e, err
	}
	c.Args, c.Result = splitArgs(args), result
	return Event{Call: c, Begins: true, Ends: true}, nil
}

// splitResult splits "args) = result text". A call that its process did not survive has the result "?".
func splitResult(s string) (args string, result int64, err error) {
	args, rest, ok := strings.Cut(s, ")") // with -xx no string holds one
	rest, ok2 := strings.CutPrefix(strings.TrimLeft(rest, " "), "= ")
	if !ok || !ok2 {
		return "", 0, fmt.Errorf("a call without a result: %.60q", s)
	}
	word, _, _ := strings.Cut(rest, " ")
	if word == "?" {
		return args, -1, nil
	}
	result, err = strconv.ParseInt(word, 0, 64)
	return args, result, err
}

// splitArgs splits at commas. With -xx no string holds one.
func splitArgs(s string) []string {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil
	}
	args := strings.Split(s, ", ")
	return slices.DeleteFunc(args, func(a string) bool { return a == "" })
}

// bytesOf decodes "\x00\x01…".
func bytesOf(arg string) ([]byte, error) {
	quoted, ok := strings.CutPrefix(arg, `"`)
	quoted, ok2 := strings.CutSuffix(quoted, `"`)
	if !ok || !ok2 {
		return nil, fmt.Errorf("not a whole string: %.40q", arg)
	}
	b := make([]byte, len(quoted)/4)
	for i := range b {
		if quoted[4*i] != '\\' || quoted[4*i+1] != 'x' {
			return nil, fmt.Errorf("not a string of -xx: %.40q", arg)
		}
		if _, err := hex.Decode(b[i:i+1], []byte(quoted[4*i+2:4*i+4])); err != nil {
			return nil, err
		}
	}
	return b, nil
}
