// Consumer shows how the receiving side tells copies of a message apart: it subscribes at a broker that a gateway's
// uplink publishes to, takes the id from every message, and processes each id once.
//
// The gateway delivers at least once: after a lost connection, a kill or a power cut it sends again what nobody confirmed.
// A copy has the id of the first, so a window over the last ids is enough. How wide it must be is in docs/delivery.md.
//
// The order is: process, write the window, sync it, acknowledge. What the consumer did not acknowledge the broker sends
// again; so a crash of the consumer between processing and syncing processes a message twice. Who cannot bear that puts
// the id into the same transaction as the effect: INSERT … ON CONFLICT (id) DO NOTHING needs no window at all.
//
//	go run ./deploy/consumer/go -broker tcp://127.0.0.1:1884 -topic 'v1/#' -identity field -window seen.window
//
// Goroutines: those of the MQTT library, which hand over messages in order; they end with Disconnect.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// batch bounds how many messages share one sync.
const batch = 256

func main() {
	broker := flag.String("broker", "tcp://127.0.0.1:1884", "where the uplink publishes")
	topic := flag.String("topic", "v1/#", "topic filter, with the uplink's topic_prefix")
	client := flag.String("client", "sluice-consumer", "client id: the broker keeps what it did not acknowledge under it")
	var from identity
	flag.StringVar(&from.mode, "identity", "field", "uplinks[].identity.mode: cloudevents or field")
	flag.StringVar(&from.idField, "id-field", "_sluice_id", "identity.id_field")
	flag.StringVar(&from.salt, "salt-field", "_sluice_salt", "identity.salt_field")
	flag.StringVar(&from.body, "body-field", "_sluice_body", "identity.body_field")
	name := flag.String("window", "seen.window", "file of the window")
	size := flag.Int("size", 32768, "ids in the window: at least the uplink's inflight, for each gateway")
	flag.Parse()
	if flag.NArg() > 0 || from.mode != "cloudevents" && from.mode != "field" {
		flag.Usage()
		os.Exit(2)
	}
	w, err := openWindow(*name, *size)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		c := &consumer{from: from, window: w, out: os.Stdout, log: os.Stderr}
		err = c.run(ctx, *broker, *client, *topic)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "consumer: error:", err)
		os.Exit(1)
	}
}

// consumer processes every id once.
type consumer struct {
	from                                      identity
	window                                    *window
	out, log                                  io.Writer
	received, processed, duplicates, nameless int
}

// run consumes until ctx ends.
func (c *consumer) run(ctx context.Context, broker, client, topic string) error {
	arrived := make(chan mqtt.Message, batch) // the library's reader waits when it is full
	opts := mqtt.NewClientOptions().AddBroker(broker).SetClientID(client).SetCleanSession(false).SetAutoAckDisabled(true).
		SetOrderMatters(true).SetConnectRetry(true).SetConnectRetryInterval(time.Second).SetMaxReconnectInterval(5 * time.Second)
	opts.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { // also what came before the subscription is confirmed
		select {
		case arrived <- m:
		case <-ctx.Done():
		}
	})
	opts.SetOnConnectHandler(func(cl mqtt.Client) { cl.Subscribe(topic, 1, nil) })
	cl := mqtt.NewClient(opts)
	cl.Connect()
	defer cl.Disconnect(250)
	defer c.window.close()
	for {
		var messages []mqtt.Message
		select {
		case m := <-arrived:
			messages = append(messages, m)
		case <-ctx.Done():
			fmt.Fprintf(c.log, "received %d, processed %d, duplicates %d, without an id %d\n", c.received, c.processed, c.duplicates, c.nameless)
			return nil
		}
		for more := true; more && len(messages) < batch; {
			select {
			case m := <-arrived:
				messages = append(messages, m)
			default:
				more = false
			}
		}
		for _, m := range messages {
			if err := c.take(m.Topic(), m.Payload()); err != nil {
				return err
			}
		}
		if err := c.window.sync(); err != nil {
			return err
		}
		for _, m := range messages {
			m.Ack()
		}
	}
}

// take processes one message unless its id was seen.
func (c *consumer) take(topic string, payload []byte) error {
	if strings.Contains("/"+topic+"/", "/$sluice/") {
		return nil // epoch keys and checkpoints: they carry no id, and reading them twice does no harm
	}
	c.received++
	got, body, err := c.from.take(payload)
	if err != nil { // nobody can tell whether it is a copy: better twice than never
		c.nameless++
		return c.process(id{}, topic, payload)
	}
	if c.window.has(got) {
		c.duplicates++
		return nil
	}
	if err := c.process(got, topic, body); err != nil {
		return err
	}
	return c.window.add(got)
}

// process is where your program begins. This one prints a line.
func (c *consumer) process(i id, topic string, body []byte) error {
	c.processed++
	line := struct {
		ID    string          `json:"id"`
		Topic string          `json:"topic"`
		Body  json.RawMessage `json:"body"`
	}{hex.EncodeToString(i[:]), topic, body}
	if !json.Valid(body) {
		line.Body = json.RawMessage(`null`)
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(b, '\n'))
	return err
}
