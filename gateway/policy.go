package gateway

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// RowConfig is one row of the policy: an ordered decision table, first match wins, per finding and uplink.
type RowConfig struct {
	Match    MatchConfig     `yaml:"match" doc:"what the row is about; {} matches everything" required:"true"`
	Action   string          `yaml:"action" doc:"what happens" enum:"pass,generalize,mask,tokenize,encrypt,remove,hold,block" required:"true"`
	Decimals *int            `yaml:"decimals" doc:"generalize a number: digits kept behind the point, 0 to 9"`
	Prefix   *int            `yaml:"prefix" doc:"generalize text: characters kept in front"`
	Bucket   time.Duration   `yaml:"bucket" doc:"generalize a time: rounded down to a multiple of this"`
	Head     int             `yaml:"head" doc:"mask: characters kept in front"`
	Tail     int             `yaml:"tail" doc:"mask: characters kept behind"`
	Char     string          `yaml:"char" doc:"mask: the character written instead, * when absent"`
	Domain   string          `yaml:"domain" doc:"tokenize: token domain"`
	To       string          `yaml:"to" doc:"encrypt: recipient of keys.recipients"`
	Approval *ApprovalConfig `yaml:"approval" doc:"who allowed important data to leave, and until when"`
	Priority int             `yaml:"priority" doc:"what waits is sent by priority, 3 first; a message has the highest of its findings' rows" min:"0" max:"3" default:"0"`
}

// MatchConfig is the left side of a row. All that is given must hold; a list is a choice.
type MatchConfig struct {
	Grade        []string `yaml:"grade" doc:"grade of the finding after merging: general, important, core" scalar:"true"`
	Category     []string `yaml:"category" doc:"category, * widens" scalar:"true"`
	Class        []string `yaml:"class" doc:"class of the category" scalar:"true"`
	Personal     *bool    `yaml:"personal" doc:"personal information"`
	Sensitive    *bool    `yaml:"sensitive" doc:"sensitive personal information"`
	Jurisdiction []string `yaml:"jurisdiction" doc:"of the uplink's recipient; !CN = any but CN" scalar:"true"`
	Recipient    []string `yaml:"recipient" doc:"the uplink's recipient" scalar:"true"`
	Uplink       []string `yaml:"uplink" doc:"name of the uplink" scalar:"true"`
	Source       []string `yaml:"source" doc:"name of the source" scalar:"true"`
	Topic        []string `yaml:"topic" doc:"topic filter of the message as received" scalar:"true"`
}

// ApprovalConfig names the approval under which important data leave.
type ApprovalConfig struct {
	Ref   string `yaml:"ref" doc:"reference of the approval" required:"true"`
	Until string `yaml:"until" doc:"last day on which it holds, 2027-03-31" required:"true"`
}

// UplinkInfo is what deciding needs to know of an uplink.
type UplinkInfo struct {
	Name         string
	Number       int // the journal's number
	Recipient    string
	Jurisdiction string // ISO 3166 alpha-2
	Purpose      string
	LegalBasis   string
	Identity     *Identity // how the id leaves with a message; nil: it does not
}

// Declared reports whether the uplink names everything that important data need: who, where, for what, on what ground.
func (u *UplinkInfo) Declared() bool {
	return u.Recipient != "" && u.Jurisdiction != "" && u.Purpose != "" && u.LegalBasis != ""
}

// row is a compiled row.
type row struct {
	op            Operation
	approved      bool      // has an approval
	until         time.Time // end of the approval's last day, UTC
	sources       []string
	topics        []string
	unconditional bool // neither source nor topic restricts it
	priority      byte
	says          rulings
}

// Policy is the compiled table. It is immutable and safe for concurrent use.
type Policy struct {
	rows  []row
	cats  []Category
	ups   []UplinkInfo
	cells [][]int16 // [(uplink*len(cats)+category)*3 + rank-1]: rows that can match, in order, up to the first unconditional one
}

// Finding of a policy check, for lint. Row is the row's index, or -1 when it is about the table or an uplink.
type PolicyProblem struct {
	Row     int
	Uplink  string
	Error   bool // else advice
	Message string
	Hint    string
}

