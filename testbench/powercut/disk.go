// Package powercut builds the disks that a power cut may leave behind, from a recording of what a process did to its files.
//
// # The model
//
// What a cut leaves is what POSIX promises and no more; where ext4 promises more (it commits metadata in order, and with
// a new file's fsync also its name), the model does not rely on it.
//
//   - A write, a change of size and a truncation are durable when an fsync or fdatasync of the file, begun after their
//     end, has ended without an error. The file's name is not made durable by that.
//   - The names of a folder (created, renamed, removed) are durable when an fsync of the folder, begun after their end,
//     has ended. A rename within a folder is one operation: both names change, or neither does.
//   - Of what is not durable, every 512-byte sector of every write is there or is not, independently, in any order and
//     over files; a later write may be there without an earlier one to the same sector. A sector is never torn.
//   - Of names that are not durable every operation happened or did not, independently.
//   - The size of a file may have grown to the end of a write whose sectors are missing: they read as zeros. What was
//     never written reads as zeros too; no other file's bytes appear.
//   - A system call under way at the cut is one that is not durable.
//   - The folder itself exists from the beginning. What was said (written to standard output or error) before the cut was heard.
//
// For every image one draws how likely sectors of a file and names of a folder are kept, between never and always, so that
// "nothing of it", "all of it" and every mixture occur.
package powercut

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const sector = 512

// Disk follows a recording. Feed it with Apply; Image may be called between any two events.
type Disk struct {
	Said []byte // what the processes wrote to standard output and error

	root  string
	top   *node
	fds   map[int]*handle
	syncs map[*Call]syncing
	early map[*Call]*change // writes that have begun
}

// node is a file or a folder.
type node struct {
	names   map[string]*node // of a folder: as running processes see them
	durable map[string]*node
	renames []naming // of a folder: not durable

	size    int64 // of a file: as running processes see it
	data    []byte
	changes []*change // of a file: not durable
}

// change is a write, or with no data a new size.
type change struct {
	at   int64
	data []byte
	cut  bool // the size becomes at
	done bool
}

// naming is one change of a folder's names: those with a nil node go.
type naming map[string]*node

type handle struct {
	node *node
	at   int64
}

// syncing is what an fsync that has begun will make durable.
type syncing struct {
	node    *node
	changes []*change
	names   int
}

// NewDisk returns an empty disk. root is the path of the folder in the recording; what is elsewhere does not matter.
func NewDisk(root string) *Disk {
	d := &Disk{root: filepath.Clean(root), top: newFolder()}
	d.Boot()
	return d
}

func newFolder() *node { return &node{names: map[string]*node{}, durable: map[string]*node{}} }

// Boot begins another process's recording: descriptors are gone, the files are as they were.
func (d *Disk) Boot() {
	d.fds, d.syncs, d.early = map[int]*handle{}, map[*Call]syncing{}, map[*Call]*change{}
}

var errUnknown = errors.New("is not in the model")

