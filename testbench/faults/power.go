package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/journal"
	"github.com/sluice-edge/sluice/testbench/powercut"
	"github.com/sluice-edge/sluice/testbench/stand"
)

// Bounds of the power cuts.
const (
	imagesPerRecording = 150
	bootsPerRecording  = 3
	messagesPerBoot    = 1300
	checkers           = 2
)

// powerCuts records what processes do to a journal and checks what a cut at any moment may leave of it.
func powerCuts(ctx context.Context, b *bench, r *row) error {
	left := b.count(1050, 120)
	for n := 0; left > 0; n++ {
		images := min(left, imagesPerRecording)
		left -= images
		if err := b.recording(ctx, r, uint64(n), images); err != nil {
			return err
		}
	}
	return nil
}

// recording makes one recording of a few processes after each other and checks images of it.
func (b *bench) recording(ctx context.Context, r *row, n uint64, images int) error {
	dir, err := os.MkdirTemp(memory(), "sluice-faults-power-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(b.seed, 0x9043+n))
	var traces []string
	for boot := range bootsPerRecording {
		trace := filepath.Join(dir, fmt.Sprint("trace-", boot))
		killed := boot != 1
		words := append(powercut.Command(trace), self, driveVerb, "--dir", data, "--seed", fmt.Sprint(rng.Uint64()), "--messages", fmt.Sprint(messagesPerBoot))
		if killed {
			words = append(words, "--killed")
		}
		c, err := stand.Spawn(dir, fmt.Sprint("driver-", boot), words[0], words[1:]...)
		if err != nil {
			return err
		}
		if err := c.Wait(ctx); err != nil && !killed {
			return fmt.Errorf("driver: %w: %s", err, c.Tail())
		}
		if err := complete(ctx, trace, c.PID()); err != nil {
			return err
		}
		traces = append(traces, trace)
	}
	if err := os.RemoveAll(data); err != nil { // from here on it is made of the recording
		return err
	}
	return b.cut(ctx, r, rng, dir, data, traces, images)
}

// traceEnds bounds the wait for strace, which ends after the process.
const traceEnds = 10 * time.Second

// complete waits until strace has written the end of process pid.
func complete(ctx context.Context, trace string, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, traceEnds)
	defer cancel()
	for {
		tail, err := tailOf(trace, 4096)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(tail) {
			if f := bytes.Fields(line); len(f) > 1 && string(f[0]) == strconv.Itoa(pid) && string(f[1]) == "+++" {
				return nil
			}
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the recording has no end: %w", ctx.Err())
		}
	}
}

// tailOf returns the last bytes of a file.
func tailOf(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(st.Size(), n))
	if _, err := f.ReadAt(tail, st.Size()-int64(len(tail))); err != nil && err != io.EOF {
		return nil, err
	}
	return tail, nil
}

// cuts draws lines of the recordings after which the power goes: half of them anywhere, half beside operations that are rare.
func cuts(rng *rand.Rand, traces []string, n int) ([]int, error) {
	var rare []int
	lines := 0
	for _, t := range traces {
		f, err := os.Open(t)
		if err != nil {
			return nil, err
		}
		in := bufio.NewReaderSize(f, 1<<20)
		for start := true; ; {
			part, err := in.ReadSlice('\n')
			if start && len(part) > 10 {
				head := part[:min(len(part), 60)]
				for _, name := range []string{"rename", "unlink", "ftruncate", "mkdir", "O_CREAT", "fsync", "openat"} {
					if bytes.Contains(head, []byte(name)) {
						rare = append(rare, lines)
						break
					}
				}
			}
			if start = err == nil; start {
				lines++
			}
			if err == io.EOF {
				break
			}
			if err != nil && err != bufio.ErrBufferFull {
				return nil, errors.Join(err, f.Close())
			}
		}
		f.Close()
	}
	out := make([]int, n)
	for i := range out {
		out[i] = 1 + rng.IntN(lines)
		if i%2 == 0 && len(rare) > 0 {
			out[i] = rare[rng.IntN(len(rare))] + rng.IntN(3)
		}
	}
	slices.Sort(out)
	return out, nil
}

// heard is what the driver said before a cut.
type heard struct {
	acked     []ack
	delivered [driverUplinks]uint64
}

type ack struct {
	seq  uint64
	leaf [sha256.Size]byte
}

// listen takes the whole lines of said and returns the rest.
func (h *heard) listen(said []byte) []byte {
	for {
		line, rest, ok := bytes.Cut(said, []byte("\n"))
		if !ok {
			return said
		}
		said = rest
		f := strings.Fields(string(line))
		switch {
		case len(f) == 3 && f[0] == "a":
			var a ack
			a.seq, _ = strconv.ParseUint(f[1], 10, 64)
			hex.Decode(a.leaf[:], []byte(f[2]))
			h.acked = append(h.acked, a)
		case len(f) == 3 && f[0] == "d":
			u, _ := strconv.Atoi(f[1])
			h.delivered[u%driverUplinks], _ = strconv.ParseUint(f[2], 10, 64)
		}
	}
}

