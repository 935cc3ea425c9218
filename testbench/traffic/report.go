package traffic

// Report is what a run came to.
type Report struct {
	Connections int     `json:"connections"`
	QoS         byte    `json:"qos"`
	Window      int     `json:"window"`
	BodyBytes   int     `json:"body_bytes"` // mean
	Rate        float64 `json:"rate"`       // asked for; 0: closed loop
	Seconds     float64 `json:"seconds"`    // from the first message sent to the last acknowledged (QoS 0: arrived)
	Counts
	Lost          uint64         `json:"lost"`    // acknowledged, may arrive and never did
	Missing       uint64         `json:"missing"` // sent, may arrive and never did, acknowledged or not
	AckedASecond  float64        `json:"acked_per_second"`
	ArrivedSecond float64        `json:"arrived_per_second"`
	Ack           Latency        `json:"ack"`     // from sending to the acknowledgement
	Arrival       Latency        `json:"arrival"` // from sending to the cloud's subscriber
	LeakKinds     map[string]int `json:"leak_kinds,omitempty"`
	Processes     []Cost         `json:"processes"`
}

// report sums up; everything has ended.
func (r *Run) report() Report {
	l := r.ledger
	rep := Report{Connections: r.cfg.Connections, QoS: r.cfg.QoS, Window: r.cfg.Window, Rate: r.cfg.Rate, Counts: l.counts()}
	var acks histogram
	bytes, n := 0, 0
	for _, d := range r.devices {
		acks.merge(&d.acks)
		for _, t := range d.templates {
			bytes += t.size
			n++
		}
	}
	rep.BodyBytes = bytes / n
	rep.Ack = acks.latency()
	begin := l.firstSent.Load()
	perSecond := func(count uint64, end int64) float64 {
		if end <= begin {
			return 0
		}
		return float64(count) / (float64(end-begin) / 1e9)
	}
	rep.AckedASecond = perSecond(rep.Acked, l.lastAck.Load())
	end := l.lastAck.Load()
	if r.cloud != nil {
		rep.Lost = r.lost()
		rep.Missing = max(rep.Sent-l.staying.Load(), rep.Arrived) - rep.Arrived // what escapes counts as arrived
		rep.ArrivedSecond = perSecond(rep.Arrived, l.lastArrival.Load())
		rep.Arrival = r.cloud.arrival.latency()
		rep.LeakKinds = r.cloud.kinds
		if r.cfg.QoS == 0 {
			end = l.lastArrival.Load()
		}
	}
	rep.Seconds = float64(max(end-begin, 0)) / 1e9
	messages := max(rep.Acked, 1)
	if r.cfg.QoS == 0 {
		messages = max(rep.Sent, 1)
	}
	rep.Processes = r.meter.report(messages)
	return rep
}
