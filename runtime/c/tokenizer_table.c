/* A loaded table, and look-ups in it. */
#include "tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static uint32_t mix(uint32_t hash)
{
    hash ^= hash >> 15;
    hash *= 739982445u;
    return hash ^ hash >> 12;
}

enum edgept_text_status edgept_tokenizer_load(const void *table, size_t size,
                                              struct edgept_tokenizer **tokenizer,
                                              const char **reason)
{
    struct edgept_tokenizer *loaded = calloc(1, sizeof *loaded);
    const char *found;

    if (loaded == NULL)
        return EDGEPT_TEXT_NO_MEMORY;
    found = text_check_table(loaded, table, size);
    if (found != NULL) {
        free(loaded);
        if (reason != NULL)
            *reason = found;
        return EDGEPT_TEXT_MALFORMED;
    }
    *tokenizer = loaded;
    return EDGEPT_TEXT_OK;
}

void edgept_tokenizer_free(struct edgept_tokenizer *tokenizer)
{
    free(tokenizer);
}

size_t edgept_tokenizer_size(const struct edgept_tokenizer *tokenizer)
{
    return tokenizer->size;
}

int edgept_tokenizer_is_special(const struct edgept_tokenizer *tokenizer, int64_t id)
{
    if (id < 0 || id >= (int64_t)tokenizer->size)
        return 0;
    return (text_entry(tokenizer->tokens, (uint32_t)id, 2, 1) >> 24 & TEXT_TOKEN_SPECIAL) != 0;
}

struct text_span text_span_of(const struct edgept_tokenizer *tokenizer, uint32_t offset,
                              uint32_t size)
{
    struct text_span span;

    span.data = tokenizer->text + offset;
    span.size = size;
    return span;
}

struct text_span text_span_at(const struct edgept_tokenizer *tokenizer, uint32_t span)
{
    return text_span_of(tokenizer, text_entry(tokenizer->spans, span, 2, 0),
                        text_entry(tokenizer->spans, span, 2, 1));
}

uint32_t text_find_hashed(const struct edgept_tokenizer *tokenizer, uint32_t kind, uint32_t hash,
                          const unsigned char *data, size_t size)
{
    uint32_t last = tokenizer->key_slots.count - 1, slot = mix(hash) & last, entry;

    while ((entry = text_entry(tokenizer->key_slots, slot, 1, 0)) != 0) {
        uint32_t length = text_entry(tokenizer->keys, entry - 1, 3, 1);

        if (length == (size | kind << 24) &&
            memcmp(tokenizer->text + text_entry(tokenizer->keys, entry - 1, 3, 0), data, size) == 0)
            return text_entry(tokenizer->keys, entry - 1, 3, 2);
        slot = (slot + 1) & last;
    }
    return TEXT_NONE;
}

uint32_t text_find(const struct edgept_tokenizer *tokenizer, uint32_t kind,
                   const unsigned char *data, size_t size)
{
    uint32_t hash = text_hash_begin(kind);
    size_t at;

    if (size > tokenizer->longest[kind < TEXT_KEY_ADDED ? 0 : kind - 1])
        return TEXT_NONE;
    for (at = 0; at < size; at++)
        hash = text_hash_add(hash, data[at]);
    return text_find_hashed(tokenizer, kind, hash, data, size);
}

uint32_t text_find_merge(const struct edgept_tokenizer *tokenizer, uint32_t left, uint32_t right)
{
    uint32_t last = tokenizer->merge_slots.count - 1, entry;
    uint32_t slot = mix(left * 2654435761u ^ right * 2246822519u) & last;

    while ((entry = text_entry(tokenizer->merge_slots, slot, 1, 0)) != 0) {
        if (text_entry(tokenizer->merges, entry - 1, 3, 0) == left &&
            text_entry(tokenizer->merges, entry - 1, 3, 1) == right)
            return entry - 1;
        slot = (slot + 1) & last;
    }
    return TEXT_NONE;
}

uint32_t text_property(const struct edgept_tokenizer *tokenizer, uint32_t character,
                       uint32_t number)
{
    uint32_t block, kind;

    if (tokenizer->blocks.count == 0)
        return 0;
    block = text_u16(tokenizer->blocks.data + (size_t)(character >> 7) * 2);
    kind = text_u16(tokenizer->kinds.data + ((size_t)block << 7 | (character & 127)) * 2);
    return text_entry(tokenizer->records, kind, 2 + tokenizer->maps, number);
}

int text_in_class(const struct edgept_tokenizer *tokenizer, uint32_t character, uint32_t class)
{
    if ((class & TEXT_LITERAL) != 0)
        return character == (class & ~TEXT_LITERAL);
    return (text_property(tokenizer, character, 0) >> class & 1) != 0;
}

uint32_t text_compose(const struct edgept_tokenizer *tokenizer, uint32_t first, uint32_t second)
{
    uint32_t low = 0, high = tokenizer->compositions.count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        uint32_t left = text_entry(tokenizer->compositions, middle, 3, 0);
        uint32_t right = text_entry(tokenizer->compositions, middle, 3, 1);

        if (left == first && right == second)
            return text_entry(tokenizer->compositions, middle, 3, 2);
        if (left < first || (left == first && right < second))
            low = middle + 1;
        else
            high = middle;
    }
    return TEXT_NONE;
}
