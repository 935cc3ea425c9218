// Package mqtt speaks MQTT 3.1.1 on both sides of the gate: Source takes in what devices publish, Uplink publishes what
// may leave to a broker in the cloud.
//
// # Source
//
// Source is a gate, not a broker. It takes PUBLISH of QoS 0 and 1, answers PINGREQ, refuses every filter of a SUBSCRIBE
// with 0x80 and keeps no session: session present is always 0. What is not spoken fails visibly:
//
//	CONNECT of MQTT 5              CONNACK 0x84 in the form of MQTT 5, closed, counted as unsupported
//	CONNECT of MQTT 3.1, others    CONNACK 0x01, closed, counted as unsupported
//	CONNECT with a will            accepted; the will is never published; logged once
//	PUBLISH of QoS 2               closed, counted as unsupported
//
// A client logs in by every means that is configured: a client certificate (client_ca_file) whose common name or an
// alternative name is the client id, unless any_client_id is set; a user name and password (users_file). Without either,
// anonymous must be set, which is for loopback. Then the allow rules say what it may publish; they add up, and what none
// allows is refused: a CONNECT with 0x05, a PUBLISH by closing the connection, as 3.1.1 has no other answer. Topics that
// begin with $ or hold a level $sluice are refused always, and so are those that a broker in the cloud may not take:
// with control characters or noncharacters, of more than 128 levels or 4096 bytes.
//
// The reader of a connection decides the messages that one read brought as one batch (Gate.Admit, in its own goroutine)
// and puts the batch into a window; the acknowledger takes batches out in order when their tickets are done and only then
// writes PUBACKs. So the next batch is decided while the former is committed. A ticket with an error closes the
// connection without a PUBACK. While the window is full nothing is read, and the keep-alive does not run. While the
// journal is full, QoS 0 is refused and counted, QoS 1 is taken in until the window is full.
//
// A PUBLISH with DUP under a packet identifier that is still in the window is the repetition of a message in hand: it is
// not admitted again and its one PUBACK follows the commit. Without DUP such a PUBLISH breaks the protocol and costs the
// connection, because a PUBACK could not say which of the two it means. A repetition on a later connection is admitted
// again: delivery is at least once.
//
// The users file holds lines NAME:HASH as HashPassword writes them; lines that begin with # are comments.
//
// # Uplink
//
// An Uplink opens one client object of paho.mqtt.golang for each connection, without its reconnecting, its store and its
// sessions, because a token of that library reports success for what was never delivered once it has reconnected. The
// journal is the only memory; the caller opens the next link. What has no PUBACK when a link breaks stays unacknowledged.
//
// # Goroutines
//
// Source.Run starts two for each connection, the reader and the acknowledger, and returns when all have ended. Link has
// one that waits for acknowledgements and one that writes, which end before Close returns; the library's own end with
// the connection.
//
// # Clauses
//
// Tags like [MQTT-3.3.1-4] are those of MQTT 3.1.1 (OASIS Standard, 29 October 2014). They were compared with the tagged
// rules of Eclipse's MQTT interoperability suite; these do not occur there and are [unverified]: MQTT-2.2.2-1, 2.2.2-2,
// 2.3.1-2, 3.1.2-14, 3.1.2-15, 3.1.2-24, 3.1.3-11, 3.2.2-3, 3.2.2-4, 3.3.1-1, 3.3.1-4, 3.3.5-2, 3.8.1-1, 3.8.3-3,
// 3.10.1-1, 4.6.0-2, 4.7.2-1.
package mqtt