// CompilePolicy compiles rows for the categories and uplinks in force and reports every problem: rows that cannot be
// read, a table that is not total, rows that never match, important data without approval or declared recipient.
// The policy is nil when a problem is an error.
func CompilePolicy(rows []RowConfig, cats []Category, ups []UplinkInfo, now time.Time) (*Policy, []PolicyProblem) {
	p := &Policy{cats: cats, ups: ups}
	var problems []PolicyProblem
	report := func(i int, isError bool, message, hint string) {
		problems = append(problems, PolicyProblem{Row: i, Error: isError, Message: message, Hint: hint})
	}
	for i := range rows {
		r, errs := compileRow(&rows[i], cats)
		for _, e := range errs {
			report(i, true, e.Message, e.Hint)
		}
		if r.approved && !now.Before(r.until) {
			report(i, false, "approval "+quote(rows[i].Approval.Ref)+" expired: what the row would let out is blocked", "renew the approval and set until, or write action: block")
		}
		r.says = r.rulings(i)
		p.rows = append(p.rows, r)
	}
	used := make([]bool, len(rows))
	problems = append(problems, p.fill(rows, used)...)
	for i := range rows {
		if !used[i] && !hasRow(problems, i) {
			report(i, false, "row never applies: earlier rows match everything it could, or nothing can match it", "move it up, or delete it")
		}
	}
	slices.SortStableFunc(problems, func(a, b PolicyProblem) int { return a.Row - b.Row })
	for _, pr := range problems {
		if pr.Error {
			return nil, problems
		}
	}
	return p, problems
}

func hasRow(problems []PolicyProblem, i int) bool {
	return slices.ContainsFunc(problems, func(p PolicyProblem) bool { return p.Row == i && p.Error })
}

func quote(s string) string { return fmt.Sprintf("%q", s) }

// RowProblem is what is wrong with one row or one operation of the configuration.
type RowProblem struct{ Message, Hint string }

// compileRow turns one row into its operation and conditions.
func compileRow(c *RowConfig, cats []Category) (row, []RowProblem) {
	var errs []RowProblem
	bad := func(hint, format string, args ...any) {
		errs = append(errs, RowProblem{fmt.Sprintf(format, args...), hint})
	}
	r := row{priority: byte(c.Priority), sources: c.Match.Source, topics: c.Match.Topic, unconditional: len(c.Match.Source) == 0 && len(c.Match.Topic) == 0}
	op, opErrs := c.Operation()
	r.op, errs = op, append(errs, opErrs...)
	for _, g := range c.Match.Grade {
		if _, err := ParseGrade(g); err != nil {
			bad("write grade: important, or grade: [general, important]", "match.grade: unknown grade %q", g)
		}
	}
	for _, pattern := range c.Match.Category {
		if !slices.ContainsFunc(cats, func(k Category) bool { return glob(pattern, k.ID) }) {
			bad("run sluice catalog to see the categories; * widens: VEH-LOC-*", "match.category: no category in force matches %q", pattern)
		}
	}
	for _, class := range c.Match.Class {
		if !slices.ContainsFunc(cats, func(k Category) bool { return k.Class == class }) {
			bad("", "match.class: no category in force has class %q", class)
		}
	}
	for _, f := range c.Match.Topic {
		if !ValidTopicFilter(f) {
			bad("a + stands for one whole level, # for the rest at the end", "match.topic: %q is no topic filter", f)
		}
	}
	if c.Approval != nil {
		day, err := time.Parse(time.DateOnly, c.Approval.Until)
		if err != nil {
			bad("write the last day: until: 2027-03-31", "approval.until: %q is no date", c.Approval.Until)
		}
		if c.Approval.Ref == "" {
			bad("name the document: ref: DS-2026-014", "approval.ref is empty")
		}
		r.approved, r.until = err == nil && c.Approval.Ref != "", day.AddDate(0, 0, 1)
	}
	return r, errs
}

