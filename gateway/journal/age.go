package journal

import (
	"encoding/json"
	"time"

	"go.etcd.io/bbolt"

	"github.com/sluice-edge/sluice/gateway"
)

// Retention says how old records have to be before they may go without a collector. Zero: never.
type Retention struct {
	Default   time.Duration // every record
	Provision time.Duration // of personal information and important data that were handed over
}

// Bounds of a clock that may tell how old a record is.
const (
	steadyNeeded = 24 * time.Hour     // of running, see steadyClock
	steadyDrift  = time.Minute        // between the clock and the monotonic one, from one look to the next
	steadySlew   = 1000               // and one part in so many of the time between the looks
	steadyOff    = 7 * 24 * time.Hour // the longest the box may have been off; records stay so much longer than they have to
	steadySave   = 10 * time.Minute   // how often it is saved
)

// steadyClock knows for how long of running the clock was set, did not jump against the monotonic clock and, over the
// times when the gateway did not run, went neither back nor further than steadyOff. A jump starts it anew: no record goes
// because of its age before the gateway has run steadyNeeded with the new time, in which a clock that is wrong can be put
// right. A jump that a restart hides is shorter than steadyOff, which is added to what the retention says.
type steadyClock struct {
	Wall   int64         `json:"wall"`   // at the last look, milliseconds since 1970
	Steady time.Duration `json:"steady"` // of running

	up          time.Duration // at the last look
	seen, dirty bool
	saved       time.Duration
}

// look takes in what the clocks say now.
func (s *steadyClock) look(now time.Time, trusted bool, up time.Duration) {
	wall := now.UnixMilli()
	gone, ran := time.Duration(wall-s.Wall)*time.Millisecond, up-s.up
	good := trusted && s.Wall > 0
	if s.seen {
		off := gone - ran
		good = good && off.Abs() <= steadyDrift+ran/steadySlew
	} else {
		ran = 0
		good = good && gone >= -steadyDrift && gone <= steadyOff
	}
	if good {
		s.Steady += ran
	} else {
		s.Steady = 0
	}
	s.Wall, s.up, s.seen, s.dirty = wall, up, true, true
	if !trusted {
		s.Wall = 0
	}
}

// lookAtClocks lets steady follow and saves it now and then.
func (j *Journal) lookAtClocks(save bool) (now time.Time, steady bool) {
	now, trusted := j.opt.Clock()
	s := &j.steady
	s.look(now, trusted, j.opt.Uptime())
	if s.dirty && (save || s.up-s.saved >= steadySave) {
		text, err := json.Marshal(s)
		if err != nil {
			panic("journal: encode clock: " + err.Error())
		}
		err = j.state.update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucketTrimmed)
			if err != nil {
				return err
			}
			return b.Put(keyClock, text)
		})
		if err == nil {
			s.dirty, s.saved = false, s.up
		}
	}
	return now, trusted && s.Steady >= steadyNeeded
}

// keyClock is where steady is saved.
var keyClock = []byte("clock")

// restoreClock reads what steady was.
func (j *Journal) restoreClock() {
	j.state.db.read(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(bucketTrimmed); b != nil {
			if text := b.Get(keyClock); text != nil && json.Unmarshal(text, &j.steady) != nil {
				j.steady = steadyClock{}
			}
		}
		return nil
	})
}

// archiveAge is what the retention of one archive depends on.
type archiveAge struct {
	next      uint64 // of the archive; 0: not known
	newest    int64  // of the times of its records that can be trusted, and of all before
	untimed   bool   // its last record was made while the clock was not set
	provision uint64 // seq behind the last decision of the class provision
	class     bool   // it holds records of the class provision
}

// isProvision reports whether a decision let personal information or important data out, or may still.
func isProvision(r *gateway.Record) bool {
	if r.Kind != gateway.DecisionRecord || !r.Personal && !r.Sensitive && r.Grade.Rank() < gateway.Important.Rank() {
		return false
	}
	for i := range r.Outcomes {
		if r.Outcomes[i].State != gateway.Blocked {
			return true
		}
	}
	return false
}

// add takes in one record.
func (a *archiveAge) add(seq uint64, r *gateway.Record) {
	switch {
	case isProvision(r):
		a.class, a.provision = true, seq+1
	case r.Kind == gateway.DeliveryRecord || r.Kind == gateway.ExpiryRecord:
		a.class = a.class || r.First < a.provision
	case r.Kind == gateway.ReleaseRecord: // what a person let out, or had sent again
		a.class = true
	}
	if a.untimed = !r.Trusted; r.Trusted {
		a.newest = max(a.newest, r.Time.UnixMilli())
	}
}

// ageOf reads what the retention of the oldest archive depends on.
func (j *Journal) ageOf(m *archiveMeta) (archiveAge, error) {
	if j.frontAge.next == m.Next && !j.frontAge.untimed {
		return j.frontAge, nil
	}
	a := archiveAge{next: m.Next}
	if b := j.trimmedBase(); b != nil {
		a.newest, a.provision = b.Newest, b.Provision
	}
	if f := j.frontAge; f.next == m.First { // it goes together with the one in front of it
		a.newest, a.provision = max(a.newest, f.newest), max(a.provision, f.provision)
	}
	var r gateway.Record
	at := m.First
	err := archiveRecords(m, j.keys, &at, func(seq uint64, record []byte) error {
		if err := gateway.DecodeRecord(record, &r); err != nil {
			return &ErrRecord{seq, "is malformed"}
		}
		a.add(seq, &r)
		return nil
	})
	if err != nil {
		return a, err
	}
	if a.untimed { // as old as the first record behind it whose time can be trusted
		err = j.Records(m.Next, func(seq uint64, record []byte) error {
			if err := gateway.DecodeRecord(record, &r); err != nil {
				return &ErrRecord{seq, "is malformed"}
			}
			if !r.Trusted {
				return nil
			}
			a.untimed, a.newest = false, max(a.newest, r.Time.UnixMilli())
			return errStop
		})
	}
	j.frontAge = a
	return a, err
}

// expired reports whether every record of the oldest archive is older than it has to be kept.
func (j *Journal) expired(m *archiveMeta, now time.Time) (bool, error) {
	least := min(j.opt.Retention.Default, j.opt.Retention.Provision)
	if least <= 0 || now.UnixMilli()-j.frontAge.newest < least.Milliseconds() && j.frontAge.next == m.Next {
		return false, nil
	}
	a, err := j.ageOf(m)
	if err != nil || a.untimed || a.newest == 0 {
		return false, err
	}
	return now.Sub(time.UnixMilli(a.newest)) > j.needed(&a), nil
}

// needed returns how old an archive has to be.
func (j *Journal) needed(a *archiveAge) time.Duration {
	if a.class {
		return max(j.opt.Retention.Default, j.opt.Retention.Provision) + steadyOff
	}
	return j.opt.Retention.Default + steadyOff
}

// noteAge looks at the oldest archive when it is another one, for the forecast.
func (j *Journal) noteAge(m *archiveMeta) error {
	if j.opt.Retention == (Retention{}) || j.frontAge.next == m.Next {
		return nil
	}
	a, err := j.ageOf(m)
	if err == nil {
		j.keepFor.Store(int64(j.needed(&a)))
	}
	return err
}
