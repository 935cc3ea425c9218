package gateway

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// index returns the number of the uplink or category with the name.
func category(t *testing.T, id string) uint16 {
	t.Helper()
	i := slices.IndexFunc(testCats, func(c Category) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("no category %s", id)
	}
	return uint16(i)
}

func TestTheFirstMatchingRowRules(t *testing.T) {
	yes, no := true, false
	block := RowConfig{Action: "block"}
	core := usualRows[0]
	important := RowConfig{Match: MatchConfig{Grade: []string{"important"}}, Action: "block"}
	row := func(m MatchConfig) []RowConfig {
		return []RowConfig{core, important, {Match: m, Action: "pass"}, block}
	}
	for _, c := range []struct {
		name   string
		rows   []RowConfig
		uplink int
		cat    string
		grade  Grade
		source string
		topic  string
		want   int
	}{
		{"a whole category", row(MatchConfig{Category: []string{"T-SPEED"}}), 0, "T-SPEED", General, "", "", 2},
		{"another category", row(MatchConfig{Category: []string{"T-SPEED"}}), 0, "T-LOC", General, "", "", 3},
		{"a category that * widens", row(MatchConfig{Category: []string{"T-ID-*"}}), 0, "T-ID-PHONE", General, "", "", 2},
		{"* stands for nothing else", row(MatchConfig{Category: []string{"T-ID-*"}}), 0, "T-LOC", General, "", "", 3},
		{"a choice of categories", row(MatchConfig{Category: []string{"T-LOC", "T-SPEED"}}), 0, "T-SPEED", General, "", "", 2},
		{"a class", row(MatchConfig{Class: []string{"identity"}}), 0, "T-ID-VIN", General, "", "", 2},
		{"personal", row(MatchConfig{Personal: &yes}), 0, "T-ID-VIN", General, "", "", 2},
		{"not personal", row(MatchConfig{Personal: &no}), 0, "T-ID-VIN", General, "", "", 3},
		{"sensitive", row(MatchConfig{Sensitive: &yes}), 0, "T-LOC", General, "", "", 2},
		{"the jurisdiction", row(MatchConfig{Jurisdiction: []string{"CN"}}), 0, "T-SPEED", General, "", "", 2},
		{"not the jurisdiction, at home", row(MatchConfig{Jurisdiction: []string{"!CN"}}), 0, "T-SPEED", General, "", "", 3},
		{"not the jurisdiction, abroad", row(MatchConfig{Jurisdiction: []string{"!CN"}}), 1, "T-SPEED", General, "", "", 2},
		{"the uplink", row(MatchConfig{Uplink: []string{"lab"}}), 1, "T-SPEED", General, "", "", 2},
		{"the recipient", row(MatchConfig{Recipient: []string{"TSP"}}), 1, "T-SPEED", General, "", "", 3},
		{"the source", row(MatchConfig{Source: []string{"line-1"}}), 0, "T-SPEED", General, "line-1", "", 2},
		{"another source", row(MatchConfig{Source: []string{"line-1"}}), 0, "T-SPEED", General, "line-2", "", 3},
		{"the topic", row(MatchConfig{Topic: []string{"v1/+/gnss/#"}}), 0, "T-SPEED", General, "", "v1/7/gnss/fix", 2},
		{"another topic", row(MatchConfig{Topic: []string{"v1/+/gnss/#"}}), 0, "T-SPEED", General, "", "v1/7/can", 3},
		{"all conditions must hold", row(MatchConfig{Topic: []string{"v1/#"}, Uplink: []string{"lab"}}), 0, "T-SPEED", General, "", "v1/7", 3},
		{"the merged grade, not the category's", row(MatchConfig{}), 0, "T-SPEED", Important, "", "", 1},
		{"what nobody graded is core", row(MatchConfig{}), 0, "T-OPAQUE", Ungraded, "", "", 0},
		{"core", row(MatchConfig{}), 0, "T-SITE", Core, "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := compiled(t, c.rows)
			r := p.Rule(c.uplink, category(t, c.cat), c.grade, &Message{Source: c.source, Topic: c.topic}, morning, true)
			if r.Row != c.want {
				t.Errorf("row %d, want %d", r.Row, c.want)
			}
			if a, _ := ParseAction(c.rows[c.want].Action); r.Op.Action != a || r.Reason != ReasonPolicy {
				t.Errorf("%s for %s", r.Op.Action, r.Reason)
			}
		})
	}
}

