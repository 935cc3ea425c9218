package journal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sluice-edge/sluice/gateway"
)

// Defaults and bounds of Options.
const (
	DefaultMaxSize         = 2 << 30
	DefaultAuditMaxSize    = 1 << 30
	DefaultCheckpointEvery = time.Minute
	DefaultCheckpointCount = 1 << 16
	minSegment             = 1 << 20
	maxSegment             = 64 << 20
	maxReserve             = 8 << 20
	openSegments           = 6
)

// Options say where a journal is and what bounds it. Sizes are in bytes.
type Options struct {
	Dir  string // made when it does not exist
	Keys []Key  // at-rest keys; the first one seals, the others only open

	MaxSize      int64 // body bytes of the segments and of parked.bolt; 0: DefaultMaxSize
	DropGeneral  bool  // when they are nearly spent, the oldest general messages are dropped; else devices wait
	AuditMaxSize int64 // record bytes, segments and archive; 0: DefaultAuditMaxSize
	SegmentSize  int64 // of a segment's file; 0: an eighth of MaxSize, 1 MiB to 64 MiB

	// MaxAge is how long a message of a grade may wait before it expires, 0 for ever. It counts while the gateway runs by a
	// clock that nobody can set, and while it is off by Clock, when that is trusted.
	MaxAge [gateway.Core + 1]time.Duration

	// Linger is how long the committer waits for more before a commit that holds little, 0 to 1 s: fewer bytes are written,
	// and acknowledgements come as much later.
	Linger time.Duration

	// Sign makes a checkpoint's text; nil: there are none. It is called by the committer after CheckpointEvery, when
	// records were added, after CheckpointCount records, and by Close.
	Sign            func(size uint64, root [32]byte, at time.Time) ([]byte, error)
	CheckpointEvery time.Duration // 0: DefaultCheckpointEvery
	CheckpointCount uint64        // 0: DefaultCheckpointCount

	// OnCommit, when not nil, is told of every commit, by the committer. It must not block.
	OnCommit func(d time.Duration, entries, bytes int)
	Clock    gateway.Clock // of delivery records; nil: the system's, not trusted
	Log      *slog.Logger  // nil: silent

	// Retention says when records are old enough to go; Receipt, when not nil, that there is a collector: it reads the
	// collector's signed word for a file of this gateway. Package doc, "Trimming".
	Retention Retention
	Receipt   func(text []byte) (gateway.Receipt, error)
	Uptime    func() time.Duration // since some moment, whatever happens to Clock; nil: the box's

	commit   func(tx *bbolt.Tx) error
	openFile func(name string, flag int, perm os.FileMode) (*os.File, error)
	after    func(d time.Duration, fn func()) *time.Timer
	elapsed  func() time.Duration
	step     func(name string) // told before each durable step; a test ends the process there
	verify   bool              // read everything before anything else
}

func (o *Options) setDefaults() {
	setDefault(&o.MaxSize, DefaultMaxSize)
	setDefault(&o.AuditMaxSize, DefaultAuditMaxSize)
	setDefault(&o.SegmentSize, min(maxSegment, o.MaxSize/8))
	o.SegmentSize = max(o.SegmentSize, minSegment)
	setDefault(&o.CheckpointEvery, DefaultCheckpointEvery)
	setDefault(&o.CheckpointCount, DefaultCheckpointCount)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = func() (time.Time, bool) { return time.Now(), false }
	}
	if o.commit == nil {
		o.commit = (*bbolt.Tx).Commit
	}
	if o.openFile == nil {
		o.openFile = os.OpenFile
	}
	if o.after == nil {
		o.after = time.AfterFunc
	}
	if o.elapsed == nil {
		o.elapsed = elapsed
	}
	if o.Uptime == nil {
		o.Uptime = o.elapsed
	}
	if o.step == nil {
		o.step = func(string) {}
	}
}

