//go:build ignore

/* geofence: a position inside a configured area is important data.
 *
 * Configuration, JSON:
 *   {"areas": [{"name": "…", "datum": "wgs84|gcj02|bd09", "points": [[lat, lon], …]},
 *              {"name": "…", "datum": "…", "center": [lat, lon], "radius_m": 500}],
 *    "label": false, "unreadable": "policy|important"}
 *
 * For each position whose value was granted: inside any area, or on its border, both findings of the position are
 * regraded to important. A location finding without a readable position (an altitude, a geohash) goes with the others of
 * its message: it is regraded when any of them is inside; when the message has no readable position at all, "unreadable"
 * decides: leave it to the policy, or important. "label": true also puts VEH-LOC-SENSITIVEAREA on the whole message.
 *
 * Edges of polygons are straight lines in latitude and longitude; a polygon may not be wider than 180 degrees. A position
 * and an area are compared as they are only when both state the same datum. Nothing is converted: between different
 * datums, and where one is not stated, the area is enlarged by more than the datums can differ: 800 m between WGS-84 and
 * GCJ-02 and for what is not stated (taken for one of these two), 1,000 m between GCJ-02 and BD-09, 1,700 m otherwise.
 */
#include "../guest/c/sluice.h"

__asm__(".section .custom_section.sluice.manifest,\"\",@\n.incbin \"manifest.json\"\n");

enum { POINT = 1, TRACK = 2, DEST = 3, SENSITIVE_AREA = 4 }; /* labels of the manifest */
enum { REASON_INSIDE = 1, REASON_UNREADABLE = 2 };
enum { MAX_AREAS = 256, MAX_POINTS = 4096 };

typedef struct {
	double min_lat, max_lat, min_lon, max_lon;
	double lat, lon, radius; /* circle */
	uint32_t first, n;       /* polygon: points; a circle has none */
	uint8_t datum;
} area;

static area areas[MAX_AREAS];
static double points[MAX_POINTS][2];
static uint32_t areas_n, points_n;
static uint8_t configured, label_message, unreadable_is_important;

/* ---- geometry ---- */

#define RADIAN 0.017453292519943295

/* cosine of degrees in [-90, 90], to 1e-12 */
static double cosine(double degrees) {
	static const double step[] = {1 / 2., 1 / 12., 1 / 30., 1 / 56., 1 / 90., 1 / 132., 1 / 182., 1 / 240., 1 / 306., 1 / 380.};
	double x = degrees * RADIAN, q = x * x, sum = 1;
	for (int k = 9; k >= 0; k--) sum = 1 - q * step[k] * sum;
	return sum;
}

/* Metres per degree of latitude and longitude at a latitude (WGS-84 ellipsoid, to 0.1 m). */
static void scale(double lat, double *m_lat, double *m_lon) {
	double c = cosine(lat);
	*m_lat = 111132.95 - 559.85 * (2 * c * c - 1);
	*m_lon = (111412.84 + 93.5 * 3) * c - 93.5 * 4 * c * c * c;
	if (*m_lon < 1) *m_lon = 1;
}

static double margin(uint32_t a, uint32_t b) {
	if (a == b && a != SLUICE_UNKNOWN_DATUM) return 0;
	if (a != SLUICE_BD09 && b != SLUICE_BD09) return 800;
	return a == SLUICE_GCJ02 || b == SLUICE_GCJ02 ? 1000 : 1700;
}

static int in_circle(const area *a, double lat, double lon, double add) {
	double m_lat, m_lon, dlon = lon - a->lon, reach = a->radius + add;
	if (dlon > 180) dlon -= 360;
	if (dlon < -180) dlon += 360;
	if ((lat - a->lat) * 110000 > reach || (a->lat - lat) * 110000 > reach) return 0; /* a degree of latitude is never shorter */
	scale((lat + a->lat) / 2, &m_lat, &m_lon);
	double y = (lat - a->lat) * m_lat, x = dlon * m_lon;
	return x * x + y * y <= reach * reach;
}

