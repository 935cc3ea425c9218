//go:build ignore

/* process-recipe: set-points, recipes and programs of machines are important data.
 *
 * Configuration, JSON, all of it optional:
 *   {"keys": ["pattern", …], "topics": ["filter", …], "grade": "important|core"}
 *
 * What the catalog calls a recipe, a set-point or a program is regraded to "grade". So is any other finding whose field
 * name fits one of the names below or a pattern of "keys"; when its category is none of the industrial catalog's, the whole
 * message is. A message whose topic or node id has a level that fits, or whose topic matches a filter of "topics", is graded as
 * a whole; also one in which a field that names something (name, tag, metric, node_id …) has such a name for its value, when the
 * value was granted: which of the fields beside it holds the figure cannot be told.
 *
 * Names are compared as the catalog does: in lower case, with camel case, ".", "-", "/" and space as "_", whole; only * widens.
 */
#include "../guest/c/sluice.h"
#include "../guest/c/json.h"

enum { RECIPE = 1, SETPOINT = 2, PROGRAM = 3 }; /* labels of the manifest; then all others of the catalog */
enum { REASON_NAME = 1, REASON_TOPIC = 2, REASON_VALUE = 3, REASON_UNCHECKED = 4 };
enum { MAX_KEYS = 64, MAX_TOPICS = 32, NAME_BYTES = 128, FILTER_BYTES = 256 };
enum { MAX_WORK = 250000 }; /* characters compared for one message; names beyond it count as fitting */

/* Names of fields. Those before the first empty one also count as levels of topics and as values. */
static const char *const names[] = {"*recipe*", "formula", "formula_*", "*_formula", "*setpoint*", "*set_point*", "sollwert*", "*_sollwert", "rezept*", "*_rezept",
	"\xe9\x85\x8d\xe6\x96\xb9*" /* recipe */, "\xe8\xae\xbe\xe5\xae\x9a*" /* set */, "",
	"sp", "sp_*", "*_sp", "set_value", "*_set_value", "setvalue", "target_*", "*_target", "override_*", "*_override"};
enum { NAMES = sizeof names / sizeof *names };

/* Fields whose value names something. */
static const char *const naming[] = {"name", "*_name", "tag", "tags", "metric", "node", "node_id", "item", "item_id", "signal", "variable", "path", "browse_path", "parameter", "point", "id"};
enum { NAMING = sizeof naming / sizeof *naming };

static char keys[MAX_KEYS][NAME_BYTES], filters[MAX_TOPICS][FILTER_BYTES];
static uint32_t keys_n, filters_n, work;
static uint8_t configured, grade;

/* ---- names ---- */

static int lower(uint8_t c) { return c >= 'a' && c <= 'z'; }
static int upper(uint8_t c) { return c >= 'A' && c <= 'Z'; }
static int numeral(uint8_t c) { return c >= '0' && c <= '9'; }

/* Writes the name in n bytes at p as it is compared; 0 when it is too long for that. */
static int normal(const uint8_t *p, uint32_t n, char out[NAME_BYTES]) {
	uint32_t len = 0;
	uint8_t last = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint8_t c = p[i];
		if (len + 3 > NAME_BYTES) return 0;
		if (c == '.' || c == '-' || c == '/' || c == ' ') c = '_';
		if (upper(c) && (lower(last) || numeral(last) || (upper(last) && i + 1 < n && lower(p[i + 1])))) out[len++] = '_';
		out[len++] = (char)(upper(c) ? c + 32 : c);
		last = c;
	}
	out[len] = 0;
	return 1;
}

/* Whether the name fits the pattern, in which * stands for any characters. */
static int fits(const char *pattern, const char *name) {
	const char *star = 0, *from = 0;
	while (*name) {
		work++;
		if (*pattern == '*') {
			star = pattern++;
			from = name;
		} else if (*pattern == *name) {
			pattern++;
			name++;
		} else if (star) {
			pattern = star + 1;
			name = ++from;
		} else return 0;
	}
	while (*pattern == '*') pattern++;
	return *pattern == 0;
}

enum { FIELD, LEVEL };

/* Whether the name of a field, or of a level, is one that this plugin looks for. A name too long to compare is. */
static int sought(const uint8_t *p, uint32_t n, int kind) {
	char name[NAME_BYTES];
	if (n == 0) return 0;
	if (work > MAX_WORK || !normal(p, n, name)) return 1;
	for (uint32_t i = 0; i < NAMES; i++) {
		if (!*names[i]) {
			if (kind == LEVEL) break;
			continue;
		}
		if (fits(names[i], name)) return 1;
	}
	for (uint32_t i = 0; i < keys_n; i++)
		if (work > MAX_WORK || fits(keys[i], name)) return 1;
	return 0;
}

/* Whether a level of a path is one: split at / . ; = : | and blanks, as topics, node ids and tags are. */
static int sought_in(const uint8_t *p, uint32_t n) {
	for (uint32_t start = 0, i = 0; i <= n; i++) {
		uint8_t c = i < n ? p[i] : '/';
		if (c != '/' && c != '.' && c != ';' && c != '=' && c != ':' && c != '|' && c != ' ' && c != ',') continue;
		if (sought(p + start, i - start, LEVEL)) return 1;
		start = i + 1;
		work++;
	}
	return 0;
}

