package traffic

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Hand is one device, driven by hand.
type Hand struct {
	link *link
	next uint16
	open int // published and not acknowledged

	patience time.Duration // of Publish, 0 for ever
}

// DialHand connects a device.
func DialHand(addr, client string) (*Hand, error) {
	l, err := dial(addr, client, false)
	return &Hand{link: l}, err
}

// Publish sends one message with QoS 1 and does not wait for its acknowledgement.
func (h *Hand) Publish(topic string, payload []byte) error {
	h.next++
	if h.next == 0 {
		h.next = 1
	}
	body := append(text(topic), byte(h.next>>8), byte(h.next))
	if h.patience > 0 {
		h.link.conn.SetWriteDeadline(time.Now().Add(h.patience))
	}
	_, err := h.link.conn.Write(packet(publish|1<<1, append(body, payload...)))
	if err == nil {
		h.open++
	}
	return err
}

// Acknowledged waits until at most open messages are without an acknowledgement, or ctx ends.
func (h *Hand) Acknowledged(ctx context.Context, open int) error {
	defer context.AfterFunc(ctx, func() { h.link.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for h.open > open {
		first, err := h.link.read()
		if err != nil {
			return fmt.Errorf("wait for PUBACK: %w", err)
		}
		if first&0xF0 == puback {
			h.open--
		}
	}
	return nil
}

// Deafen makes the system keep as little as it can of what is answered, and Publish fail when it waits for longer than
// patience: the gate has stopped reading.
func (h *Hand) Deafen(patience time.Duration) error {
	h.patience = patience
	return h.link.conn.(*net.TCPConn).SetReadBuffer(1)
}

// Close ends the connection without a goodbye.
func (h *Hand) Close() { h.link.conn.Close() }
