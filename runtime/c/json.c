/* json.c - strict JSON. The rules and reasons are rule 3 of edgept/prompt_file.md. */
#include "json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DIGITS 15 /* far beyond any file's size, exact in a double and in a 64-bit integer */

/* A key that was read, of an object that is still open. */
struct key {
    uint32_t hash;
    uint32_t at; /* behind its opening quote */
};

struct parser {
    const char *text;
    size_t size, at;
    int max_depth;
    struct key *keys; /* of all open objects, the innermost one's last */
    size_t key_count;
    const char *reason; /* of the first offence */
};

static bool value(struct parser *parser, int depth);

static bool refuse(struct parser *parser, const char *reason)
{
    parser->reason = reason;
    return false;
}

/* The next byte; 0, which stands for nothing in JSON, at the end. */
static unsigned char peek(const struct parser *parser)
{
    return parser->at < parser->size ? (unsigned char)parser->text[parser->at] : 0;
}

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\n' || byte == '\r';
}

static bool take(struct parser *parser, char mark)
{
    while (parser->at < parser->size && is_space(parser->text[parser->at]))
        parser->at++;
    if (parser->at == parser->size || parser->text[parser->at] != mark)
        return false;
    parser->at++;
    return true;
}

static int hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Four hexadecimal digits, which are known to be there. */
static uint32_t hex4(const char *at)
{
    uint32_t code = 0;
    for (int i = 0; i < 4; i++)
        code = code << 4 | (uint32_t)hex_digit(at[i]);
    return code;
}

static bool check_hex4(struct parser *parser, uint32_t *code)
{
    for (size_t i = 0; i < 4; i++)
        if (parser->at + i >= parser->size || hex_digit(parser->text[parser->at + i]) < 0)
            return refuse(parser, "header-json");
    *code = hex4(parser->text + parser->at);
    parser->at += 4;
    return true;
}

/* What follows a backslash. */
static bool check_escape(struct parser *parser)
{
    unsigned char letter = peek(parser);
    uint32_t code, low;
    if (letter != 0 && strchr("\"\\/bfnrt", letter) != NULL) {
        parser->at++;
        return true;
    }
    if (letter != 'u')
        return refuse(parser, "header-json");
    parser->at++;
    if (!check_hex4(parser, &code))
        return false;
    if (code == 0)
        return refuse(parser, "header-nul");
    if (code < 0xD800 || code > 0xDFFF)
        return true;
    if (code >= 0xDC00 || parser->size - parser->at < 2 ||
        memcmp(parser->text + parser->at, "\\u", 2) != 0)
        return refuse(parser, "header-surrogate");
    parser->at += 2;
    if (!check_hex4(parser, &low))
        return false;
    return (low >= 0xDC00 && low <= 0xDFFF) || refuse(parser, "header-surrogate");
}

static bool check_string(struct parser *parser)
{
    if (peek(parser) != '"')
        return refuse(parser, "header-json");
    parser->at++;
    for (;;) {
        unsigned char byte = peek(parser); /* 0 also at the end */
        if (byte < 0x20)
            return refuse(parser, "header-json");
        parser->at++;
        if (byte == '"')
            return true;
        if (byte == '\\' && !check_escape(parser))
            return false;
    }
}

static bool check_number(struct parser *parser)
{
    size_t begin = parser->at, digits = 0;
    for (; peek(parser) != 0 && strchr("-+.0123456789eE", peek(parser)) != NULL; parser->at++)
        digits += peek(parser) >= '0' && peek(parser) <= '9';
    size_t length = parser->at - begin;
    if (digits != length || length > MAX_DIGITS || (length > 1 && parser->text[begin] == '0')) {
        parser->at = begin;
        return refuse(parser, "header-number");
    }
    return true;
}

/* ---- strings, their escapes resolved ---- */

/* The bytes of a string that was checked, one by one. */
struct reader {
    const char *at;
    unsigned char bytes[4]; /* of an escape that is being given out */
    int count, given;
};

static int put_utf8(uint32_t code, unsigned char bytes[4])
{
    if (code < 0x80) {
        bytes[0] = (unsigned char)code;
        return 1;
    }
    int count = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = count - 1; i > 0; i--, code >>= 6)
        bytes[i] = (unsigned char)(0x80 | (code & 0x3F));
    bytes[0] = (unsigned char)(first[count] | code);
    return count;
}

/* The next byte, or -1 at the closing quote, behind which the reader then stands. */
static int next_byte(struct reader *reader)
{
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (reader->given < reader->count)
        return reader->bytes[reader->given++];
    unsigned char byte = (unsigned char)*reader->at++;
    if (byte == '"')
        return -1;
    if (byte != '\\')
        return byte;
    byte = (unsigned char)*reader->at++;
    if (byte != 'u')
        return (unsigned char)meant[strchr(letters, byte) - letters];
    uint32_t code = hex4(reader->at);
    reader->at += 4;
    if (code >= 0xD800 && code <= 0xDFFF) { /* a pair: \uD83D\uDE00 */
        code = 0x10000 + ((code - 0xD800) << 10) + (hex4(reader->at + 2) - 0xDC00);
        reader->at += 6;
    }
    reader->count = put_utf8(code, reader->bytes);
    reader->given = 1;
    return reader->bytes[0];
}

static bool same_string(const char *a, const char *b)
{
    struct reader left = {.at = a}, right = {.at = b};
    for (;;) {
        int byte = next_byte(&left);
        if (byte != next_byte(&right))
            return false;
        if (byte < 0)
            return true;
    }
}

