package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-edge/sluice/crypto/keyring"
	"github.com/sluice-edge/sluice/gateway"
	"github.com/sluice-edge/sluice/gateway/config"
	"github.com/sluice-edge/sluice/gateway/ship"
)

// JournalConfig bounds the queue on disk.
type JournalConfig struct {
	MaxSize  config.Size   `yaml:"max_size" default:"2GiB" doc:"bytes of bodies that may wait, over all uplinks"`
	MaxAge   time.Duration `yaml:"max_age" min:"0s" doc:"how long a message may wait before it expires, which is on the record; 0s: for ever"`
	MaxAgeOf GradeAges     `yaml:"max_age_of" doc:"the same by grade of the message, where it differs; 0s: as max_age"`
	Linger   time.Duration `yaml:"linger" default:"0s" min:"0s" max:"1s" doc:"how long a commit that holds little waits for more: less is written to flash (docs/flash.md), and acknowledgements come as much later"`
	WhenFull string        `yaml:"when_full" default:"refuse" enum:"refuse,drop_oldest_general" doc:"at max_size: devices wait until there is room, or the oldest general messages are dropped, which is on the record"`
}

// GradeAges is a maximal age for each grade.
type GradeAges struct {
	General   time.Duration `yaml:"general" min:"0s" doc:"of general messages"`
	Important time.Duration `yaml:"important" min:"0s" doc:"of messages with important data"`
	Core      time.Duration `yaml:"core" min:"0s" doc:"of messages with core data"`
}

// maxAges returns the maximal age by grade. What nobody graded counts as core.
func (c *JournalConfig) maxAges() (list [gateway.Core + 1]time.Duration) {
	for g, own := range map[gateway.Grade]time.Duration{gateway.General: c.MaxAgeOf.General, gateway.Important: c.MaxAgeOf.Important, gateway.Core: c.MaxAgeOf.Core, gateway.Ungraded: c.MaxAgeOf.Core} {
		if list[g] = own; own == 0 {
			list[g] = c.MaxAge
		}
	}
	return list
}

// AuditConfig bounds the record log and says how often it is signed.
type AuditConfig struct {
	MaxSize         config.Size     `yaml:"max_size" default:"4GiB" min:"16MiB" doc:"bytes of records kept on the box; when they are spent, no message is taken in"`
	Retention       RetentionConfig `yaml:"retention" doc:"how old records have to be before they may go without a collector; lint checks that max_size lasts as long"`
	Ship            *ship.Config    `yaml:"ship" doc:"a collector that archives are shipped to; on its receipt they go when records take half of max_size"`
	CheckpointEvery time.Duration   `yaml:"checkpoint_every" default:"1m" min:"1s" max:"24h" doc:"a signed checkpoint at least this often while records come in"`
	CheckpointCount int             `yaml:"checkpoint_count" default:"10000" min:"1" max:"1000000" doc:"and after this many records"`
}

// RetentionConfig says how long records are kept at least.
type RetentionConfig struct {
	Default   time.Duration `yaml:"default" default:"4416h" doc:"every record: six months, not less than 184 days"`
	Provision time.Duration `yaml:"provision" default:"26304h" doc:"records of personal information and important data that were handed to others: three years, not less than 1096 days"`
}

// What the law asks for at least.
const (
	minRetention  = 184 * 24 * time.Hour  // six months of logs [Cybersecurity Law Art. 23(3)]
	minProvision  = 1096 * 24 * time.Hour // three years of records of provision [Network Data Regulations Art. 12]
	segmentSize   = 64 * config.MiB       // of the journal
	recordBytes   = 200                   // of one decision with its delivery, in the archive
	segmentBytes  = 320                   // … and before that, in a segment
	messageBytes  = 1024                  // of one waiting body with its frame
	minAway       = 7 * 24 * time.Hour    // that records have room while nobody takes anything
	minAge        = time.Minute           // that a message may wait
	estimatedRate = 1.0                   // messages a second, where nobody said another
)

