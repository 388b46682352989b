/* Reads the large blocks of numbers of a JSON body, so that no Python list is made of them: called by json_numbers.py beside this file.
 *
 * One walk finds where inputs may stand and reads there what is a block: nested arrays of one shape, with numbers of RFC 8259 alone.
 * Whatever is anything else, or cannot be rounded with certainty, is left for the JSON parser, and so are all faults.
 * The bytes come from outside: `at` is read nowhere without being compared with `end`. No state, so any thread may call.
 */
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_DIMS 8
#define MAX_BLOCKS 4
#define FEWEST_NUMBERS 64       /* fewer are read as fast as lists */
#define MOST_DIGITS 19          /* of a significand that 64 bits hold */
#define MOST_EXPONENT_DIGITS 4
#define LARGEST_INTEGER (1ull << 53) /* beyond it an integer is not its double, and the lists keep it whole */
#define LEAST_POWER (-342)
#define LARGEST_POWER 308

typedef unsigned __int128 uint128;

/* 10^q is in [p, p + 1) * 2^exponent, where p is `high` and `low` as one, of 128 bits, the uppermost set. */
typedef struct {
    uint64_t high, low;
    int64_t exponent;
} Power;

/* Where a block stands in the body, which of all numbers is its first, and its shape. */
typedef struct {
    int64_t begin, end, first, n_dims, shape[MAX_DIMS];
} Block;

typedef struct {
    const char *end;
    const Power *powers; /* of LEAST_POWER to LARGEST_POWER */
    double *numbers;
    int64_t n_numbers, room;
} Reader;