// Operation resolves the row's action and parameters; a parameter of another action is an error.
func (c *RowConfig) Operation() (Operation, []RowProblem) {
	var errs []RowProblem
	bad := func(hint, format string, args ...any) {
		errs = append(errs, RowProblem{fmt.Sprintf(format, args...), hint})
	}
	a, err := ParseAction(c.Action)
	if err != nil {
		return Operation{}, []RowProblem{{err.Error(), "action: remove"}}
	}
	op := plain(a)
	given := map[string]Action{}
	if c.Decimals != nil {
		given["decimals"] = Generalize
		if *c.Decimals < 0 || *c.Decimals > 9 {
			bad("decimals: 2 is about 1.1 km of latitude", "decimals: %d is not between 0 and 9", *c.Decimals)
		} else {
			op.Decimals = int8(*c.Decimals)
		}
	}
	if c.Prefix != nil {
		given["prefix"] = Generalize
		if *c.Prefix < 0 || *c.Prefix > 1024 {
			bad("", "prefix: %d is not between 0 and 1024", *c.Prefix)
		} else {
			op.Prefix = int16(*c.Prefix)
		}
	}
	if c.Bucket != 0 {
		given["bucket"] = Generalize
		if c.Bucket < time.Second {
			bad("bucket: 1h", "bucket: %v is shorter than 1s", c.Bucket)
		}
		op.Bucket = c.Bucket
	}
	if c.Head != 0 || c.Tail != 0 || c.Char != "" {
		given["head, tail and char"] = Mask
		if c.Head < 0 || c.Head > 255 || c.Tail < 0 || c.Tail > 255 {
			bad("", "head and tail are between 0 and 255")
		}
		op.Head, op.Tail = uint8(c.Head), uint8(c.Tail)
		if runes := []rune(c.Char); len(runes) > 1 || (len(runes) == 1 && (runes[0] < ' ' || runes[0] == '"' || runes[0] == '\\')) {
			bad(`char: "*"`, "char: want one printable character")
		} else if len(runes) == 1 {
			op.Char = runes[0]
		}
	}
	if c.Domain != "" {
		given["domain"], op.Domain = Tokenize, c.Domain
	}
	if c.To != "" {
		given["to"], op.To = Encrypt, c.To
	}
	for name, of := range given {
		if of != a && !(a == Encrypt && of == Tokenize) {
			bad("", "%s belongs to %s, not to %s", name, of, a)
		}
	}
	switch {
	case a == Generalize && c.Decimals == nil && c.Prefix == nil && c.Bucket == 0:
		bad("decimals: 2, prefix: 6 or bucket: 1h", "generalize needs decimals, prefix or bucket")
	case a == Tokenize && c.Domain == "":
		bad("domain: NAME, with NAME under token_domains", "tokenize needs a domain")
	case a == Encrypt && c.To == "":
		bad("to: NAME, with NAME under keys.recipients", "encrypt needs a recipient")
	case a == Encrypt && c.Domain != "":
		op.Inner = Tokenize
	}
	return op, errs
}

// fill computes the cells and marks the rows that some cell uses.
func (p *Policy) fill(rows []RowConfig, used []bool) []PolicyProblem {
	var problems []PolicyProblem
	seen := map[string]bool{}
	once := func(pr PolicyProblem) {
		key := fmt.Sprint(pr.Row, pr.Uplink, pr.Message)
		if !seen[key] {
			seen[key] = true
			problems = append(problems, pr)
		}
	}
	p.cells = make([][]int16, len(p.ups)*len(p.cats)*3)
	for u := range p.ups {
		for c := range p.cats {
			for rank := 1; rank <= 3; rank++ {
				var list []int16
				total := false
				for i := range rows {
					if !matches(&rows[i].Match, &p.cats[c], rank, &p.ups[u]) {
						continue
					}
					list, used[i] = append(list, int16(i)), true
					if rank >= p.cats[c].Grade.Rank() { // a finding's grade is never below its category's
						p.judge(i, rank, u, once)
					}
					if p.rows[i].unconditional {
						total = true
						break
					}
				}
				p.cells[(u*len(p.cats)+c)*3+rank-1] = list
				if !total {
					once(PolicyProblem{Row: -1, Error: true, Uplink: p.ups[u].Name,
						Message: fmt.Sprintf("policy is not total: no row decides every %s of grade %s for uplink %q", p.cats[c].ID, Grade(rank), p.ups[u].Name),
						Hint:    "end the policy with { match: {}, action: block }, or a row that you mean"})
				}
			}
		}
	}
	return limitTotality(problems)
}

// limitTotality keeps the first of the problems of a table that is not total: one missing row makes hundreds.
func limitTotality(problems []PolicyProblem) []PolicyProblem {
	var kept []PolicyProblem
	perUplink := map[string]bool{}
	for _, pr := range problems {
		if pr.Row >= 0 {
			kept = append(kept, pr)
		} else if !perUplink[pr.Uplink] {
			perUplink[pr.Uplink] = true
			kept = append(kept, pr)
		}
	}
	return kept
}

// judge reports a row that would let important or core data out without what they need.
func (p *Policy) judge(i, rank, u int, report func(PolicyProblem)) {
	r := &p.rows[i]
	if !r.op.Action.LetsOut() || rank < Important.Rank() {
		return
	}
	switch {
	case rank == Core.Rank():
		report(PolicyProblem{Row: i, Error: true, Message: "row would let core or ungraded data out; they leave by no rule and would be blocked",
			Hint: "put { match: { grade: core }, action: block } before it"})
	case !r.approved:
		report(PolicyProblem{Row: i, Error: true, Message: "row lets important data out without an approval; they would be blocked",
			Hint: "add approval: { ref: …, until: 2027-03-31 }, or put { match: { grade: important }, action: block } before it"})
	case !p.ups[u].Declared():
		report(PolicyProblem{Row: i, Error: true, Uplink: p.ups[u].Name,
			Message: fmt.Sprintf("row lets important data out to uplink %q, which does not say who receives them, where, for what and on what legal basis", p.ups[u].Name),
			Hint:    "give the uplink recipient, jurisdiction, purpose and legal_basis"})
	}
}