/* m_lat and m_lon: the scale at lat. */
static int in_polygon(const area *a, double lat, double lon, double m_lat, double m_lon, double add) {
	double reach = add + 0.05; /* the border itself is inside, to 5 cm */
	int inside = 0;
	if (lat < a->min_lat - reach / m_lat || lat > a->max_lat + reach / m_lat || lon < a->min_lon - reach / m_lon || lon > a->max_lon + reach / m_lon) return 0;
	const double(*p)[2] = points + a->first;
	for (uint32_t i = 0, j = a->n - 1; i < a->n; j = i++) {
		double y1 = (p[j][0] - lat) * m_lat, x1 = (p[j][1] - lon) * m_lon, y2 = (p[i][0] - lat) * m_lat, x2 = (p[i][1] - lon) * m_lon;
		double dy = y2 - y1, dx = x2 - x1, square = dx * dx + dy * dy;
		double t = square > 0 ? -(x1 * dx + y1 * dy) / square : 0; /* foot of the perpendicular on the edge */
		if (t < 0) t = 0;
		if (t > 1) t = 1;
		double x = x1 + t * dx, y = y1 + t * dy;
		if (x * x + y * y <= reach * reach) return 1;
		if ((y1 > 0) != (y2 > 0) && x1 - y1 * dx / dy > 0) inside = !inside;
	}
	return inside;
}

static int inside(const sluice_position *p) {
	double m_lat, m_lon;
	scale(p->lat, &m_lat, &m_lon);
	for (uint32_t i = 0; i < areas_n; i++) {
		const area *a = &areas[i];
		double add = margin(a->datum, p->datum);
		if (a->n == 0) {
			if (in_circle(a, p->lat, p->lon, add)) return 1;
			continue;
		}
		double turn = p->lon > 179 ? -360 : p->lon < -179 ? 360 : 0; /* a margin may reach across 180 degrees */
		if (in_polygon(a, p->lat, p->lon, m_lat, m_lon, add) || (turn != 0 && in_polygon(a, p->lat, p->lon + turn, m_lat, m_lon, add))) return 1;
	}
	return 0;
}

/* ---- filter ---- */

enum { ELSEWHERE, UNREADABLE, OUTSIDE, INSIDE };
static uint8_t marks[SLUICE_IN_BYTES / 32];

static void filter(const sluice_request *r, sluice_verdict *v) {
	const uint8_t *last = 0; /* both findings of a position share its value */
	uint8_t last_mark = 0, any_inside = 0, any_readable = 0, any_unreadable = 0;
	if (!configured) {
		sluice_fail(v);
		return;
	}
	for (uint32_t i = 0; i < r->findings_n; i++) {
		sluice_finding f;
		sluice_position pos;
		sluice_finding_at(r, i, &f);
		if (f.label < POINT || f.label > DEST) {
			marks[i] = ELSEWHERE;
			continue;
		}
		if (!f.value || f.value != last) {
			last = f.value;
			last_mark = !sluice_finding_position(&f, &pos) ? UNREADABLE : inside(&pos) ? INSIDE : OUTSIDE;
		}
		marks[i] = last_mark;
		any_inside |= last_mark == INSIDE;
		any_readable |= last_mark >= OUTSIDE;
		any_unreadable |= last_mark == UNREADABLE;
	}
	uint8_t blind = any_unreadable && !any_readable && unreadable_is_important;
	if (!any_inside && !blind) return;
	sluice_reason(v, any_inside ? REASON_INSIDE : REASON_UNREADABLE);
	for (uint32_t i = 0; i < r->findings_n; i++)
		if (marks[i] == INSIDE || marks[i] == UNREADABLE) sluice_regrade(v, sluice_target(i), SLUICE_IMPORTANT);
	if (label_message) sluice_label(v, SENSITIVE_AREA);
}

SLUICE_FILTER(filter)

/* ---- configuration: a strict reader of just this shape ---- */

#define SMALL __attribute__((minsize, noinline)) /* runs once: small beats fast */

typedef struct {
	const uint8_t *p, *end;
	const char *error; /* the first one; texts never quote what was read */
} reader;

SMALL static void fail(reader *r, const char *error) {
	if (!r->error) r->error = error;
	r->p = r->end;
}

SMALL static uint8_t peek(reader *r) {
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n' || *r->p == '\r')) r->p++;
	return r->p < r->end ? *r->p : 0;
}

SMALL static void expect(reader *r, uint8_t c) {
	if (peek(r) == c) r->p++;
	else fail(r, "malformed JSON");
}

/* After an element: whether another one follows; else the closing bracket was read. */
SMALL static int more(reader *r, uint8_t close) {
	uint8_t c = peek(r);
	if (c != ',') {
		expect(r, close);
		return 0;
	}
	r->p++;
	return 1;
}

