package gateway

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers of the product, all of them here. Counts of messages are not kept twice: they are read from
// the journal's tally, which follows the records.
type Metrics struct {
	registry *prometheus.Registry
	refused  *prometheus.CounterVec
	found    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	failed   *prometheus.CounterVec
	up       *prometheus.GaugeVec
	refusing *prometheus.GaugeVec
	unlinked *prometheus.GaugeVec
	backlog  *prometheus.GaugeVec
	lastData *prometheus.GaugeVec
	plugins  *prometheus.GaugeVec
	struck   *prometheus.GaugeVec
	catalogs *prometheus.GaugeVec
	certs    *prometheus.GaugeVec
	reload   prometheus.Gauge
	commit   prometheus.Histogram
	swap     prometheus.Histogram

	findings atomic.Pointer[findingCounters]
	refusals atomic.Uint64
}

// findingCounters are the counters of one version set's categories, resolved once so that deciding does no look-up.
type findingCounters struct {
	set *VersionSet
	of  [][]prometheus.Counter // category, action
}

// JournalNumbers is what metrics read from the journal at every scrape.
type JournalNumbers interface {
	Totals() Totals
	Tally() map[TallyKey]uint64
	// WrittenBytes counts bytes handed to the files; Backlog tells per uplink number what waits and since when.
	WrittenBytes() uint64
	Backlog(uplink int) (messages, bytes uint64, oldest time.Time)
	TreeSize() uint64
	CheckpointTime() time.Time
	DaysToFull() float64
	// Identity returns how the counters contradict each other, nil when they agree. [product.md §3, States]
	Identity() error
	Writable() bool
	Full() bool
	Dead(uplink int) uint64
}

// NewMetrics makes the metrics for the configured names; every label value is there from the start.
func NewMetrics(sources, uplinks, filters []string, version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.refused = m.counter("refused_total", "Messages and connections refused before a decision.", "source", "reason")
	m.found = m.counter("findings_total", "Findings by category and by the strictest action on their place.", "category", "action")
	m.failed = m.counter("filter_errors_total", "Filter failures; the message took the filter's on_error path.", "filter", "reason")
	m.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "sluice_filter_seconds", Help: "Time a filter took for one message.",
		Buckets: prometheus.ExponentialBuckets(1e-7, 4, 12)}, []string{"filter"})
	m.commit = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_journal_commit_seconds", Help: "Time of one journal commit, sync included.",
		Buckets: prometheus.ExponentialBuckets(1e-4, 2, 16)})
	m.swap = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sluice_swap_seconds", Help: "Time of one exchange of the version set: until nothing judges by the old one, and it is closed.",
		Buckets: prometheus.ExponentialBuckets(1e-5, 2, 18)})
	m.up = m.gauge("uplink_up", "Whether the uplink is connected.", "uplink")
	m.refusing = m.gauge("uplink_refusing", "Whether the cloud breaks the connection whatever is sent.", "uplink")
	m.unlinked = m.gauge("uplink_waits_for_link", "Whether the uplink waits for its link condition.", "uplink")
	m.backlog = m.gauge("uplink_backlog_limit_bytes", "Bytes that may wait for the uplink (max_backlog), 0 for no limit of its own.", "uplink")
	m.lastData = m.gauge("source_last_data_timestamp_seconds", "When the source last had a message, 0 for never.", "source")
	m.plugins = m.gauge("plugin_info", "Plugins in force.", "name", "version", "digest")
	m.struck = m.gauge("plugin_struck", "Whether a plugin is out of service: messages on its topics take its on_error.", "name")
	m.catalogs = m.gauge("catalog_info", "Catalogs in force.", "name", "version")
	m.certs = m.gauge("cert_expiry_timestamp_seconds", "When a certificate of this gateway expires.", "name")
	m.reload = prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_config_last_reload_successful", Help: "Whether the last reload of the configuration took effect."})
	build := m.gauge("build_info", "Version of the program.", "version")
	m.registry.MustRegister(m.seconds, m.commit, m.swap, m.reload)
	m.reload.Set(1)
	build.WithLabelValues(version).Set(1)
	for _, s := range sources {
		m.lastData.WithLabelValues(s)
		for _, r := range Refusals {
			m.refused.WithLabelValues(s, string(r))
		}
	}
	for _, u := range uplinks {
		for _, v := range []*prometheus.GaugeVec{m.up, m.refusing, m.unlinked, m.backlog} {
			v.WithLabelValues(u)
		}
	}
	for _, f := range filters {
		m.struck.WithLabelValues(f)
		m.seconds.WithLabelValues(f)
		for _, code := range FilterErrorCodes {
			m.failed.WithLabelValues(f, code)
		}
	}
	return m
}

