package stand

import (
	"bufio"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluice-edge/sluice/testbench/traffic"
)

// echo listens and sends back what comes.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	return l.Addr().String()
}

// says sends a line through a connection and reports whether it comes back.
func says(c net.Conn, within time.Duration) bool {
	c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte("x\n")); err != nil {
		return false
	}
	_, err := bufio.NewReader(c).ReadString('\n')
	return err == nil
}

func TestAProxyMakesTheWeather(t *testing.T) {
	p, err := NewProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	join := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", p.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	const soon, patience = 50 * time.Millisecond, 5 * time.Second
	set := func(w Weather) {
		t.Helper()
		if err := p.Set(w); err != nil {
			t.Fatal(err)
		}
	}
	c := join()
	if !says(c, patience) {
		t.Fatal("nothing passes in fair weather")
	}
	set(Weather{Silent: true})
	if says(c, soon) || says(join(), soon) {
		t.Error("something passes in silence")
	}
	set(Weather{})
	if says(c, soon) {
		t.Error("a connection that saw silence lives")
	}
	c = join()
	if !says(c, patience) {
		t.Error("nothing passes after silence")
	}
	set(Weather{Latency: 30 * time.Millisecond})
	since := time.Now()
	if !says(c, patience) || !says(c, patience) || time.Since(since) < 60*time.Millisecond {
		t.Errorf("two round trips in %v", time.Since(since))
	}
	set(Weather{Down: true})
	if says(c, soon) {
		t.Error("a connection survives the cut")
	}
	if c, err := net.Dial("tcp", p.Addr); err == nil {
		t.Error("a connection is accepted while the wire is down")
		c.Close()
	}
	set(Weather{})
	if c = join(); !says(c, patience) {
		t.Error("nothing passes after the cut")
	}
	if p.Cut(); says(c, soon) {
		t.Error("a connection survives Cut")
	}
}

func TestACloudDoesWhatItsScriptSays(t *testing.T) {
	c, err := StartCloud()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var mu sync.Mutex // guards n
	n := 0
	c.Script(func(topic string, _ []byte) Answer {
		mu.Lock()
		defer mu.Unlock()
		n++
		switch {
		case n == 40:
			return Hang
		case n > 45: // so that no acknowledgement is held back at the end
			return Take
		}
		return []Answer{Take, TakeTwice, TakeSwap, Take}[n%4]
	})
	r, err := traffic.Start(t.Context(), traffic.Config{Devices: []string{c.Addr}, Cloud: c.Addr, Connections: 2, QoS: 1, CloudQoS: 1, Window: 8,
		Size: 600, Count: 60, Capacity: 1 << 10, Reconnect: true, Drain: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	report, err := r.Wait()
	if err != nil || report.Lost != 0 || report.Acked != 60 || report.Arrived != 60 || report.Resent == 0 {
		t.Errorf("%v %+v", err, report.Counts)
	}
}