SMALL static void word(reader *r, const char *want) {
	for (; *want; want++, r->p++)
		if (r->p == r->end || *r->p != *want) {
			fail(r, "want true or false");
			return;
		}
}

SMALL static int digit(reader *r) { return r->p < r->end && *r->p >= '0' && *r->p <= '9'; }

SMALL static double number(reader *r) {
	double value = 0;
	int32_t exponent = 0, e = 0;
	uint32_t digits = 0;
	int negative = 0, e_negative = 0;
	if (peek(r) == '-') {
		negative = 1;
		r->p++;
	}
	if (!digit(r)) fail(r, "want a number");
	const uint8_t *start = r->p;
	uint64_t mantissa = 0;
	for (; digit(r); r->p++)
		if (digits < 18) mantissa = mantissa * 10 + (*r->p - '0'), digits += mantissa != 0;
		else exponent++;
	if (r->p - start > 1 && *start == '0') fail(r, "malformed JSON");
	if (r->p < r->end && *r->p == '.') {
		r->p++;
		if (!digit(r)) fail(r, "malformed JSON");
		for (; digit(r); r->p++)
			if (digits < 18) mantissa = mantissa * 10 + (*r->p - '0'), digits += mantissa != 0, exponent--;
	}
	if (r->p < r->end && (*r->p | 32) == 'e') {
		r->p++;
		if (r->p < r->end && (*r->p == '+' || *r->p == '-')) e_negative = *r->p++ == '-';
		if (!digit(r)) fail(r, "malformed JSON");
		for (; digit(r); r->p++)
			if (e < 1000) e = e * 10 + (*r->p - '0');
	}
	exponent += e_negative ? -e : e;
	value = (double)mantissa;
	double power = 1;
	for (int32_t i = exponent < 0 ? -exponent : exponent; i > 0 && power < 1e300; i--) power *= 10;
	value = exponent < 0 ? value / power : value * power;
	return negative ? -value : value;
}

SMALL static int among(uint8_t c, const char *set) {
	while (*set && (uint8_t)*set != c) set++;
	return *set != 0;
}

/* Reads a string; text gets it when it is shorter than 16 bytes and has no escapes, else it stays empty. */
SMALL static void string(reader *r, char text[16]) {
	uint32_t n = 0;
	int plain = 1;
	expect(r, '"');
	for (; r->p < r->end && *r->p != '"'; r->p++) {
		if (*r->p < ' ') {
			fail(r, "malformed JSON");
			break;
		}
		if (*r->p == '\\') {
			uint32_t hex = 0;
			plain = 0;
			if (++r->p < r->end && *r->p == 'u') hex = 4;
			else if (r->p == r->end || !among(*r->p, "\"\\/bfnrt")) fail(r, "malformed JSON");
			for (; hex && r->p < r->end; hex--)
				if (++r->p == r->end || !among(*r->p, "0123456789abcdefABCDEF")) fail(r, "malformed JSON");
			if (r->p == r->end) break;
		} else if (n < 16) text[n++] = (char)*r->p;
	}
	if (r->p == r->end) {
		fail(r, "malformed JSON");
		n = 0;
	} else r->p++;
	text[plain && n < 16 ? n : 0] = 0;
}

SMALL static int is(const char *a, const char *b) {
	for (; *a && *a == *b; a++, b++) {}
	return *a == *b;
}

/* Which of the names is the next key, as a bit; unknown and repeated keys are errors. */
SMALL static uint32_t key(reader *r, const char *const *names, uint32_t n, uint32_t *seen) {
	char text[16];
	string(r, text);
	expect(r, ':');
	for (uint32_t i = 0; i < n; i++)
		if (is(text, names[i])) {
			if (*seen & 1u << i) fail(r, "key stands twice");
			*seen |= 1u << i;
			return 1u << i;
		}
	fail(r, "unknown key");
	return 0;
}

SMALL static void coordinate(reader *r, double at[2]) {
	expect(r, '[');
	at[0] = number(r);
	expect(r, ',');
	at[1] = number(r);
	expect(r, ']');
	if (!(at[0] >= -90 && at[0] <= 90 && at[1] >= -180 && at[1] <= 180)) fail(r, "coordinate is no [latitude, longitude] in degrees");
}