// FilterErrorCodes are the codes of FilterError, for metrics.
var FilterErrorCodes = []string{"trap", "fuel", "depth", "memory", "refused", "too_large", "negative", "closed", "struck", "absent", "internal"}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_" + name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "sluice_" + name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

// Gatherer is what the HTTP endpoint serves.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// ObserveCommit notes the time of one commit.
func (m *Metrics) ObserveCommit(d time.Duration) { m.commit.Observe(d.Seconds()) }

// FilterTimer returns the observer of one filter's times.
func (m *Metrics) FilterTimer(filter string) prometheus.Observer {
	return m.seconds.WithLabelValues(filter)
}

// Reloaded notes whether the last reload took effect.
func (m *Metrics) Reloaded(ok bool) { m.reload.Set(boolNumber(ok)) }

// Catalog, Plugin and Certificate note what is in force.
func (m *Metrics) Catalog(name, version string) { m.catalogs.WithLabelValues(name, version).Set(1) }

// Plugin notes a plugin in force.
func (m *Metrics) Plugin(name, version, digest string) {
	m.plugins.DeletePartialMatch(prometheus.Labels{"name": name})
	m.plugins.WithLabelValues(name, version, digest).Set(1)
}

// Struck notes whether a plugin is out of service.
func (m *Metrics) Struck(name string, struck bool) {
	v := 0.0
	if struck {
		v = 1
	}
	m.struck.WithLabelValues(name).Set(v)
}

// Certificate notes when a certificate expires.
func (m *Metrics) Certificate(name string, expires time.Time) {
	m.certs.WithLabelValues(name).Set(float64(expires.Unix()))
}

func boolNumber(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *Metrics) uplinkUp(name string, up bool) { m.up.WithLabelValues(name).Set(boolNumber(up)) }

func (m *Metrics) uplinkRefusing(name string, refusing bool) {
	m.refusing.WithLabelValues(name).Set(boolNumber(refusing))
}

func (m *Metrics) uplinkUnlinked(name string, waits bool) {
	m.unlinked.WithLabelValues(name).Set(boolNumber(waits))
}

// BacklogLimit notes how many bytes may wait for an uplink.
func (m *Metrics) BacklogLimit(uplink string, bytes int64) {
	m.backlog.WithLabelValues(uplink).Set(float64(bytes))
}

func (m *Metrics) refuse(source string, reason Refusal, n int) {
	m.refused.WithLabelValues(source, string(reason)).Add(float64(n))
	m.refusals.Add(uint64(n))
}

// Refused counts everything refused since the start.
func (m *Metrics) Refused() uint64 { return m.refusals.Load() }

// inForce resolves the counters of a new version set.
func (m *Metrics) inForce(set *VersionSet) {
	cats := set.Classifier.Categories()
	c := &findingCounters{set: set, of: make([][]prometheus.Counter, len(cats))}
	for i := range cats {
		c.of[i] = make([]prometheus.Counter, int(Block)+1)
		for a := Pass; a <= Block; a++ {
			c.of[i][a] = m.found.WithLabelValues(cats[i].ID, a.String())
		}
	}
	m.findings.Store(c)
}