func TestWhatLetsImportantDataOut(t *testing.T) {
	rows := []RowConfig{usualRows[0], {Match: MatchConfig{Grade: []string{"important"}}, Action: "encrypt", To: "dso",
		Approval: &ApprovalConfig{Ref: "A-1", Until: "2026-03-02"}}, {Action: "pass"}}
	p := compiled(t, rows)
	undeclared, _ := CompilePolicy(rows, testCats, testUplinks, morning)
	undeclared.ups = slices.Clone(undeclared.ups)
	undeclared.ups[0].LegalBasis = ""
	noApproval, _ := CompilePolicy(rows, testCats, testUplinks, morning)
	noApproval.rows = slices.Clone(noApproval.rows)
	noApproval.rows[1].approved = false
	for _, c := range []struct {
		name    string
		p       *Policy
		g       Grade
		now     time.Time
		trusted bool
		want    Action
		why     Reason
	}{
		{"an approval that holds", p, Important, morning, true, Encrypt, ReasonPolicy},
		{"its last day", p, Important, time.Date(2026, 3, 2, 23, 59, 59, 999, time.UTC), true, Encrypt, ReasonPolicy},
		{"its end", p, Important, time.Date(2026, 3, 3, 0, 0, 0, 0, time.UTC), true, Block, ReasonApproval},
		{"a clock that is not set cannot tell", p, Important, morning, false, Block, ReasonApproval},
		{"no approval", noApproval, Important, morning, true, Block, ReasonApproval},
		{"a recipient that is not declared", undeclared, Important, morning, true, Block, ReasonRecipient},
		{"general data need none of it", undeclared, General, morning, false, Pass, ReasonPolicy},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := c.p.Rule(0, catSpeed, c.g, &Message{}, c.now, c.trusted); r.Op.Action != c.want || r.Reason != c.why {
				t.Errorf("%s for %s", r.Op.Action, r.Reason)
			}
		})
	}
	t.Run("core by no rule, though lint was not asked", func(t *testing.T) {
		bad := &Policy{rows: []row{{op: plain(Pass), approved: true, until: morning.AddDate(9, 0, 0), unconditional: true}}, cats: testCats[:1], ups: testUplinks[:1], cells: [][]int16{{0}, {0}, {0}}}
		bad.rows[0].says = bad.rows[0].rulings(0)
		for _, g := range []Grade{Core, Ungraded, 99} {
			if r := bad.Rule(0, 0, g, &Message{}, morning, true); r.Op.Action != Block || r.Reason != ReasonCore {
				t.Errorf("%s: %s for %s", g, r.Op.Action, r.Reason)
			}
		}
	})
	t.Run("no row, though lint was not asked", func(t *testing.T) {
		empty := &Policy{cats: testCats[:1], ups: testUplinks[:1], cells: make([][]int16, 3)}
		if r := empty.Rule(0, 0, General, &Message{}, morning, true); r.Op.Action != Block || r.Reason != ReasonNoRow || r.Row != -1 {
			t.Errorf("%+v", r)
		}
	})
}