/* Whether the topic matches the filter: + is one level, # the rest. */
static int matches(const char *f, const uint8_t *p, uint32_t n) {
	for (uint32_t i = 0;;) {
		if (f[0] == '#') return 1;
		if (f[0] == '+') {
			f++;
			while (i < n && p[i] != '/') i++;
		} else
			while (*f && *f != '/') {
				if (i == n || p[i] != (uint8_t)*f) return 0;
				i++, f++;
			}
		if (i == n) return !*f || (f[0] == '/' && f[1] == '#');
		if (p[i] != '/' || *f != '/') return 0;
		i++, f++;
	}
}

/* ---- filter ---- */

static int names_something(const sluice_finding *f) {
	char name[NAME_BYTES];
	if (f->kind != SLUICE_STRING || !f->value || f->key_len == 0 || !normal(f->key, f->key_len, name)) return 0;
	for (uint32_t i = 0; i < NAMING; i++)
		if (fits(naming[i], name)) return 1;
	return 0;
}

static void filter(const sluice_request *r, sluice_verdict *v) {
	uint16_t reason = 0;
	if (!configured) {
		sluice_fail(v);
		return;
	}
	work = 0;
	int whole = sought_in(r->topic, r->topic_len);
	for (uint32_t i = 0; i < filters_n && !whole; i++) whole = matches(filters[i], r->topic, r->topic_len);
	if (whole) reason = REASON_TOPIC;
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_finding_at(r, i, &f);
		if ((f.label >= RECIPE && f.label <= PROGRAM) || sought(f.key, f.key_len, FIELD)) {
			if (f.label != 0) sluice_regrade(v, sluice_target(i), grade);
			else whole = 1;
			if (!reason) reason = REASON_NAME;
		} else if (names_something(&f) && sought_in(f.value, f.value_len)) {
			whole = 1;
			if (!reason) reason = REASON_VALUE;
		}
	}
	if (whole) sluice_grade(v, grade);
	for (uint32_t i = 0; i < r->labels_n; i++) {
		uint16_t l = sluice_label_at(r, i);
		if (l < RECIPE || l > PROGRAM) continue;
		sluice_grade(v, grade);
		if (!reason) reason = REASON_NAME;
	}
	if (work > MAX_WORK) reason = REASON_UNCHECKED;
	sluice_reason(v, reason);
}

SLUICE_FILTER(filter)

/* ---- configuration ---- */

SMALL static void read_keys(json_reader *r) {
	char text[NAME_BYTES / 2];
	json_expect(r, '[');
	do {
		json_string(r, text, sizeof text);
		uint32_t n = 0;
		while (text[n]) n++;
		if (n == 0) json_fail(r, "pattern is empty, has escapes, or is longer than 63 bytes");
		else if (keys_n == MAX_KEYS) json_fail(r, "more than 64 keys");
		else if (n == 1 && text[0] == '*') json_fail(r, "pattern * fits everything: use topics");
		else normal((const uint8_t *)text, n, keys[keys_n++]);
	} while (json_more(r, ']'));
}

SMALL static void read_topics(json_reader *r) {
	char text[FILTER_BYTES];
	json_expect(r, '[');
	do {
		json_string(r, text, sizeof text);
		uint32_t n = 0;
		while (text[n]) n++;
		if (n == 0) json_fail(r, "topic filter is empty, has escapes, or is longer than 255 bytes");
		else if (filters_n == MAX_TOPICS) json_fail(r, "more than 32 topics");
		for (uint32_t i = 0; i < n; i++) {
			uint8_t alone = (i == 0 || text[i - 1] == '/') && (i + 1 == n || (text[i] == '+' && text[i + 1] == '/'));
			if ((text[i] == '+' || text[i] == '#') && !alone) json_fail(r, "+ stands for one whole level, # for the rest at the end");
		}
		if (!r->error) __builtin_memcpy(filters[filters_n++], text, FILTER_BYTES);
	} while (json_more(r, ']'));
}

SMALL static void read_config(json_reader *r) {
	static const char *const members[] = {"keys", "topics", "grade"};
	uint32_t seen = 0;
	char text[16];
	json_expect(r, '{');
	if (json_peek(r) == '}') r->p++;
	else do switch (json_key(r, members, 3, &seen)) {
		case 1: read_keys(r); break;
		case 2: read_topics(r); break;
		case 4:
			json_string(r, text, sizeof text);
			if (json_is(text, "core")) grade = SLUICE_CORE;
			else if (!json_is(text, "important")) json_fail(r, "grade is neither important nor core");
			break;
		}
	while (json_more(r, '}'));
	json_end(r);
}

SMALL static int32_t configure(const uint8_t *json, uint32_t len) {
	json_reader r = {json, json + len, 0};
	keys_n = filters_n = 0;
	configured = 0;
	grade = SLUICE_IMPORTANT;
	read_config(&r);
	if (r.error) return sluice_refuse(r.error);
	configured = 1;
	return 0;
}

SLUICE_CONFIGURE(configure)