static const char *skip_spaces(const char *at, const char *end) {
    while (at < end && *at <= ' ' && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t')) at++;
    return at;
}

static uint64_t load_eight(const char *at) {
    uint64_t bytes;
    memcpy(&bytes, at, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    return bytes;
}

/* The number that eight digits are, the first in the lowest byte: pairs, then both halves in one product each. */
static uint64_t join_digits(uint64_t digits) {
    const uint64_t pair = 0x000000ff000000ff;
    digits = digits * 10 + (digits >> 8);
    return (uint32_t)(((digits & pair) * (100 + (1000000ull << 32)) + (digits >> 16 & pair) * (1 + (10000ull << 32))) >> 32);
}

/* Behind the digits that begin here, which are appended to those of `sum`. Eight at a time: a branch per digit costs more than all else. */
static const char *read_digits(const char *at, const char *end, uint64_t *sum) {
    static const uint64_t shift[8] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
    while (end - at >= 8) {
        const uint64_t digits = load_eight(at) ^ 0x3030303030303030;
        const uint64_t others = ((digits + 0x7676767676767676) | digits) & 0x8080808080808080;
        if (others) {
            const int n = __builtin_ctzll(others) / 8;
            *sum = *sum * shift[n] + join_digits(digits << (56 - 8 * n) << 8);
            return at + n;
        }
        *sum = *sum * 100000000 + join_digits(digits);
        at += 8;
    }
    for (; at < end && *at >= '0' && *at <= '9'; at++) *sum = *sum * 10 + (uint64_t)(*at - '0');
    return at;
}

/* Whether digits, among which there may be a point, fit 64 bits when the zeros before them are not counted. */
static int are_few(const char *at, const char *end) {
    if (end - at <= MOST_DIGITS) return 1;
    int64_t n = 0;
    for (; at < end; at++) n += *at != '.' && (n > 0 || *at != '0');
    return n <= MOST_DIGITS;
}

/* The bits of significand * 10^power, rounded to nearest; 0 where that is not certain, or is no finite double above zero.
 *
 * The product with the power as it is known is below the true one by less than the significand, so `product`, its upper 128 bits, by less
 * than 2. What is dropped of it decides how to round, unless the true rest may lie on either side of one half.
 */
static uint64_t round_product(uint64_t significand, int64_t power, const Power *powers) {
    if (power < LEAST_POWER || power > LARGEST_POWER) return 0;
    const Power *p = &powers[power - LEAST_POWER];
    const int zeros = __builtin_clzll(significand);
    significand <<= zeros;
    const uint128 product = (uint128)significand * p->high + ((uint128)significand * p->low >> 64);
    const uint64_t high = (uint64_t)(product >> 64), low = (uint64_t)product;
    const int top = 62 + (int)(high >> 63); /* a branch would be a coin toss */
    const int64_t exponent = 128 + top - zeros + p->exponent; /* of the uppermost bit */
    const int64_t below = exponent < -1022 ? -1022 - exponent : 0; /* bits that a number too small for its own exponent lacks */
    const int64_t dropped = top - 52 + below;
    if (dropped > 63) return 0;
    const uint64_t half = 1ull << (dropped - 1), rest = high & (2 * half - 1);
    if ((rest == half && low == 0) || (rest == half - 1 && low == UINT64_MAX)) return 0;
    const uint64_t mantissa = (high >> dropped) + (rest >= half); /* whose uppermost bit adds one to the exponent */
    const uint64_t bits = ((uint64_t)(exponent + below + 1022) << 52) + mantissa;
    return bits < 0x7ffull << 52 ? bits : 0;
}

/* Behind the number that begins here; NULL if there is none, or none whose double is certain. */
static const char *read_number(const char *at, const char *end, const Power *powers, double *number) {
    int is_negative = 0;
    if (__builtin_expect(at < end && *at == '-', 0)) is_negative = 1, at++;
    const char *first = at, *last;
    uint64_t digits = 0;
    if (end - at >= 2 && at[1] == '.' && *at >= '0' && *at <= '9') {
        digits = (uint64_t)(*at++ - '0'); /* most often so, and then where the next digits are need not be computed */
    } else {
        at = read_digits(first, end, &digits);
        if (at == first || (*first == '0') & (at > first + 1)) return NULL; /* not `&&`: among pixels a zero is a coin toss */
    }
    last = at;
    int64_t power = 0;
    int is_integer = 1;
    if (at < end && *at == '.') {
        const char *point = at++;
        at = last = read_digits(at, end, &digits);
        power = point + 1 - at, is_integer = 0;
        if (power == 0) return NULL;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        const int is_down = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        const char *start = at;
        uint64_t shift = 0;
        at = read_digits(at, end, &shift);
        if (at == start || at > start + MOST_EXPONENT_DIGITS) return NULL;
        power += is_down ? -(int64_t)shift : (int64_t)shift, is_integer = 0;
    }
    if (!are_few(first, last)) return NULL;
    if (is_integer) {
        if (digits > LARGEST_INTEGER) return NULL;
        *number = (double)(is_negative ? -(int64_t)digits : (int64_t)digits); /* -0 is the integer 0 */
        return at;
    }
    const uint64_t rounded = digits ? round_product(digits, power, powers) : 0;
    const uint64_t bits = rounded | (uint64_t)is_negative << 63;
    memcpy(number, &bits, sizeof bits);
    return rounded || !digits ? at : NULL;
}

/* Behind the `]` of a row whose first number begins here; NULL if there is anything but numbers. */
static const char *read_row(Reader *r, const char *at) {
    for (;;) {
        at = skip_spaces(at, r->end);
        if (r->n_numbers == r->room) return NULL;
        at = read_number(at, r->end, r->powers, &r->numbers[r->n_numbers]);
        if (!at) return NULL;
        r->n_numbers++;
        at = skip_spaces(at, r->end);
        if (at == r->end || (*at != ',' && *at != ']')) return NULL;
        if (*at++ == ']') return at;
    }
}

/* Whether `count` entries are as many as its neighbours have; the first to come says. */
static int agree(int64_t *size, int64_t count) {
    if (*size == 0) *size = count;
    return *size == count;
}

/* Behind the block whose `[` is here; NULL if it is none. Rows are read in order, so the numbers lie as in C. */
static const char *read_block(Reader *r, const char *at, Block *b) {
    int64_t counts[MAX_DIMS], depth = 0;
    memset(b, 0, sizeof *b);
    b->first = r->n_numbers;
    for (;;) {
        for (; at < r->end && *at == '['; at = skip_spaces(at + 1, r->end)) {
            if (depth == MAX_DIMS) return NULL;
            counts[depth++] = 0;
        }
        const int64_t before = r->n_numbers;
        if (!agree(&b->n_dims, depth) || !(at = read_row(r, at)) || !agree(&b->shape[--depth], r->n_numbers - before)) return NULL;
        for (;;) {
            if (depth == 0) return at;
            counts[depth - 1]++;
            at = skip_spaces(at, r->end);
            if (at == r->end || (*at != ',' && *at != ']')) return NULL;
            if (*at++ == ',') break;
            depth--;
            if (!agree(&b->shape[depth], counts[depth])) return NULL;
        }
        at = skip_spaces(at, r->end);
        if (at == r->end || *at != '[') return NULL;
    }
}

/* Behind the string whose first character is here; the end where it has none. */
static const char *skip_string(const char *at, const char *end) {
    const char *begin = at;
    while (at < end && (at = memchr(at, '"', (size_t)(end - at)))) {
        const char *escapes = at++;
        while (escapes > begin && escapes[-1] == '\\') escapes--;
        if ((at - 1 - escapes) % 2 == 0) return at;
        begin = at;
    }
    return end;
}

#define IS_KEY(name) (length == sizeof(name) - 1 && memcmp(key, name, sizeof(name) - 1) == 0)

static int holds_inputs(const char *key, int64_t length, int depth) { return IS_KEY("inputs") || (depth == 1 && IS_KEY("query")); }

static int holds_examples(const char *key, int64_t length) { return IS_KEY("support") || IS_KEY("add"); }

/* How many blocks were read: their numbers in `numbers`, which has `room`, one behind the other, and where they stood in `blocks`.
 *
 * Inputs stand under `inputs` and `query` of the document, and under `inputs` of its `support` and `add`. A body that is no JSON may be walked
 * wrongly: it is refused all the same, because what is left of it around the blocks is none either.
 */
EXPORT int read_blocks(const char *body, int64_t length, const Power *powers, double *numbers, int64_t room, Block *blocks) {
    Reader r = {body + length, powers, numbers, 0, room};
    const char *at = body, *end = r.end;
    int64_t depth = 0;
    int n_blocks = 0, is_among_examples = 0;
    while (at < end && n_blocks < MAX_BLOCKS) {
        const char c = *at++;
        if (c == '{' || c == '[') depth++;
        if (c == '}' || c == ']') depth--, is_among_examples = is_among_examples && depth >= 2;
        if (c != '"') continue;
        const char *key = at;
        at = skip_string(at, end);
        if (depth != 1 && !is_among_examples) continue;
        const int64_t key_length = at - 1 - key;
        const char *value = skip_spaces(at, end);
        if (value == end || *value != ':') continue;
        value = skip_spaces(value + 1, end);
        if (value == end) break;
        if (*value == '[' && depth <= 2 && holds_inputs(key, key_length, (int)depth)) {
            Block *b = &blocks[n_blocks];
            const char *behind = read_block(&r, value, b);
            if (behind && r.n_numbers - b->first >= FEWEST_NUMBERS) {
                b->begin = value - body, b->end = behind - body, at = behind, n_blocks++;
            } else {
                r.n_numbers = b->first;
            }
        } else if (*value == '{' && depth == 1 && holds_examples(key, key_length)) {
            at = value + 1, depth = 2, is_among_examples = 1;
        }
    }
    return n_blocks;
}