func TestLintOfThePolicy(t *testing.T) {
	important := MatchConfig{Grade: []string{"important"}}
	core, end := usualRows[0], RowConfig{Action: "block"}
	approved := &ApprovalConfig{Ref: "A-1", Until: "2026-12-31"}
	ups := []UplinkInfo{testUplinks[0], {Name: "raw"}}
	for _, c := range []struct {
		name    string
		rows    []RowConfig
		isError bool
		row     int
		message string
	}{
		{"a table without an end", []RowConfig{core}, true, -1, `policy is not total: no row decides every T-SPEED of grade general for uplink "tsp"`},
		{"a table that ends for one uplink only", []RowConfig{core, {Match: MatchConfig{Uplink: []string{"tsp"}}, Action: "block"}}, true, -1, `for uplink "raw"`},
		{"a table that ends for one topic only", []RowConfig{core, {Match: MatchConfig{Topic: []string{"#"}}, Action: "block"}}, true, -1, "policy is not total"},
		{"an empty table", nil, true, -1, "policy is not total"},
		{"a shadowed row", []RowConfig{core, end, {Action: "pass"}}, false, 2, "row never applies"},
		{"a row that nothing can match", []RowConfig{core, {Match: MatchConfig{Uplink: []string{"moon"}}, Action: "pass"}, end}, false, 1, "row never applies"},
		{"core data let out", []RowConfig{{Action: "pass"}}, true, 0, "core or ungraded data"},
		{"important data without an approval", []RowConfig{core, {Action: "pass"}}, true, 1, "without an approval"},
		{"important data to an uplink that says nothing", []RowConfig{core, {Match: important, Action: "encrypt", To: "dso", Approval: approved}, end}, true, 1, `uplink "raw", which does not say`},
		{"an expired approval", []RowConfig{core, {Match: MatchConfig{Grade: []string{"important"}, Uplink: []string{"tsp"}}, Action: "encrypt", To: "dso", Approval: &ApprovalConfig{Ref: "A-1", Until: "2026-03-01"}}, end}, false, 1, "expired"},
		{"an approval without a reference", []RowConfig{core, {Match: important, Action: "block", Approval: &ApprovalConfig{Until: "2026-12-31"}}, end}, true, 1, "approval.ref is empty"},
		{"an approval without a day", []RowConfig{core, {Match: important, Action: "block", Approval: &ApprovalConfig{Ref: "A-1", Until: "soon"}}, end}, true, 1, "is no date"},
		{"an unknown grade", []RowConfig{core, {Match: MatchConfig{Grade: []string{"high"}}, Action: "block"}, end}, true, 1, `unknown grade "high"`},
		{"ungraded as a grade", []RowConfig{core, {Match: MatchConfig{Grade: []string{"ungraded"}}, Action: "block"}, end}, true, 1, `unknown grade "ungraded"`},
		{"an unknown category", []RowConfig{core, {Match: MatchConfig{Category: []string{"VEH-*"}}, Action: "block"}, end}, true, 1, `matches "VEH-*"`},
		{"? is no wildcard", []RowConfig{core, {Match: MatchConfig{Category: []string{"T-SPEE?"}}, Action: "block"}, end}, true, 1, `matches "T-SPEE?"`},
		{"an unknown class", []RowConfig{core, {Match: MatchConfig{Class: []string{"x"}}, Action: "block"}, end}, true, 1, `class "x"`},
		{"no topic filter", []RowConfig{core, {Match: MatchConfig{Topic: []string{"a/#/b"}}, Action: "block"}, end}, true, 1, "no topic filter"},
		{"an unknown action", []RowConfig{core, {Action: "drop"}, end}, true, 1, `action "drop"`},
		{"undecided as an action", []RowConfig{core, {Action: "undecided"}, end}, true, 1, `action "undecided"`},
		{"decimals of a mask", []RowConfig{core, {Match: important, Action: "mask", Decimals: digits(2)}, end}, true, 1, "decimals belongs to generalize"},
		{"too many decimals", []RowConfig{core, {Match: important, Action: "generalize", Decimals: digits(10)}, end}, true, 1, "not between 0 and 9"},
		{"a negative prefix", []RowConfig{core, {Match: important, Action: "generalize", Prefix: digits(-1)}, end}, true, 1, "prefix: -1"},
		{"a bucket under a second", []RowConfig{core, {Match: important, Action: "generalize", Bucket: time.Millisecond}, end}, true, 1, "shorter than 1s"},
		{"generalize how", []RowConfig{core, {Match: important, Action: "generalize"}, end}, true, 1, "needs decimals, prefix or bucket"},
		{"tokenize where", []RowConfig{core, {Match: important, Action: "tokenize"}, end}, true, 1, "needs a domain"},
		{"encrypt for whom", []RowConfig{core, {Match: important, Action: "encrypt"}, end}, true, 1, "needs a recipient"},
		{"a long mask character", []RowConfig{core, {Match: important, Action: "mask", Char: "ab"}, end}, true, 1, "one printable character"},
		{"a mask character that JSON escapes", []RowConfig{core, {Match: important, Action: "mask", Char: `"`}, end}, true, 1, "one printable character"},
		{"a mask that keeps too much", []RowConfig{core, {Match: important, Action: "mask", Head: 256}, end}, true, 1, "between 0 and 255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, problems := CompilePolicy(c.rows, testCats, ups, morning)
			i := slices.IndexFunc(problems, func(pr PolicyProblem) bool {
				return pr.Row == c.row && pr.Error == c.isError && strings.Contains(pr.Message, c.message)
			})
			if i < 0 {
				t.Fatalf("problems %+v", problems)
			}
			if (p == nil) != slices.ContainsFunc(problems, func(pr PolicyProblem) bool { return pr.Error }) {
				t.Errorf("policy %v with problems %+v", p, problems)
			}
		})
	}
}

// A policy that compiles decides every finding of every grade for every uplink, and lets out no core data, and no
// important data without approval and recipient.
func TestAPolicyThatCompilesIsTotal(t *testing.T) {
	p := compiled(t, usualRows)
	for u := range testUplinks {
		for c := range testCats {
			for _, g := range []Grade{Ungraded, General, Important, Core} {
				for _, trusted := range []bool{false, true} {
					r := p.Rule(u, uint16(c), g, &Message{Source: "any", Topic: "any"}, morning, trusted)
					if r.Row < 0 || r.Op.Action == Undecided {
						t.Errorf("no row for %s %s on uplink %d", testCats[c].ID, g, u)
					}
					if g.Rank() > Important.Rank() && r.Op.Action.LetsOut() || g == Important && r.Op.Action.LetsOut() && (!trusted || u != 0) {
						t.Errorf("%s %s leaves to uplink %d by %s", testCats[c].ID, g, u, r.Op.Action)
					}
				}
			}
		}
	}
	if to := p.Encrypts(0); fmt.Sprint(to) != "[dso]" {
		t.Errorf("uplink 0 encrypts to %v", to)
	}
	if to := p.Encrypts(1); len(to) != 0 {
		t.Errorf("uplink 1 encrypts to %v", to)
	}
	if p.alike(0, 1) || !p.alike(0, 0) {
		t.Error("uplinks with other rows are alike, or one is not like itself")
	}
}
