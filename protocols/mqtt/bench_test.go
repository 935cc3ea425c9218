package mqtt

import (
	"context"
	"fmt"
	"io"
	"net"
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
	session := newSession(b.Context(), s, &instant{}, near)
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
