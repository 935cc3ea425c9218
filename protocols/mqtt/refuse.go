package mqtt

import "github.com/sluice-edge/sluice/gateway"

// Refuses says why the source would not take a PUBLISH of the client on the topic in, "" when it would. size is that of
// the payload in bytes. The user name is that of an anonymous client, so rules that want a user do not apply.
func (c *SourceConfig) Refuses(client, topic string, size int) gateway.Refusal {
	switch {
	case !validTopicName([]byte(topic)) || !travels(topic):
		return gateway.RefusedMalformed
	case int64(size+len(topic)+8) > int64(c.MaxPacket):
		return gateway.RefusedTooLarge
	case !permitted(permits(c.Allow, client, ""), topic):
		return gateway.RefusedNotPermitted
	}
	return ""
}
