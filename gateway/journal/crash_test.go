package journal

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// crashEnv tells the child process where its journal is and at which step it dies: "<name> <n>" kills it the n-th time
// it comes to the step.
const crashEnv = "SLUICE_JOURNAL_CRASH"

func TestMain(m *testing.M) {
	if spec := os.Getenv(crashEnv); spec != "" {
		crashChild(spec)
		return
	}
	if spec := os.Getenv(repairEnv); spec != "" {
		repairChild(spec)
		return
	}
	os.Exit(m.Run())
}

// crashChild writes and delivers until it is killed. It prints the highest seq after every commit, and "d <seq>" after
// every delivery.
func crashChild(spec string) {
	dir, step, _ := strings.Cut(spec, "|")
	o := testOptions(dir)
	o.MaxSize, o.SegmentSize, o.Sign, o.CheckpointCount = 8<<20, 1<<20, testSign, 100
	name, count, _ := strings.Cut(step, " ")
	left, _ := strconv.Atoi(count)
	o.step = func(at string) {
		if at == name {
			if left--; left == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	ships := slices.Contains(trimSteps, name)
	if ships {
		o.AuditMaxSize, o.Receipt = 600<<10, testReceipt
	}
	j, err := Open(o)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	if ships {
		go collect(j)
	}
	for u, most := range []int{64, 40} {
		go func() {
			f := j.Feed(u)
			for f.Await(context.Background()) == nil {
				out, err := f.Next(most, 1<<20, nil)
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				if f.Settle(context.Background(), out, gateway.Forwarded, "") == nil {
					fmt.Println("d", u, out[len(out)-1].Seq)
				}
			}
		}()
	}
	window := make(chan struct{}, 32)
	for i := 0; ; i++ {
		window <- struct{}{}
		holds := gateway.UplinkSet(0)
		if i%50 == 0 {
			holds = 1 << 2
		}
		e := message(j, "bench", gateway.General, 0b11, holds, 0, "v1", make([]byte, 2000))
		j.Append([]*gateway.Entry{e}, func(first uint64, err error) {
			if err == nil {
				fmt.Println("c", first)
			}
			<-window
		})
	}
}

// collect gives a receipt for every archive.
func collect(j *Journal) {
	for ; ; time.Sleep(time.Millisecond) {
		if a, ok := j.Unshipped(); ok {
			if s, f, err := j.Shipment(a); err == nil {
				f.Close()
				j.Shipped(a, receiptText(&s))
			}
		}
	}
}

// trimSteps are the steps of a trimming.
var trimSteps = []string{"announce", "keep", "forget", "roots", "remove", "removed"}

// crash runs a child on the folder until it dies, at a step or after a while, and returns what it was told.
func crash(t *testing.T, dir, step string, after int) (committed uint64, delivered [2]uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+dir+"|"+step)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	lines := 0
	for in := bufio.NewScanner(out); in.Scan(); lines++ {
		f := strings.Fields(in.Text())
		switch {
		case len(f) == 2 && f[0] == "c":
			committed, _ = strconv.ParseUint(f[1], 10, 64)
		case len(f) == 3 && f[0] == "d":
			u, _ := strconv.Atoi(f[1])
			delivered[u], _ = strconv.ParseUint(f[2], 10, 64)
		case len(f) > 0 && f[0] == "error":
			t.Error(in.Text())
		}
		if lines == after {
			cmd.Process.Kill()
		}
	}
	return committed, delivered
}

// afterCrash checks the folder, opens it and compares it with what the child was told.
func afterCrash(t *testing.T, dir string, committed uint64, delivered [2]uint64) {
	t.Helper()
	mustCheck(t, dir)
	j, err := OpenReadOnly(dir, []Key{testKey})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if j.Size() <= committed {
		t.Fatalf("record %d was acknowledged, there are %d", committed, j.Size())
	}
	for u, seq := range delivered {
		if _, out := read(t, j, u, 1); len(out) > 0 && out[0].Seq <= seq {
			t.Fatalf("uplink %d: %d waits, %d was told", u, out[0].Seq, seq)
		}
	}
}

func TestAJournalSurvivesTheEndOfItsProcessAtEveryStep(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []string{"save", "park", "archive", "rename", "cursors", "unlink", "unlinked"} {
		for n := 1; n <= 2; n++ {
			t.Run(fmt.Sprintf("%s the %d. time", step, n), func(t *testing.T) {
				committed, delivered := crash(t, dir, fmt.Sprint(step, " ", n), 1<<30)
				afterCrash(t, dir, committed, delivered)
			})
		}
	}
}

func TestAJournalSurvivesTheEndOfItsProcessAtAnyMoment(t *testing.T) {
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range 6 {
		committed, delivered := crash(t, dir, "", 1+rng.IntN(3000))
		afterCrash(t, dir, committed, delivered)
	}
	j := openTest(t, testOptions(dir))
	drain(t, j, 0)
	drain(t, j, 1)
	if got := j.Totals(); got.Received == 0 || got.Waiting != 0 || !got.Identity() {
		t.Fatalf("totals %+v", got)
	}
	j.Close()
	mustCheck(t, dir)
}