static uint32_t hash_string(const char *text)
{
    struct reader reader = {.at = text};
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (int byte; (byte = next_byte(&reader)) >= 0;)
        hash = (hash ^ (uint32_t)byte) * 16777619u;
    return hash;
}

/* ---- the check ---- */

static bool check_key(struct parser *parser, size_t first)
{
    uint32_t begin = (uint32_t)parser->at + 1;
    if (!check_string(parser))
        return false;
    uint32_t hash = hash_string(parser->text + begin);
    for (size_t i = first; i < parser->key_count; i++)
        if (parser->keys[i].hash == hash &&
            same_string(parser->text + parser->keys[i].at, parser->text + begin))
            return refuse(parser, "header-duplicate-key");
    parser->keys[parser->key_count++] = (struct key){hash, begin};
    return true;
}

static bool members(struct parser *parser, char end, int depth)
{
    size_t first = parser->key_count;
    if (take(parser, end))
        return true;
    do {
        if (end == '}') {
            while (parser->at < parser->size && is_space(parser->text[parser->at]))
                parser->at++;
            if (!check_key(parser, first))
                return false;
            if (!take(parser, ':'))
                return refuse(parser, "header-json");
        }
        if (!value(parser, depth + 1))
            return false;
        if (take(parser, end)) {
            parser->key_count = first;
            return true;
        }
    } while (take(parser, ','));
    return refuse(parser, "header-json");
}

static bool value(struct parser *parser, int depth)
{
    while (parser->at < parser->size && is_space(parser->text[parser->at]))
        parser->at++;
    unsigned char start = peek(parser);
    if (start == '"')
        return check_string(parser);
    if (start == '{' || start == '[') {
        if (depth > parser->max_depth)
            return refuse(parser, "header-depth");
        parser->at++;
        return members(parser, start == '{' ? '}' : ']', depth);
    }
    if (start != 0 && strchr("-+.0123456789", start) != NULL)
        return check_number(parser);
    return refuse(parser, "header-json");
}

const char *edgept_json_check(const char *text, size_t size, int max_depth, size_t *at)
{
    struct parser parser = {.text = text, .size = size, .max_depth = max_depth};
    /* a key takes four bytes or more: "":{ */
    parser.keys = malloc((size / 4 + 1) * sizeof *parser.keys);
    if (parser.keys == NULL)
        return "no-memory";
    if (value(&parser, 1)) {
        while (parser.at < size && is_space(text[parser.at]))
            parser.at++;
        if (parser.at != size)
            parser.reason = "header-json"; /* text after the value */
    }
    free(parser.keys);
    *at = parser.at;
    return parser.reason;
}

bool edgept_utf8_check(const char *text, size_t size)
{
    const unsigned char *at = (const unsigned char *)text, *end = at + size;
    while (at < end) {
        unsigned char byte = *at++;
        if (byte < 0x80)
            continue;
        int more = byte >= 0xF0 ? 3 : byte >= 0xE0 ? 2 : 1;
        if (byte < 0xC2 || byte > 0xF4 || end - at < more)
            return false;
        /* the second byte is held closer: overlong forms, surrogates, past U+10FFFF */
        unsigned char low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
        unsigned char high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
        for (; more > 0; more--, at++, low = 0x80, high = 0xBF)
            if (*at < low || *at > high)
                return false;
    }
    return true;
}

/* ---- the cursor ---- */

static void skip_space(struct edgept_json *json)
{
    while (is_space(*json->at))
        json->at++;
}

char edgept_json_kind(struct edgept_json *json)
{
    skip_space(json);
    return *json->at >= '0' && *json->at <= '9' ? '0' : *json->at;
}

void edgept_json_open(struct edgept_json *json)
{
    skip_space(json);
    json->at++;
}

bool edgept_json_next(struct edgept_json *json)
{
    skip_space(json);
    bool ends = *json->at == '}' || *json->at == ']';
    if (ends || *json->at == ',')
        json->at++;
    return !ends;
}

size_t edgept_json_string(struct edgept_json *json, char *buffer, size_t room)
{
    size_t length = 0;
    skip_space(json);
    struct reader reader = {.at = json->at + 1};
    for (int byte; (byte = next_byte(&reader)) >= 0; length++)
        if (length + 1 < room)
            buffer[length] = (char)byte;
    if (room > 0)
        buffer[length < room ? length : room - 1] = '\0';
    json->at = reader.at;
    skip_space(json);
    if (*json->at == ':')
        json->at++;
    return length;
}

bool edgept_json_is(const char *text, const char *wanted, size_t length)
{
    return length == strlen(wanted) && memcmp(text, wanted, length) == 0;
}

uint64_t edgept_json_number(struct edgept_json *json)
{
    uint64_t number = 0;
    skip_space(json);
    while (*json->at >= '0' && *json->at <= '9')
        number = number * 10 + (uint64_t)(*json->at++ - '0');
    return number;
}

void edgept_json_skip(struct edgept_json *json)
{
    char kind = edgept_json_kind(json);
    if (kind == '"') {
        edgept_json_string(json, NULL, 0);
    } else if (kind == '0') {
        edgept_json_number(json);
    } else {
        edgept_json_open(json);
        while (edgept_json_next(json)) {
            if (kind == '{')
                edgept_json_string(json, NULL, 0);
            edgept_json_skip(json);
        }
    }
}