// decided counts one decision.
func (m *Metrics) decided(set *VersionSet, d *Decision) {
	c := m.findings.Load()
	for _, n := range d.record.Findings {
		if c != nil && c.set == set {
			c.of[n.Category][normal(n.Action)].Add(float64(n.Count))
		} else { // the set is being replaced
			m.found.WithLabelValues(set.Classifier.Categories()[n.Category].ID, normal(n.Action).String()).Add(float64(n.Count))
		}
	}
	for i := range d.Opinions {
		if o := &d.Opinions[i]; o.Failed != "" {
			m.failed.WithLabelValues(set.FilterOf(o).Name(), o.Failed).Inc()
		}
	}
}

// lastSeen notes when the source of a batch had data.
func (m *Metrics) lastSeen(batch []*Message) {
	if len(batch) > 0 {
		m.lastData.WithLabelValues(batch[0].Source).Set(unixOrZero(batch[len(batch)-1].Received))
	}
}

// Journal registers the collector of everything that the journal counts. uplinks maps names to the journal's numbers.
func (m *Metrics) Journal(j JournalNumbers, sources []string, uplinks map[string]int) {
	m.registry.MustRegister(&journalCollector{j: j, sources: sources, uplinks: uplinks,
		messages: desc("messages_total", "Messages per uplink by state; received, and the final states.", "source", "uplink", "grade", "state"),
		waiting:  desc("waiting_messages", "Messages that wait for the uplink.", "source", "uplink", "grade"),
		held:     desc("held_messages", "Messages held for a person.", "source", "uplink", "grade"),
		written:  desc("journal_written_bytes_total", "Bytes written to the journal's files."),
		backlog:  desc("journal_waiting_messages", "Messages that wait for the uplink.", "uplink"),
		bytes:    desc("journal_waiting_bytes", "Bytes that wait for the uplink.", "uplink"),
		oldest:   desc("journal_oldest_timestamp_seconds", "When the oldest waiting message was committed, 0 when nothing waits.", "uplink"),
		tree:     desc("audit_tree_size", "Records in the log."),
		signed:   desc("audit_checkpoint_timestamp_seconds", "Time of the newest signed checkpoint, 0 for none."),
		dead:     desc("journal_dead_messages", "Messages that the uplink refused for good; journal retry sends them again.", "uplink"),
		writable: desc("journal_writable", "Whether the last commit succeeded."),
		full:     desc("journal_full", "Whether nothing is taken in, for want of room or because the disk refuses to write."),
		days:     desc("audit_days_to_full", "Days until the records reach audit.max_size at the present rate."),
		identity: desc("identity_ok", "Whether received equals the sum of the states, per source, uplink and grade, and what waits is what the counters say."),
	})
}

// Shipped is how the shipping of archives to a collector stands.
type Shipped struct {
	Bytes    uint64 // sent since the start, of archives that got a receipt
	Failed   uint64 // attempts since the start
	TreeSize uint64 // up to which every archive has a receipt, is trimmed, or is lost
	Waiting  int    // archives without a receipt
	Last     time.Time
}

