package gateway

import "fmt"

// Grade says how much harm a datum can do when it leaves (数据分级).
// The zero value is a datum that nobody graded; it is treated as core.
type Grade uint8

// The grades, by rising strictness. Ungraded is not the lowest: see Rank.
const (
	Ungraded  Grade = iota // nobody graded it: treated as core
	General                // 一般数据
	Important              // 重要数据
	Core                   // 核心数据
)

// gradeNames holds the one written form of every grade.
var gradeNames = [...]string{"ungraded", "general", "important", "core"}

// String returns the grade's written form.
func (g Grade) String() string {
	if int(g) < len(gradeNames) {
		return gradeNames[g]
	}
	return fmt.Sprintf("grade(%d)", uint8(g))
}

// ParseGrade reads the written form of a grade; "ungraded" cannot be written into a catalog or policy and is refused.
func ParseGrade(s string) (Grade, error) {
	for g := General; g <= Core; g++ {
		if gradeNames[g] == s {
			return g, nil
		}
	}
	return Ungraded, fmt.Errorf("grade %q: want general, important or core", s)
}

// Rank orders grades by strictness: general 1, important 2, core and ungraded 3.
// Grades are compared by rank, never with <.
func (g Grade) Rank() int {
	if g == General || g == Important {
		return int(g)
	}
	return int(Core)
}

// Highest returns the stricter of two grades. Between core and ungraded it returns ungraded, which says more: that nobody looked.
func Highest(a, b Grade) Grade {
	if a == b {
		return a
	}
	if a.Rank() == b.Rank() && (a == Ungraded || b == Ungraded) {
		return Ungraded
	}
	if a.Rank() >= b.Rank() {
		return a
	}
	return b
}
