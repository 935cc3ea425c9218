package gateway

import "fmt"

// Reason is a code for why something was decided as it was. Codes are safe for records, logs and metrics: unlike error
// texts they cannot quote a value. Their numbers are frozen: records are hashed.
type Reason uint8

// The reasons.
const (
	NoReason           Reason = iota
	ReasonPolicy              // a row of the policy said so
	ReasonNoRow               // no row of the policy matched
	ReasonOpaque              // the body could not be decoded and nobody may let it out
	ReasonUnknownField        // an unlisted field, and unknown_field is block
	ReasonPlugin              // a plugin asked for it
	ReasonPluginFailed        // a plugin failed: on_error
	ReasonApproval            // an approval is missing or expired, or the clock that would tell is not set
	ReasonRecipient           // important data for an uplink whose recipient is not fully declared
	ReasonCore                // core data leave by no rule
	ReasonOperator            // an operator failed: a missing key, a value that cannot be edited
	ReasonTopic               // a topic level that may not leave as it is
	ReasonNoLeaf              // a field action on a body without fields
	ReasonOutput              // the output check found what the policy would not let leave
	ReasonInternal            // a broken invariant; the message stays
	lastReason         = ReasonInternal
)

var reasonNames = [...]string{"none", "policy", "no_row", "opaque", "unknown_field", "plugin", "plugin_failed", "approval", "recipient",
	"core", "operator", "topic", "no_leaf", "output_check", "internal"}

// String returns the reason's written form.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}
