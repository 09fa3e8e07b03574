/*
 * json.h - the part of JSON that a safetensors header needs, read strictly and in document order.
 *
 * A text is checked once, as a whole; a cursor then walks it in place, and trusts it.
 */
#ifndef EDGEPT_JSON_H
#define EDGEPT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Check that a text is one value of objects, arrays, strings and plain non-negative integers, nested
 * at most max_depth deep, without a key that occurs twice in one object.
 * Returns NULL, or the reason of the first offence in reading order, whose byte `at` gets; "no-memory"
 * where the keys could not be remembered.
 */
const char *edgept_json_check(const char *text, size_t size, int max_depth, size_t *at);

/* Whether bytes are strict UTF-8: no overlong forms, no surrogates, nothing past U+10FFFF. */
bool edgept_utf8_check(const char *text, size_t size);

/* A place in a text that was checked; the text ends in a byte that may be read, of any value. */
struct edgept_json {
    const char *at;
};

/* What kind of value comes next: '{', '[', '"', or '0' for a number. */
char edgept_json_kind(struct edgept_json *json);

/* Enter the object or array that comes next: while (edgept_json_next(...)) over its members. */
void edgept_json_open(struct edgept_json *json);
bool edgept_json_next(struct edgept_json *json);

/*
 * Take a string; returns its length in bytes, as snprintf does: `room` bytes of `buffer` get as much
 * as fits, with a zero byte behind it. A key is a string; its value follows.
 */
size_t edgept_json_string(struct edgept_json *json, char *buffer, size_t room);

/* Whether a string that was taken, of this length, is the wanted one. */
bool edgept_json_is(const char *text, const char *wanted, size_t length);

/* Take a number, below 10^15. */
uint64_t edgept_json_number(struct edgept_json *json);

/* Step over any value. */
void edgept_json_skip(struct edgept_json *json);

#endif
