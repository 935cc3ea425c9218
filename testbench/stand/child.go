// Package stand sets up the programs of a test bench as processes of their own: brokers, and gates from the sluice
// binary, each on a free loopback port with everything it writes below one folder. It ends only what it started.
//
// Goroutines: one per child, which waits for its end.
package stand

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

// Child is a process that was started here.
type Child struct {
	Name string
	Log  string // file with what it wrote to standard output and error

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // what Wait returned; read after done
}

const (
	readyWithin = 20 * time.Second
	stopWithin  = 20 * time.Second
	probeEvery  = 5 * time.Millisecond
)

// Spawn starts a program with its output in dir/name.log, appended.
func Spawn(dir, name, program string, args ...string) (*Child, error) {
	c := &Child{Name: name, Log: filepath.Join(dir, name+".log"), cmd: exec.Command(program, args...), done: make(chan struct{})}
	out, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir = out, out, dir
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// PID returns the process number.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Ready waits until addr takes MQTT connections. It is an error when the child ends, or is not ready within 20 s.
func (c *Child) Ready(ctx context.Context, addr string) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	deadline := time.After(readyWithin)
	for {
		err := traffic.Probe(addr)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.done:
			return fmt.Errorf("start %s: it ended (%v): %s", c.Name, c.err, c.Tail())
		case <-deadline:
			return fmt.Errorf("start %s: not ready within %v: %w: %s", c.Name, readyWithin, err, c.Tail())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Done is closed when the child has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the child's end and returns an error unless it ended with exit status 0.
func (c *Child) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Tail returns the end of the child's log.
func (c *Child) Tail() string {
	b, err := os.ReadFile(c.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1500):])
}

// Kill ends the child without warning and waits for its end.
func (c *Child) Kill() {
	c.cmd.Process.Kill() // an error means that it has ended
	<-c.done
}

// Stop asks the child to end and waits; after 20 s it is killed. An exit status other than 0 is an error.
func (c *Child) Stop() error {
	_, err := c.Stopped()
	return err
}

// Stopped is Stop, and says how long it took.
func (c *Child) Stopped() (took time.Duration, err error) {
	began := time.Now()
	err = c.stop()
	return time.Since(began), err
}

func (c *Child) stop() error {
	c.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-c.done:
	case <-time.After(stopWithin):
		c.Kill()
		return fmt.Errorf("stop %s: still running after %v", c.Name, stopWithin)
	}
	if c.err != nil {
		return fmt.Errorf("stop %s: %w: %s", c.Name, c.err, c.Tail())
	}
	return nil
}

// Written returns the bytes that the child caused to be written to block devices in all its life. It is for a child that
// has ended.
func (c *Child) Written() uint64 {
	<-c.done
	usage, ok := c.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return uint64(usage.Oublock) * 512 // in blocks of 512 bytes, whatever the device has
}

// Run runs a program to its end and returns its standard output; with an exit status other than 0 also an error that
// holds what it wrote to standard error.
func Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		err = fmt.Errorf("%s %s: %w", filepath.Base(program), args[0], err)
	}
	return out, err
}

// FreeAddress returns a loopback address host:port that nobody listens on at the moment.
func FreeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
