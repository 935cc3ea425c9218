package mqtt

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/gateway"
)

// instant is a gate whose tickets are done at once.
type instant struct{ n int }

func (g *instant) Admit(context.Context, []*gateway.Message) (gateway.Ticket, error) { return g, nil }
func (g *instant) Wait(context.Context) error                                        { return nil }
func (g *instant) Full() bool                                                        { return false }
func (g *instant) Refuse(string, gateway.Refusal, int)                               {}

// BenchmarkSource measures one PUBLISH of QoS 1 on its way in and its PUBACK on its way out, system calls included.
func BenchmarkSource(b *testing.B) {
	for _, size := range []int{300, 1 << 10, 10 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := start(b, bench(nil), &instant{}).connected(b, "a")
			d.conn.SetDeadline(time.Time{})
			const burst = 64
			var frames []byte
			for i := range burst {
				frames = append(frames, pub(1, uint16(i+1), "v1/LSVAA49J132037048/gnss", string(make([]byte, size)))...)
			}
			acks := make([]byte, 4*burst)
			b.ReportAllocs()
			for b.Loop() {
				d.conn.Write(frames)
				io.ReadFull(d.in, acks)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst), "ns/msg")
		})
	}
}

// BenchmarkDecode measures what the reader does with a buffer, without system calls.
func BenchmarkDecode(b *testing.B) {
	s, err := NewSource("bench", bench(nil), discard)
	if err != nil {
		b.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	session := newSession(b.Context(), b.Context(), s, &instant{}, near)
	session.filters = []string{"v1/+/gnss"}
	frame := pub(1, 7, "v1/LSVAA49J132037048/gnss", string(make([]byte, 1<<10)))
	in := newBatch(32 << 10)
	for range 32 {
		in.buf = append(in.buf, frame...)
	}
	b.ReportAllocs()
	for b.Loop() {
		in.off, in.msgs, in.acks = 0, in.msgs[:0], in.acks[:0]
		for n := range 32 {
			_, _ = session.parse(in, n+1)
			session.win.ids[0] = 0
		}
		in.list()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/msg")
}

// slow is a gate that commits like a disk: whatever was admitted while the last commit ran is in the next, which takes 3 ms.
type slow struct {
	instant
	mu    sync.Mutex // guards next
	next  *fakeTicket
	start chan struct{}
}

func (g *slow) Admit(_ context.Context, batch []*gateway.Message) (gateway.Ticket, error) {
	for began := time.Now(); time.Since(began) < time.Duration(len(batch))*20*time.Microsecond; { // deciding takes the processor
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next == nil {
		g.next = &fakeTicket{done: make(chan struct{})}
		signal(g.start)
	}
	return g.next, nil
}

func (g *slow) commit(ctx context.Context) {
	for {
		select {
		case <-g.start:
		case <-ctx.Done():
			return
		}
		g.mu.Lock()
		t := g.next
		g.next = nil
		g.mu.Unlock()
		<-time.After(3 * time.Millisecond)
		close(t.done)
	}
}

// BenchmarkCommits shows that one connection with a window of 256 keeps the gate busy like eight do.
func BenchmarkCommits(b *testing.B) {
	for _, connections := range []int{1, 8} {
		b.Run(fmt.Sprint(connections), func(b *testing.B) {
			gate := &slow{start: make(chan struct{}, 1)}
			go gate.commit(b.Context())
			r := start(b, bench(nil), gate)
			const window = 256
			total := b.N/connections + 1
			var all sync.WaitGroup
			for n := range connections {
				d := r.connected(b, fmt.Sprint(n))
				_ = d.conn.SetDeadline(time.Time{})
				slots := make(chan struct{}, window)
				all.Go(func() {
					payload := string(make([]byte, 1<<10))
					out := bufio.NewWriterSize(d.conn, 16<<10)
					for i := range total {
						select {
						case slots <- struct{}{}:
						default:
							_ = out.Flush()
							slots <- struct{}{}
						}
						_, _ = out.Write(pub(1, uint16(i%60000+1), "v1/x", payload))
					}
					_ = out.Flush()
				})
				all.Go(func() {
					ack := make([]byte, 4)
					for range total {
						_, _ = io.ReadFull(d.in, ack)
						<-slots
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(total*connections)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}