// checkLimits checks journal and audit, and estimates how long their budgets last at rate messages a second.
func (c *Config) checkLimits(r *config.Report, rate float64) {
	if r.Failed("journal.max_size") || r.Failed("journal.max_age") || r.Failed("audit.max_size") || r.Failed("audit.retention.default") {
		rate = 0 // nothing to estimate with
	}
	for g, age := range c.Journal.maxAges() {
		if age > 0 && age < minAge {
			r.Error("journal.max_age", fmt.Sprintf("messages graded %s would expire after %s; want at least %s, or 0s for never", gateway.Grade(g), age, minAge), "max_age: 168h is a week")
			break
		}
	}
	if c.Journal.MaxSize < segmentSize {
		r.Error("journal.max_size", fmt.Sprintf("%s is too small for one segment of the journal; want at least %s", c.Journal.MaxSize, segmentSize), "max_size: 2GiB")
	}
	if d := c.Audit.Retention.Default; d < minRetention {
		r.Error("audit.retention.default", fmt.Sprintf("%s is shorter than six months; want at least %s", hours(d), hours(minRetention)), "default: 4416h is 184 days")
	}
	if d := c.Audit.Retention.Provision; d < minProvision {
		r.Error("audit.retention.provision", fmt.Sprintf("%s is shorter than three years; want at least %s", hours(d), hours(minProvision)), "provision: 26304h is 1096 days")
	}
	c.checkShip(r)
	for i, u := range c.Uplinks {
		if u.MaxBacklog > c.Journal.MaxSize && !r.Failed("journal.max_size") {
			r.Warn(config.Index("uplinks", i)+".max_backlog", fmt.Sprintf("%s is more than journal.max_size %s, which is reached first", u.MaxBacklog, c.Journal.MaxSize), "raise journal.max_size or lower max_backlog")
		}
	}
	c.estimate(r, rate)
}

// checkShip checks where archives are shipped to.
func (c *Config) checkShip(r *config.Report) {
	s := c.Audit.Ship
	if s == nil {
		return
	}
	const at = "audit.ship"
	s.Check(r, at)
	checkFiles(r, at, map[string]string{"tls.ca_file": s.TLS.CAFile, "tls.cert_file": s.TLS.CertFile, "tls.key_file": s.TLS.KeyFile})
	checkPrivateFile(r, at+".tls.key_file", s.TLS.KeyFile)
	if s.ReceiptKey == "" {
		return // reported as missing
	}
	checkPublicKey(r, at+".receipt_key", s.ReceiptKey, keyring.Audit)
	if key, err := keyring.ReadPublic(s.ReceiptKey); err == nil && key.ID == c.Gateway {
		r.Error(at+".receipt_key", "key is the gateway's own: it would sign that it keeps what it removes", "the collector has a key of its own, under another name")
	}
}

// estimate warns of budgets that do not last as long as they have to.
func (c *Config) estimate(r *config.Report, rate float64) {
	if rate <= 0 {
		return
	}
	ages := c.Journal.maxAges()
	full := func(size config.Size, each int) time.Duration {
		return time.Duration(float64(size) / float64(each) / rate * float64(time.Second))
	}
	if c.Audit.Ship != nil {
		if d := full(c.Audit.MaxSize, segmentBytes); d < minAway {
			r.Warn("audit.max_size", fmt.Sprintf("%s of records is full after about %.1f days in which no uplink drains or the collector does not answer, at %g messages a second and %d bytes a record; want at least %.0f days",
				c.Audit.MaxSize, days(d), rate, segmentBytes, days(minAway)), "raise max_size; sluice lint --rate N assumes another rate")
		}
	} else if d := full(c.Audit.MaxSize, recordBytes); d < c.Audit.Retention.Default {
		need := config.Size(rate*c.Audit.Retention.Default.Seconds()*recordBytes)/config.GiB + 1
		r.Warn("audit.max_size", fmt.Sprintf("%s of records is full after about %.0f days at %g messages a second and %d bytes a record; retention.default is %.0f days",
			c.Audit.MaxSize, days(d), rate, recordBytes, days(c.Audit.Retention.Default)), fmt.Sprintf("max_size: %dGiB lasts, or ship archives to a collector: audit.ship; sluice lint --rate N assumes another rate", need))
	}
	if d := full(c.Journal.MaxSize, messageBytes); d < slices.Max(ages[:]) {
		r.Warn("journal.max_size", fmt.Sprintf("%s is full after about %.1f days without an uplink at %g messages a second and %d bytes a message; max_age is %.1f days",
			c.Journal.MaxSize, days(d), rate, messageBytes, days(slices.Max(ages[:]))), "raise max_size or lower max_age; sluice lint --rate N assumes another rate")
	}
}

func days(d time.Duration) float64 { return d.Hours() / 24 }

func hours(d time.Duration) string { return fmt.Sprintf("%gh", d.Hours()) }