func setDefault[T int64 | uint64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Limits are what the operator wants for one uplink.
type Limits struct {
	// LiveShare is the share of messages committed since the link was opened while older ones wait, 0 to below 1; with 0
	// messages are sent in order.
	LiveShare float64
	// MaxBacklog is how many bytes of bodies may wait, 0 for no bound of its own. At the bound devices wait, unless
	// DropOldest: then the oldest messages are dropped, for this uplink.
	MaxBacklog int64
	DropOldest bool
}

// Limit sets the limits of an uplink, at any time.
func (j *Journal) Limit(uplink int, l Limits) {
	j.mu.Lock()
	j.limits[uplink] = l
	j.measure()
	j.mu.Unlock()
	j.poke() // there may be room now
}

// measure finds out how much room the uplinks that do not drop have left, and wakes the warden for the others. j.mu is held.
func (j *Journal) measure() {
	room := int64(math.MaxInt64)
	for u := range gateway.MaxUplinks {
		if l := &j.limits[u]; l.MaxBacklog > 0 {
			if waits := j.waitingBytes(u); !l.DropOldest {
				room = min(room, l.MaxBacklog-waits)
			} else if waits > l.MaxBacklog-l.MaxBacklog/pressureTop {
				j.press()
			}
		}
	}
	j.uplinkRoom.Store(room)
	if j.opt.DropGeneral && j.bodyBytes.Load() > j.opt.MaxSize-j.opt.MaxSize/pressureTop {
		j.press()
	}
}

func (j *Journal) limitsOf(uplink int) Limits {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.limits[uplink]
}

// auditReserve is what the record budget keeps for deliveries and events, which are committed when messages no longer are.
func (o *Options) auditReserve() int64 { return min(o.AuditMaxSize/16, maxReserve) }

// Journal implements gateway.Journal on a folder of files. All methods are safe for concurrent use.
type Journal struct {
	opt      Options
	readOnly bool
	locks    []*os.File
	keys     *keyring
	seal     sealer
	counter  atomic.Uint64
	names    *names
	state    stateDB
	parked   *boltFile
	files    handles
	slots    [gateway.MaxUplinks]chan struct{}

	mu         sync.Mutex // guards what follows; the committer writes it, the sweeper replaces segments by archives
	led        ledger
	segments   []*segment
	archives   []archiveMeta
	base       *base             // where the records here begin; nil: at 0
	receipts   map[uint64]uint64 // first and next of the ranges that a collector has
	unreadable []uint64          // firsts of archives that were found to be damaged
	waiting    [gateway.MaxUplinks][lanes]waitStat
	oldestAt   [gateway.MaxUplinks]uint64                   // nothing waits for the uplink below
	gradeAt    [gateway.MaxUplinks][gateway.Core + 1]uint64 // nothing of the grade does
	limits     [gateway.MaxUplinks]Limits
	ages       ages
	openedAt   time.Duration             // by elapsed
	feeds      [gateway.MaxUplinks]*Feed // the one whose link was opened last
	roots      map[uint64]tlog.Hash      // level-8 subtree roots that state.bolt does not have yet
	lost       losses                    // changes only before anything is appended
	checkpoint Checkpoint
	changed    chan struct{} // closed when something was committed
	waiters    int
	write      *segment // open for writing; only the committer changes it
	failure    error    // of the last commit that failed

	// Of this Open.
	repaired    []SetAside
	droppedNow  uint64 // messages, because of what was damaged
	stateSpoilt bool   // an earlier process could not write state.bolt
	stateLost   bool   // state.bolt is damaged and the journal open for reading only
	verified    bool   // every file was read and is whole

	bodyBytes, recordBytes atomic.Int64
	written                atomic.Uint64
	failing, reserveSpent  atomic.Bool
	uplinkRoom             atomic.Int64 // bytes that may still wait for the uplink with the least room

	shipping  sync.Mutex    // one receipt at a time is written or forgotten
	announced atomic.Uint64 // seq up to which a trimming is on the log
	keepFor   atomic.Int64  // how old the oldest archive has to be, nanoseconds; 0: not known, or for ever
	announces atomic.Bool   // a trimming is on its way to the log

	// The sweeper's own.
	steady      steadyClock
	frontAge    archiveAge // of the oldest archive
	damagedNext uint64     // next of the oldest archive, when it cannot be read
	leftover    []string   // files of trimmed archives that could not be removed

	// The committer's own.
	writeBodies int64
	pageSize    int
	pause       time.Duration
	lookAgain   *time.Timer
	freshRoots  []freshRoot

	qmu         sync.Mutex // guards what follows
	wake        *sync.Cond
	queue       []*batch
	urgent      []*batch
	queuedAt    time.Time // when the oldest batch came, or the last commit began
	queuedBytes int
	hurried     bool // the next commit does not linger
	rushed      bool // none does
	linger      bool // the timer that ends the linger runs
	pausing     bool // after a failed commit
	ticked      bool // a checkpoint is due
	look        bool // there may be room again
	closing     bool
	closingAt   time.Time
	gaveUp      bool

	tidyNow   chan struct{} // wakes the sweeper, capacity 1
	closed    chan struct{} // closed when Close begins
	open      context.Context
	shut      context.CancelFunc // ends open, with closed
	committed chan struct{}      // closed when the committer has ended
	swept     chan struct{}      // closed when the sweeper has ended
	pressed   chan struct{}      // wakes the warden, capacity 1
	warded    chan struct{}      // closed when the warden has ended
	ticker    *time.Ticker
	ticking   chan struct{}
	saveDue   atomic.Bool
	unparkDue atomic.Bool
}

type freshRoot struct {
	n    uint64
	hash tlog.Hash
}

// Open opens the journal in a folder for writing and makes it when there is none. A folder has one writer: the error
// is ErrLocked while another process has it. Whoever opens it calls Close.
func Open(o Options) (*Journal, error) {
	o.setDefaults()
	j, err := prepareOpen(o, false)
	if err != nil {
		return nil, fmt.Errorf("open journal %q: %w", o.Dir, err)
	}
	if err := j.start(); err != nil {
		j.release()
		return nil, fmt.Errorf("open journal %q: %w", o.Dir, err)
	}
	return j, nil
}

// OpenReadOnly opens a journal that nobody writes to, and changes nothing in it. While a gateway has it the error is
// ErrLocked: ask the gateway.
func OpenReadOnly(dir string, keys []Key) (*Journal, error) {
	o := Options{Dir: dir, Keys: keys}
	o.setDefaults()
	j, err := prepareOpen(o, true)
	if err != nil {
		return nil, fmt.Errorf("open journal %q: %w", dir, err)
	}
	return j, nil
}

// prepareOpen locks the folder and recovers the state as of the last commit. A folder that is damaged is made whole
// first, unless it is open for reading only.
func prepareOpen(o Options, readOnly bool) (*Journal, error) {
	j, err := newJournal(o, readOnly)
	if err != nil {
		return nil, err
	}
	if _, spoilt, err := readFormat(o.Dir); err != nil {
		return nil, err
	} else if err := formatDamage(spoilt); readOnly && err != nil {
		return nil, err
	}
	err = j.lockDir()
	if err == nil && !readOnly {
		err = j.raiseFormat()
	}
	locks := j.locks
	if err == nil {
		err = j.settleRepair()
	}
	if err == nil {
		if err = j.load(); isDamage(err) && !readOnly {
			o.Log.Error("journal is damaged", "err", err)
			j.locks = nil
			j.release()
			if err = makeWhole(o, j.keys); err == nil {
				aside := j.repaired
				if j, err = newJournal(o, false); err == nil {
					j.locks, j.repaired, j.verified = locks, aside, true
					err = j.load()
				}
			}
		}
	}
	if err != nil {
		if j == nil {
			j = new(Journal)
		}
		j.locks = locks
		j.release()
		return nil, err
	}
	return j, nil
}

// settleRepair carries out what an earlier process decided on, and reads everything when there is a reason to.
func (j *Journal) settleRepair() error {
	if j.readOnly {
		if p, err := readPlan(j.opt.Dir); p != nil || err != nil {
			return errors.Join(err, &damaged{"a repair was begun and has not ended"})
		}
		return nil
	}
	if p, err := carryOut(j.opt); p != nil || err != nil {
		return err // it is put on the record before anything else is looked at
	}
	why, err := os.ReadFile(filepath.Join(j.opt.Dir, suspectFile))
	j.stateSpoilt = string(why) == stateSuspect
	if err == nil || j.opt.verify {
		j.verified = true
		return makeWhole(j.opt, j.keys)
	}
	return nil
}

// load recovers the state from the files.
func (j *Journal) load() error {
	if err := j.recover(); err != nil {
		return err
	}
	return j.openParked()
}

// newJournal makes a journal that has opened nothing yet.
func newJournal(o Options, readOnly bool) (_ *Journal, err error) {
	j := &Journal{
		opt: o, readOnly: readOnly, names: newNames(), led: newLedger(), roots: make(map[uint64]tlog.Hash), receipts: make(map[uint64]uint64),
		changed: make(chan struct{}), closed: make(chan struct{}), committed: make(chan struct{}), swept: make(chan struct{}),
		pressed: make(chan struct{}, 1), warded: make(chan struct{}),
		ticking: make(chan struct{}), tidyNow: make(chan struct{}, 1),
		files: handles{open: o.openFile, max: openSegments},
	}
	j.uplinkRoom.Store(math.MaxInt64)
	j.wake = sync.NewCond(&j.qmu)
	j.open, j.shut = context.WithCancel(context.Background())
	for i := range j.slots {
		j.slots[i] = make(chan struct{}, 1)
	}
	j.led.lost = &j.lost
	if j.keys, err = newKeyring(o.Keys); err != nil {
		return nil, err
	}
	return j, nil
}

// start draws an incarnation, writes the first record of a new journal and starts committer, sweeper and ticker.
func (j *Journal) start() error {
	var b [8]byte
	rand.Read(b[:])
	j.seal = sealer{key: j.keys.current.ID, incarnation: binary.BigEndian.Uint64(b[:])}
	j.seal.aead = j.keys.frameKey(j.seal.key, j.seal.incarnation)
	if !j.restoreReserve() {
		j.opt.Log.Warn("journal has no room for its reserve")
	}
	opened := event{Event: "journal opened", Incarnation: hex.EncodeToString(b[:])}
	if j.led.tree.size == 0 {
		opened.Event = "journal created"
		first := new(batch)
		if err := j.prepare(first, []*gateway.Entry{j.eventEntry(opened)}); err != nil {
			return err
		}
		if err := j.commit([]*batch{first}, first.size); err != nil {
			return err
		}
	}
	if err := j.reportRepair(); err != nil {
		return err
	}
	if opened.Event == "journal opened" {
		j.Append([]*gateway.Entry{j.eventEntry(opened)}, func(uint64, error) {})
	}
	j.unparkDue.Store(true)
	j.ticker = time.NewTicker(j.opt.CheckpointEvery)
	go j.run()
	go j.sweep()
	go j.tick()
	go j.warden()
	j.tidy()
	return nil
}

// event is the detail of the journal's own event records: keys in this order, nothing that a device chose.
type event struct {
	Event       string `json:"event,omitempty"`
	Incarnation string `json:"incarnation,omitempty"` // 16 hexadecimal digits, of every id and nonce from here on
	Kind        string `json:"kind,omitempty"`        // of a name: source or uplink
	Number      *int   `json:"number,omitempty"`      // that the name has for ever
	Name        string `json:"name,omitempty"`
	By          string `json:"by,omitempty"`
}

func (e event) text() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic("journal: encode event: " + err.Error())
	}
	return b
}