SMALL static uint8_t datum(reader *r) {
	char text[16];
	string(r, text);
	if (is(text, "wgs84")) return SLUICE_WGS84;
	if (is(text, "gcj02")) return SLUICE_GCJ02;
	if (is(text, "bd09")) return SLUICE_BD09;
	fail(r, "datum is none of wgs84, gcj02, bd09");
	return 0;
}

SMALL static void polygon(reader *r, area *a) {
	a->first = points_n;
	expect(r, '[');
	do {
		if (points_n == MAX_POINTS) {
			fail(r, "more than 4096 points");
			return;
		}
		double *at = points[points_n];
		coordinate(r, at);
		if (a->n == 0 || at[0] < a->min_lat) a->min_lat = at[0];
		if (a->n == 0 || at[0] > a->max_lat) a->max_lat = at[0];
		if (a->n == 0 || at[1] < a->min_lon) a->min_lon = at[1];
		if (a->n == 0 || at[1] > a->max_lon) a->max_lon = at[1];
		a->n++;
		points_n++;
	} while (more(r, ']'));
	if (a->n < 3) fail(r, "polygon has fewer than 3 points");
	else if (a->max_lon - a->min_lon > 180) fail(r, "polygon is wider than 180 degrees: cut it at 180 degrees of longitude");
}

SMALL static void read_area(reader *r) {
	static const char *const names[] = {"name", "datum", "points", "center", "radius_m"};
	enum { NAME = 1, DATUM = 2, POINTS = 4, CENTER = 8, RADIUS = 16 };
	uint32_t seen = 0;
	char text[16];
	double at[2];
	if (areas_n == MAX_AREAS) {
		fail(r, "more than 256 areas");
		return;
	}
	area *a = &areas[areas_n];
	a->n = 0;
	a->datum = SLUICE_UNKNOWN_DATUM;
	expect(r, '{');
	do switch (key(r, names, 5, &seen)) {
		case NAME: string(r, text); break;
		case DATUM: a->datum = datum(r); break;
		case POINTS: polygon(r, a); break;
		case CENTER:
			coordinate(r, at);
			a->lat = at[0];
			a->lon = at[1];
			break;
		case RADIUS:
			a->radius = number(r);
			if (!(a->radius >= 1 && a->radius <= 200000)) fail(r, "radius_m is not between 1 and 200000");
			break;
		}
	while (more(r, '}'));
	seen &= POINTS | CENTER | RADIUS;
	if (seen != POINTS && seen != (CENTER | RADIUS)) fail(r, "area needs either points, or center and radius_m");
	areas_n += !r->error;
}

SMALL static void read_config(reader *r) {
	static const char *const names[] = {"areas", "label", "unreadable"};
	uint32_t seen = 0;
	char text[16];
	expect(r, '{');
	if (peek(r) == '}') r->p++;
	else do switch (key(r, names, 3, &seen)) {
		case 1:
			expect(r, '[');
			do read_area(r);
			while (more(r, ']'));
			break;
		case 2:
			label_message = peek(r) == 't';
			word(r, label_message ? "true" : "false");
			break;
		case 4:
			string(r, text);
			unreadable_is_important = (uint8_t)is(text, "important");
			if (!unreadable_is_important && !is(text, "policy")) fail(r, "unreadable is neither policy nor important");
			break;
		}
	while (more(r, '}'));
	if (peek(r) != 0 || r->p != r->end) fail(r, "malformed JSON");
	if (!areas_n) fail(r, "no areas");
}

SMALL static int32_t configure(const uint8_t *json, uint32_t len) {
	static char text[128];
	reader r = {json, json + len, 0};
	areas_n = points_n = 0;
	label_message = unreadable_is_important = configured = 0;
	read_config(&r);
	if (!r.error) {
		configured = 1;
		return 0;
	}
	uint32_t n = 0;
	for (const char *s = "area "; *s; s++) text[n++] = *s; /* the one that was being read, counted from 1 */
	uint32_t number = areas_n + 1, unit = 100;
	for (; unit > number; unit /= 10) {}
	for (; unit; unit /= 10) text[n++] = (char)('0' + number / unit % 10);
	text[n++] = ':';
	text[n++] = ' ';
	for (const char *s = r.error; *s && n < sizeof text - 1; s++) text[n++] = *s;
	text[n] = 0;
	return sluice_refuse(text);
}

SLUICE_CONFIGURE(configure)
