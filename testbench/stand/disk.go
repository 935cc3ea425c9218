package stand

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Magic numbers of file systems that are no disk. [statfs(2)]
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// Disk reports how many bytes are free for everybody in the file system of dir, which is an error when that is memory:
// what is measured there says nothing of a disk.
func Disk(dir string) (free uint64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look at file system of %q: %w", dir, err)
	}
	if st.Type == tmpfsMagic || st.Type == ramfsMagic {
		return 0, fmt.Errorf("look at file system of %q: it is memory, want a disk", dir)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// sectorsWritten is the place of the sectors written in a block device's stat file.
const sectorsWritten = 6

// DeviceWritten returns the bytes written to the block device of dir since the system started, by whomever, the file
// system's own journal included; 0 when the device does not show it.
func DeviceWritten(dir string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return 0
	}
	dev := uint64(st.Dev)
	major, minor := dev>>8&0xfff|dev>>32&^0xfff, dev&0xff|dev>>12&^0xff
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor))
	if f := strings.Fields(string(b)); err == nil && len(f) > sectorsWritten {
		n, _ := strconv.ParseUint(f[sectorsWritten], 10, 64) // no number: not shown
		return n * 512
	}
	return 0
}
