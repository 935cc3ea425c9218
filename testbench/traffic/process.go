package traffic

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Process is a process to be measured.
type Process struct {
	Name string
	PID  int
}

// Written returns the bytes that the process caused to be written to block devices: every page of a file that it made
// dirty, once until it is written back. What file systems write beside for their own journal is not among them. Zero when
// the system does not show it.
func (p Process) Written() uint64 { return written(p.PID) }

// Anon returns the anonymous memory of the process that is resident, in bytes: without the pages of mapped files.
func (p Process) Anon() uint64 { return memory(p.PID, "RssAnon:") }

// Cost is what a process used during a run. Figures that the system does not show are zero.
type Cost struct {
	Name       string  `json:"name"`
	CPU        float64 `json:"cpu_seconds"`
	PerMillion float64 `json:"cpu_seconds_per_million"`
	PeakRSS    uint64  `json:"peak_rss_bytes"`      // since the process started
	PeakAnon   uint64  `json:"peak_rss_anon_bytes"` // largest of the samples
	Written    uint64  `json:"written_bytes"`
	PerMessage float64 `json:"written_bytes_per_message"`
}

const (
	sampleEvery   = 100 * time.Millisecond
	ticksASecond  = 100 // USER_HZ of every Linux that Go runs on
	statUserField = 11  // utime, counted behind the name of the process
)

// meter measures processes from newMeter to finish.
type meter struct {
	processes []Process
	before    []Cost
	costs     []Cost

	mu   sync.Mutex // guards anon
	anon []uint64
}

func newMeter(processes []Process) *meter {
	m := &meter{processes: processes, anon: make([]uint64, len(processes))}
	for _, p := range processes {
		m.before = append(m.before, Cost{Name: p.Name, CPU: cpu(p.PID), Written: written(p.PID)})
	}
	return m
}

// run samples memory until ctx ends.
func (m *meter) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		m.sample()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *meter) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, p := range m.processes {
		m.anon[i] = max(m.anon[i], memory(p.PID, "RssAnon:"))
	}
}

// finish takes the final figures; the processes may end afterwards.
func (m *meter) finish() {
	m.sample()
	for i, p := range m.processes {
		m.costs = append(m.costs, Cost{
			Name: p.Name, CPU: max(cpu(p.PID)-m.before[i].CPU, 0),
			PeakRSS: memory(p.PID, "VmHWM:"), Written: written(p.PID) - min(m.before[i].Written, written(p.PID)),
		})
	}
}

// report returns the costs, with the figures per message filled in.
func (m *meter) report(messages uint64) []Cost {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.costs {
		c := &m.costs[i]
		c.PeakAnon = m.anon[i]
		c.PerMillion = c.CPU / float64(messages) * 1e6
		c.PerMessage = float64(c.Written) / float64(messages)
	}
	return m.costs
}

// cpu returns the user and system time of a process in seconds.
func cpu(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) <= statUserField+1 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[statUserField], 64)
	system, _ := strconv.ParseFloat(f[statUserField+1], 64)
	return (user + system) / ticksASecond
}

// written returns the bytes that a process caused to be written to disk.
func written(pid int) uint64 { return status(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:", 1) }

func memory(pid int, key string) uint64 {
	return status(fmt.Sprintf("/proc/%d/status", pid), key, 1024)
}

// status returns one number of a file of lines "key: number [unit]", times unit.
func status(file, key string, unit uint64) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n * unit
		}
	}
	return 0
}
