package journal

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// repairEnv tells a child process which journal to repair and at which step to die: "<folder>|<name> <n>".
const repairEnv = "SLUICE_JOURNAL_REPAIR"

func repairChild(spec string) {
	dir, step, _ := strings.Cut(spec, "|")
	at := strings.LastIndexByte(step, ' ')
	left, _ := strconv.Atoi(step[at+1:])
	o := testOptions(dir)
	o.MaxSize, o.Sign, o.CheckpointCount, o.verify = 8<<20, testSign, 50, true
	o.step = func(name string) {
		if name == step[:at] {
			if left--; left == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	j, err := Open(o)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	j.Close()
}

func TestARepairEndsTheSameWhereverItIsInterrupted(t *testing.T) {
	tr := damageable(t)
	damage := func(dir string) {
		n := 0
		for _, name := range tr.files {
			switch {
			case strings.HasPrefix(name, segPrefix):
				n++
				spoilFile(t, dir, name, func(b []byte) []byte { clear(b[(8+n)*4096 : (10+n)*4096]); return b })
			case strings.HasSuffix(name, arcSuffix):
				spoilFile(t, dir, name, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
			case name == parkedFile:
				spoilFile(t, dir, name, func(b []byte) []byte { clear(b[3*4096 : 4*4096]); return b })
			}
		}
	}
	whole := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
	damage(whole.Dir)
	want := tr.afterRepair(t, whole)
	wantFiles, _ := os.ReadDir(filepath.Join(whole.Dir, damagedDir))
	if want.lost == 0 || len(wantFiles) < 5 {
		t.Fatalf("%+v, %d files set aside", want, len(wantFiles))
	}
	steps := []string{"repair draft 1", "repair decide 1", "repair move 1", "repair move 2", "repair move 5", "repair place 1", "repair place 2", "repair place 7", "repair placed 1", "repair reported 1"}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			o := tr.copyTo(t, filepath.Join(t.TempDir(), "copy"))
			damage(o.Dir)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), repairEnv+"="+o.Dir+"|"+step)
			if out, err := cmd.CombinedOutput(); err == nil || len(out) > 0 {
				t.Fatalf("the process did not die: %v, %s", err, out)
			}
			got := tr.afterRepair(t, o)
			files, _ := os.ReadDir(filepath.Join(o.Dir, damagedDir))
			if got != want || len(files) != len(wantFiles) {
				t.Fatalf("%+v and %d files set aside, want %+v and %d", got, len(files), want, len(wantFiles))
			}
			j, err := OpenReadOnly(o.Dir, o.Keys)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			events := 0
			j.Records(0, func(seq uint64, record []byte) error {
				events += strings.Count(string(record), eventRestated)
				return nil
			})
			if events != 1 {
				t.Fatalf("the repair is on the record %d times", events)
			}
		})
	}
}