// eventEntry makes an event record.
func (j *Journal) eventEntry(e event) *gateway.Entry {
	now, trusted := j.opt.Clock()
	return &gateway.Entry{Record: gateway.AppendRecord(nil, &gateway.Record{Kind: gateway.EventRecord, Time: now, Trusted: trusted, Detail: e.text()})}
}

// tick lets the committer look at the clock.
func (j *Journal) tick() {
	defer close(j.ticking)
	for {
		select {
		case <-j.ticker.C:
			j.qmu.Lock()
			j.ticked = true
			j.wake.Signal()
			j.qmu.Unlock()
		case <-j.closed:
			return
		}
	}
}

// Close commits what was appended, as far as there is room, signs a checkpoint, saves the state and gives the folder
// back. What could not be committed is told ErrClosed; drained segments that do not become archives in a moment are the
// next start's. It returns the first error of giving back.
func (j *Journal) Close() error {
	j.qmu.Lock()
	if j.closing {
		j.qmu.Unlock()
		<-j.swept
		return nil
	}
	j.closing, j.closingAt = true, time.Now()
	close(j.closed)
	j.shut()
	j.wake.Signal()
	j.qmu.Unlock()
	if j.readOnly {
		close(j.swept)
		return j.release()
	}
	j.ticker.Stop()
	<-j.ticking
	<-j.committed
	<-j.warded
	<-j.swept
	err := j.saveState()
	if e := j.release(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// release gives all files back.
func (j *Journal) release() error {
	var closers []error
	for _, s := range j.segments {
		if s == j.write {
			j.files.release(s)
		}
		j.files.drop(s)
	}
	closers = append(closers, closeBolt(j.state.db), closeBolt(j.parked))
	for _, f := range j.locks {
		closers = append(closers, f.Close())
	}
	return errors.Join(closers...)
}

// restoreReserve makes the reserve file, whose room is given up when the disk is full so that deliveries can still be
// recorded. It reports whether the reserve is there.
func (j *Journal) restoreReserve() bool {
	path, size := filepath.Join(j.opt.Dir, reserveFile), min(j.opt.SegmentSize, maxReserve)
	if st, err := os.Stat(path); err == nil && st.Size() == size {
		j.reserveSpent.Store(false)
		return true
	}
	err := func() error {
		f, err := j.opt.openFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		buf := make([]byte, 1<<16)
		for at := int64(0); at < size; at += int64(len(buf)) {
			if _, err := f.WriteAt(buf[:min(int64(len(buf)), size-at)], at); err != nil {
				return err
			}
		}
		return f.Sync()
	}()
	if err != nil {
		os.Remove(path)
	}
	j.reserveSpent.Store(err != nil)
	return err == nil
}

// spendReserve gives the reserve's room up after a failed commit. It reports whether there was one.
func (j *Journal) spendReserve() bool {
	if os.Remove(filepath.Join(j.opt.Dir, reserveFile)) != nil {
		return false
	}
	j.reserveSpent.Store(true)
	return true
}

// WrittenBytes returns the bytes handed to the file system for segments since Open.
func (j *Journal) WrittenBytes() uint64 { return j.written.Load() }