// cut follows the recordings and has an image checked for every cut.
func (b *bench) cut(ctx context.Context, r *row, rng *rand.Rand, dir, data string, traces []string, images int) error {
	at, err := cuts(rng, traces, images)
	if err != nil {
		return err
	}
	type job struct {
		heard
		folder string
		name   string
	}
	jobs, free := make(chan job), make(chan string, checkers)
	var mu sync.Mutex // guards r
	var working sync.WaitGroup
	for i := range checkers {
		free <- filepath.Join(dir, fmt.Sprint("image-", i))
		working.Go(func() {
			for j := range jobs {
				since := time.Now()
				found, err := checkImage(ctx, j.folder, &j.heard)
				mu.Lock()
				r.Runs++
				r.Lost += found.lost
				r.Undecided += found.undecided
				r.Mismatches += found.mismatches
				r.recovered(found.opened)
				if err != nil {
					r.bad("%s: %v", j.name, err)
					if b.keep != "" {
						os.CopyFS(filepath.Join(b.keep, strings.ReplaceAll(j.name, " ", "-")), os.DirFS(j.folder))
					}
				}
				b.debug("%s: %d acknowledged, checked in %v", j.name, len(j.acked), time.Since(since))
				mu.Unlock()
				free <- j.folder
			}
		})
	}
	disk, line, said := powercut.NewDisk(data), 0, heard{}
	seen := 0
	visit := func(e powercut.Event) error {
		for ; len(at) > 0 && at[0] <= line; at = at[1:] {
			seen = len(disk.Said) - len(said.listen(disk.Said[seen:]))
			seed := rng.Uint64()
			j := job{heard: said, folder: <-free, name: fmt.Sprintf("cut after line %d seed %d", line, seed)}
			j.acked = slices.Clip(said.acked)
			if err := disk.Image(rand.New(rand.NewPCG(seed, 1)), j.folder); err != nil {
				return err
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		line++
		return disk.Apply(e)
	}
	for _, t := range traces {
		disk.Boot()
		f, err := os.Open(t)
		if err == nil {
			err = powercut.Parse(f, visit)
			f.Close()
		}
		if err != nil {
			close(jobs)
			working.Wait()
			return fmt.Errorf("follow %s: %w", filepath.Base(t), err)
		}
	}
	close(jobs)
	working.Wait()
	said.listen(disk.Said[seen:])
	r.Acked += uint64(len(said.acked))
	return nil
}

// finding is what an image came to.
type finding struct {
	lost, undecided uint64
	mismatches      int
	opened          time.Duration
}

// checkImage opens the journal of an image as a gateway would after the cut, compares it with what was heard, writes to
// it and proves it with Check.
func checkImage(ctx context.Context, dir string, h *heard) (f finding, err error) {
	since := time.Now()
	j, err := journal.Open(driverOptions(dir))
	if err != nil {
		f.lost = uint64(len(h.acked))
		return f, err
	}
	f.opened = time.Since(since)
	err = compareRecords(j, h, &f)
	if !j.Totals().Identity() {
		f.mismatches++
		err = errors.Join(err, errors.New("received is not the sum of the states"))
	}
	e, e2 := driverEntry(j, rand.New(rand.NewPCG(1, 1)), 0)
	if e2 == nil {
		done := make(chan error, 1)
		j.Append([]*gateway.Entry{e}, func(_ uint64, err error) { done <- err })
		e2 = <-done
	}
	if err = errors.Join(err, e2, j.Close()); err != nil {
		return f, err
	}
	report, err := journal.Check(ctx, dir, []journal.Key{driverKey}, driverVerify, nil)
	if err == nil && !report.OK {
		err = fmt.Errorf("check: %s", strings.Join(report.Problems[:min(len(report.Problems), 3)], "; "))
	}
	return f, err
}

// compareRecords looks for everything that was heard in the records.
func compareRecords(j *journal.Journal, h *heard, f *finding) error {
	leaves := make(map[uint64][sha256.Size]byte, len(h.acked))
	for _, a := range h.acked {
		leaves[a.seq] = a.leaf
	}
	var delivered [driverUplinks]uint64
	var rec gateway.Record
	err := j.Records(0, func(seq uint64, record []byte) error {
		if want, ok := leaves[seq]; ok && want == sha256.Sum256(append([]byte{0}, record...)) { // [RFC 6962 §2.1]
			delete(leaves, seq)
		}
		if err := gateway.DecodeRecord(record, &rec); err != nil {
			return err
		}
		if rec.Kind == gateway.DeliveryRecord {
			if rec.Last >= seq {
				f.undecided++
			}
			u := int(rec.Uplink) % driverUplinks
			delivered[u] = max(delivered[u], rec.Last)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if f.lost = uint64(len(leaves)); f.lost > 0 {
		return fmt.Errorf("%d of %d acknowledged messages are gone", f.lost, len(h.acked))
	}
	for u, last := range h.delivered {
		if delivered[u] < last {
			return fmt.Errorf("uplink %d: record %d was delivered and the delivery is gone", u, last)
		}
	}
	return nil
}

// memory returns a folder in memory, so that images cost no disk; the usual one when there is none.
func memory() string {
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}
