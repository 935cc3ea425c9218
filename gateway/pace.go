package gateway

import (
	"context"
	"sync"
	"time"
)

// pace keeps to a number of bytes a second: a bucket that holds a second's worth. It has one user.
type pace struct {
	rate float64 // bytes a second; 0: no limit
	left float64
	at   time.Time
}

// wait blocks until n bytes may be sent, or ctx ends.
func (p *pace) wait(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	if p.at.IsZero() {
		p.left = p.rate
	} else {
		p.left = min(p.rate, p.left+now.Sub(p.at).Seconds()*p.rate)
	}
	p.at = now
	p.left -= float64(n) // below zero it is owed: the next one waits for it
	if p.left >= 0 {
		return ctx.Err()
	}
	sleep(ctx, time.Duration(-p.left/p.rate*float64(time.Second)))
	return ctx.Err()
}

// LinkState is which network the gateway is on, as somebody who knows tells it: "wifi", "lte". A nil *LinkState meets
// every condition. It is safe for concurrent use.
type LinkState struct {
	mu      sync.Mutex // guards what follows
	name    string
	changed chan struct{}
}

// NewLinkState returns a state that meets no condition yet.
func NewLinkState() *LinkState { return &LinkState{changed: make(chan struct{})} }

// Set says which network it is now, and reports whether that is news.
func (l *LinkState) Set(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.name == name {
		return false
	}
	l.name = name
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// Name returns what was set last.
func (l *LinkState) Name() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name
}

// Meets reports whether the condition want is met.
func (l *LinkState) Meets(want string) bool { return l == nil || want == "" || l.Name() == want }

// Await waits until the condition want is met, or is not met, or ctx ends. The condition "" is always met.
func (l *LinkState) Await(ctx context.Context, want string, met bool) error {
	if l == nil || want == "" {
		if met {
			return ctx.Err()
		}
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		l.mu.Lock()
		is, changed := l.name == want, l.changed
		l.mu.Unlock()
		if is == met {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch returns a channel that is closed when the condition is not met any more, until stop is called.
func (l *LinkState) watch(want string) (unmet <-chan struct{}, stop func()) {
	if l == nil || want == "" {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		if l.Await(ctx, want, false) == nil {
			close(c)
		}
	})
	return c, func() {
		cancel()
		watching.Wait()
	}
}