// Shipping registers what is read at every scrape about shipping.
func (m *Metrics) Shipping(read func() Shipped) {
	for name, c := range map[string]struct {
		help string
		of   func(s Shipped) float64
	}{
		"waiting_archives":               {"Archives that the collector has given no receipt for.", func(s Shipped) float64 { return float64(s.Waiting) }},
		"receipt_tree_size":              {"Records up to which the collector has given receipts or everything is trimmed.", func(s Shipped) float64 { return float64(s.TreeSize) }},
		"last_receipt_timestamp_seconds": {"When the collector last gave a receipt since the start, 0 for never.", func(s Shipped) float64 { return unixOrZero(s.Last) }},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_ship_" + name, Help: c.help}, func() float64 { return c.of(read()) }))
	}
	for name, c := range map[string]struct {
		help string
		of   func(s Shipped) uint64
	}{
		"sent_bytes_total": {"Bytes of the archives that the collector took.", func(s Shipped) uint64 { return s.Bytes }},
		"errors_total":     {"Attempts to ship an archive that ended without a receipt.", func(s Shipped) uint64 { return s.Failed }},
	} {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_ship_" + name, Help: c.help}, func() float64 { return float64(c.of(read())) }))
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_"+name, help, labels, nil)
}

// journalCollector reads the journal at every scrape.
type journalCollector struct {
	j                                           JournalNumbers
	sources                                     []string
	uplinks                                     map[string]int
	messages, waiting, held, written, backlog   *prometheus.Desc
	bytes, oldest, tree, signed, days, identity *prometheus.Desc
	dead, writable, full                        *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *journalCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.messages, c.waiting, c.held, c.written, c.backlog, c.bytes, c.oldest, c.tree, c.signed, c.days, c.identity, c.dead, c.writable, c.full} {
		ch <- d
	}
}

// finalStates are the states of messages_total, beside waiting and held, which go up and down.
var finalStates = []State{Received, Forwarded, Blocked, Rejected, Expired, Dropped, Dead, Erased}

// Collect implements prometheus.Collector.
func (c *journalCollector) Collect(ch chan<- prometheus.Metric) {
	tally := c.j.Tally()
	for _, s := range c.sources {
		for u := range c.uplinks {
			for g := Ungraded; g <= Core; g++ {
				if _, ok := tally[TallyKey{s, u, g, Received}]; !ok {
					tally[TallyKey{s, u, g, Received}] = 0
				}
			}
		}
	}
	seen := map[[3]string]bool{}
	for k := range tally {
		series := [3]string{k.Source, k.Uplink, k.Grade.String()}
		if seen[series] {
			continue
		}
		seen[series] = true
		get := func(s State) float64 { return float64(tally[TallyKey{k.Source, k.Uplink, k.Grade, s}]) }
		for _, s := range finalStates {
			ch <- prometheus.MustNewConstMetric(c.messages, prometheus.CounterValue, get(s), series[0], series[1], series[2], s.String())
		}
		ch <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, get(Waiting), series[:]...)
		ch <- prometheus.MustNewConstMetric(c.held, prometheus.GaugeValue, get(Held), series[:]...)
	}
	for name, number := range c.uplinks {
		messages, bytes, oldest := c.j.Backlog(number)
		ch <- prometheus.MustNewConstMetric(c.backlog, prometheus.GaugeValue, float64(messages), name)
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes), name)
		ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, unixOrZero(oldest), name)
		ch <- prometheus.MustNewConstMetric(c.dead, prometheus.GaugeValue, float64(c.j.Dead(number)), name)
	}
	ch <- prometheus.MustNewConstMetric(c.written, prometheus.CounterValue, float64(c.j.WrittenBytes()))
	ch <- prometheus.MustNewConstMetric(c.tree, prometheus.GaugeValue, float64(c.j.TreeSize()))
	ch <- prometheus.MustNewConstMetric(c.signed, prometheus.GaugeValue, unixOrZero(c.j.CheckpointTime()))
	ch <- prometheus.MustNewConstMetric(c.days, prometheus.GaugeValue, c.j.DaysToFull())
	ch <- prometheus.MustNewConstMetric(c.identity, prometheus.GaugeValue, boolNumber(c.j.Identity() == nil))
	ch <- prometheus.MustNewConstMetric(c.writable, prometheus.GaugeValue, boolNumber(c.j.Writable()))
	ch <- prometheus.MustNewConstMetric(c.full, prometheus.GaugeValue, boolNumber(c.j.Full()))
}

func unixOrZero(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// String makes a tally key readable in test output.
func (k TallyKey) String() string {
	return fmt.Sprintf("%s→%s %s %s", k.Source, k.Uplink, k.Grade, k.State)
}