// Apply lets the disk follow one event.
func (d *Disk) Apply(e Event) error {
	c := e.Call
	if e.Begins {
		if err := d.begin(c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	if e.Ends {
		if err := d.end(c); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return nil
}

// begin does what may have an effect before the call ends.
func (d *Disk) begin(c *Call) error {
	switch c.Name {
	case "write", "pwrite64":
		return d.write(c)
	case "fsync", "fdatasync":
		h, err := d.handle(c)
		if err != nil || h == nil {
			return err
		}
		s := syncing{node: h.node, names: len(h.node.renames)}
		for _, ch := range h.node.changes {
			if ch.done {
				s.changes = append(s.changes, ch)
			}
		}
		d.syncs[c] = s
	case "close":
		fd, err := number(c, 0)
		delete(d.fds, int(fd))
		return err
	}
	return nil
}

func number(c *Call, i int) (int64, error) {
	if i >= len(c.Args) {
		return 0, fmt.Errorf("has %d arguments", len(c.Args))
	}
	return strconv.ParseInt(c.Args[i], 0, 64)
}

func (d *Disk) handle(c *Call) (*handle, error) {
	fd, err := number(c, 0)
	return d.fds[int(fd)], err
}

func (d *Disk) write(c *Call) error {
	h, err := d.handle(c)
	if err != nil {
		return err
	}
	if len(c.Args) < 2 {
		return errUnknown
	}
	if h == nil {
		if fd := c.Args[0]; fd == "1" || fd == "2" {
			said, err := bytesOf(c.Args[1])
			d.Said = append(d.Said, said...)
			return err
		}
		return nil
	}
	ch := &change{at: h.at}
	if ch.data, err = bytesOf(c.Args[1]); err != nil {
		return err
	}
	if c.Name == "pwrite64" {
		if ch.at, err = number(c, 3); err != nil {
			return err
		}
	}
	h.node.changes = append(h.node.changes, ch)
	d.early[c] = ch
	return nil
}

// end does what the end of the call brings.
func (d *Disk) end(c *Call) error {
	switch c.Name {
	case "write", "pwrite64":
		return d.written(c)
	case "fsync", "fdatasync":
		if s, ok := d.syncs[c]; ok && c.Result == 0 {
			s.node.sync(s)
		}
		delete(d.syncs, c)
		return nil
	case "close":
		return nil
	}
	if c.Result < 0 {
		return nil
	}
	switch c.Name {
	case "openat":
		return d.open(c)
	case "lseek":
		h, err := d.handle(c)
		if h != nil {
			h.at = c.Result
		}
		return err
	case "ftruncate":
		h, err := d.handle(c)
		if err != nil || h == nil {
			return err
		}
		size, err := number(c, 1)
		h.node.resize(size)
		return err
	case "mkdirat", "unlinkat", "renameat", "renameat2", "mkdir", "unlink", "rmdir", "rename":
		return d.rename(c)
	}
	return d.foreign(c)
}

// foreign accepts a call that the model does not know when it does not touch the folder.
func (d *Disk) foreign(c *Call) error {
	for i, a := range c.Args {
		if strings.HasPrefix(a, `"`) {
			if b, err := bytesOf(a); err != nil || d.inside(string(b)) {
				return errUnknown
			}
		} else if fd, err := strconv.Atoi(a); err == nil && i < 3 && d.fds[fd] != nil {
			return errUnknown
		}
	}
	return nil
}

func (d *Disk) inside(path string) bool {
	path = filepath.Clean(path)
	return path == d.root || strings.HasPrefix(path, d.root+"/")
}

func (d *Disk) written(c *Call) error {
	h, err := d.handle(c)
	ch := d.early[c]
	if delete(d.early, c); err != nil || ch == nil {
		return err
	}
	if h == nil {
		return errors.New("its descriptor was closed meanwhile")
	}
	ch.data = ch.data[:max(min(c.Result, int64(len(ch.data))), 0)]
	ch.done = true
	if end := ch.at + int64(len(ch.data)); c.Name == "write" {
		h.at, h.node.size = end, max(h.node.size, end)
	} else {
		h.node.size = max(h.node.size, end)
	}
	return nil
}

func (n *node) resize(size int64) {
	n.changes = append(n.changes, &change{at: size, cut: true, done: true})
	n.size = size
}

// paths returns the cleaned paths in the arguments.
func paths(c *Call) (list []string, err error) {
	for _, a := range c.Args {
		if !strings.HasPrefix(a, `"`) {
			continue
		}
		b, err := bytesOf(a)
		if err != nil {
			return nil, err
		}
		list = append(list, filepath.Clean(string(b)))
	}
	return list, nil
}

// find returns a folder and a name in it; nil when the path is not below the root.
func (d *Disk) find(path string) (folder *node, name string) {
	if !d.inside(path) || path == d.root {
		return nil, ""
	}
	folder = d.top
	words := strings.Split(strings.TrimPrefix(path, d.root+"/"), "/")
	for _, w := range words[:len(words)-1] {
		if folder = folder.names[w]; folder == nil || folder.names == nil {
			return nil, ""
		}
	}
	return folder, words[len(words)-1]
}

func (d *Disk) open(c *Call) error {
	list, err := paths(c)
	if err != nil || len(list) != 1 || len(c.Args) < 3 {
		return errors.Join(err, errUnknown)
	}
	if !d.inside(list[0]) {
		return nil
	}
	n := d.top
	if list[0] != d.root {
		folder, name := d.find(list[0])
		if folder == nil {
			return errUnknown
		}
		if n = folder.names[name]; n == nil {
			n = &node{}
			folder.name(naming{name: n})
		}
	}
	flags := strings.Split(c.Args[2], "|")
	if slices.Contains(flags, "O_TRUNC") && n.size > 0 {
		n.resize(0)
	}
	h := &handle{node: n}
	if slices.Contains(flags, "O_APPEND") {
		h.at = n.size
	}
	d.fds[int(c.Result)] = h
	return nil
}

// rename follows the calls that change names.
func (d *Disk) rename(c *Call) error {
	list, err := paths(c)
	if err != nil || len(list) == 0 {
		return errors.Join(err, errUnknown)
	}
	if !slices.ContainsFunc(list, d.inside) {
		return nil
	}
	folder, name := d.find(list[0])
	if folder == nil {
		if list[0] == d.root && strings.HasPrefix(c.Name, "mkdir") {
			return nil
		}
		return errUnknown
	}
	switch {
	case strings.HasPrefix(c.Name, "mkdir"):
		folder.name(naming{name: newFolder()})
	case strings.HasPrefix(c.Name, "rename"):
		if len(list) != 2 {
			return errUnknown
		}
		to, as := d.find(list[1])
		if to != folder {
			return errors.New("between folders is not in the model")
		}
		folder.name(naming{name: nil, as: folder.names[name]})
	default:
		folder.name(naming{name: nil})
	}
	return nil
}

func (n *node) name(change naming) {
	n.renames = append(n.renames, change)
	apply(n.names, change)
}

func apply(names map[string]*node, change naming) {
	for name, n := range change {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

// sync makes durable what an fsync began with.
func (n *node) sync(s syncing) {
	for _, change := range n.renames[:s.names] {
		apply(n.durable, change)
	}
	n.renames = n.renames[s.names:]
	for _, ch := range s.changes {
		n.data = ch.apply(n.data, func(int) bool { return true })
	}
	n.changes = slices.DeleteFunc(n.changes, func(ch *change) bool { return slices.Contains(s.changes, ch) })
}

// apply changes data as far as keep, asked for every sector in turn, says.
func (ch *change) apply(data []byte, keep func(sector int) bool) []byte {
	if ch.cut {
		if !keep(0) {
			return data
		}
		return sized(data, int(ch.at))
	}
	for from, i := 0, 0; from < len(ch.data); i++ {
		at := int(ch.at) + from
		n := min(sector-at%sector, len(ch.data)-from)
		if keep(i) {
			if len(data) < at+n {
				data = sized(data, at+n)
			}
			copy(data[at:], ch.data[from:from+n])
		}
		from += n
	}
	return data
}

func sized(data []byte, n int) []byte {
	if n <= len(data) {
		return data[:n]
	}
	old := len(data)
	data = slices.Grow(data, n-old)[:n]
	clear(data[old:])
	return data
}

// chances are how likely something that is not durable is kept.
var chances = []float64{0, 0.05, 0.5, 0.95, 1}

// Image writes into the folder dir what a power cut now might leave. The same state and seed give the same image.
func (d *Disk) Image(rng *rand.Rand, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return d.top.image(rng, dir)
}

func (n *node) image(rng *rand.Rand, path string) error {
	if n.names == nil {
		return os.WriteFile(path, n.left(rng), 0o600)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	names := maps.Clone(n.durable)
	chance := chances[rng.IntN(len(chances))]
	for _, change := range n.renames {
		if rng.Float64() < chance {
			apply(names, change)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := names[name].image(rng, filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// left returns the content that a cut leaves of a file.
func (n *node) left(rng *rand.Rand) []byte {
	if len(n.changes) == 0 {
		return n.data
	}
	data := slices.Clone(n.data)
	chance, whole := chances[rng.IntN(len(chances))], rng.IntN(2) == 0
	for _, ch := range n.changes {
		all := rng.Float64() < chance
		data = ch.apply(data, func(int) bool {
			if whole || ch.cut {
				return all
			}
			return rng.Float64() < chance
		})
		if end := int(ch.at) + len(ch.data); !ch.cut && end > len(data) && rng.IntN(4) == 0 {
			data = sized(data, end)
		}
	}
	return data
}