// matches reports whether the row's conditions on finding and uplink hold; source and topic are looked at per message.
func matches(m *MatchConfig, c *Category, rank int, u *UplinkInfo) bool {
	oneOf := func(list []string, ok func(string) bool) bool { return len(list) == 0 || slices.ContainsFunc(list, ok) }
	return oneOf(m.Grade, func(s string) bool { g, err := ParseGrade(s); return err == nil && g.Rank() == rank }) &&
		oneOf(m.Category, func(s string) bool { return glob(s, c.ID) }) &&
		oneOf(m.Class, func(s string) bool { return s == c.Class }) &&
		(m.Personal == nil || *m.Personal == c.Personal) &&
		(m.Sensitive == nil || *m.Sensitive == c.Sensitive) &&
		oneOf(m.Jurisdiction, func(s string) bool {
			if not, negated := strings.CutPrefix(s, "!"); negated {
				return u.Jurisdiction != not
			}
			return u.Jurisdiction == s
		}) &&
		oneOf(m.Recipient, func(s string) bool { return s == u.Recipient }) &&
		oneOf(m.Uplink, func(s string) bool { return s == u.Name })
}

// glob matches with * as the only wildcard.
func glob(pattern, s string) bool {
	if !strings.ContainsAny(pattern, `?[\`) {
		ok, err := path.Match(pattern, s)
		return err == nil && ok
	}
	return pattern == s
}

// Ruling is what one row says about one finding for one uplink.
type Ruling struct {
	Row      int // -1: none matched
	Op       Operation
	Reason   Reason
	Priority byte // of a message with this finding
}

// Rule finds the first row for a finding of the given category and merged grade, and checks what that row needs:
// core data leave by no rule, important data only under an approval that holds and to a declared recipient.
// uplink is an index into the uplinks given to CompilePolicy.
// The ruling is shared: it must not be changed.
func (p *Policy) Rule(uplink int, category uint16, g Grade, m *Message, now time.Time, trusted bool) *Ruling {
	rank := g.Rank()
	for _, i := range p.cells[(uplink*len(p.cats)+int(category))*3+rank-1] {
		r := &p.rows[i]
		if !r.unconditional && !r.applies(m) {
			continue
		}
		if rank >= Important.Rank() && r.op.Action.LetsOut() {
			switch {
			case rank >= Core.Rank():
				return p.ruling(i, ReasonCore)
			case !r.approved || !trusted || !now.Before(r.until):
				return p.ruling(i, ReasonApproval)
			case !p.ups[uplink].Declared():
				return p.ruling(i, ReasonRecipient)
			}
		}
		return p.ruling(i, ReasonPolicy)
	}
	return &noRow
}

var noRow = Ruling{Row: -1, Op: plain(Block), Reason: ReasonNoRow}

// rulings are what one row can say, made once.
type rulings struct{ policy, core, approval, recipient Ruling }

func (r *row) rulings(i int) rulings {
	block := func(why Reason) Ruling { return Ruling{Row: i, Op: plain(Block), Reason: why} }
	return rulings{Ruling{Row: i, Op: r.op, Reason: ReasonPolicy, Priority: r.priority}, block(ReasonCore), block(ReasonApproval), block(ReasonRecipient)}
}

// ruling returns what row i says: its operation, or for any other reason than policy, block.
func (p *Policy) ruling(i int16, why Reason) *Ruling {
	says := &p.rows[i].says
	switch why {
	case ReasonPolicy:
		return &says.policy
	case ReasonCore:
		return &says.core
	case ReasonApproval:
		return &says.approval
	}
	return &says.recipient
}

func (r *row) applies(m *Message) bool {
	return (len(r.sources) == 0 || slices.Contains(r.sources, m.Source)) &&
		(len(r.topics) == 0 || slices.ContainsFunc(r.topics, func(f string) bool { return TopicMatches(f, m.Topic) }))
}

// Encrypts lists, per uplink index, the recipients that some row encrypts to: where sealed epoch keys must go.
func (p *Policy) Encrypts(uplink int) []string {
	var to []string
	for c := range p.cats {
		for rank := 1; rank <= 3; rank++ {
			for _, i := range p.cells[(uplink*len(p.cats)+c)*3+rank-1] {
				if op := p.rows[i].op; op.Action == Encrypt && !slices.Contains(to, op.To) {
					to = append(to, op.To)
				}
			}
		}
	}
	return to
}

// alike reports whether two uplinks are ruled by the same rows with the same outcome for every finding.
func (p *Policy) alike(u, v int) bool {
	n := len(p.cats) * 3
	return p.ups[u].Declared() == p.ups[v].Declared() &&
		slices.EqualFunc(p.cells[u*n:(u+1)*n], p.cells[v*n:(v+1)*n], slices.Equal[[]int16])
}
