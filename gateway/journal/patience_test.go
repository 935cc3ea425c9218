package journal

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A process that a killed gateway was about to start has its locks for a moment: the next gateway waits for it, and refuses
// where the lock stays.
func TestALockIsWaitedFor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := flock(f, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	heir := exec.Command("sleep", "0.3") // it has the same open file, and with it the lock
	heir.ExtraFiles = []*os.File{f}
	if err := heir.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	defer heir.Wait()
	next, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := syscall.Flock(int(next.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		t.Fatalf("err = %v: the lock went with the process that took it", err)
	}
	if err := flock(next, syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	third, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if err := flock(third, syscall.LOCK_SH); err != ErrLocked {
		t.Errorf("err = %v", err)
	}
}
