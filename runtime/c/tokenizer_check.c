/* A table, checked once from end to end, so that look-ups need not. TABLE.md describes the format. */
#include "tokenizer_parts.h"

#include <string.h>

enum { HEADER_BYTES = 16 + 19 * 8, SETTINGS = 16, BLOCKS = 0x110000 / 128, MOST_SLOTS = 256 };
enum section { S_SETTINGS, S_TEXT, S_TOKENS, S_FIRST_TOKENS, S_KEYS, S_KEY_SLOTS, S_MERGES,
               S_MERGE_SLOTS, S_BYTES, S_ADDED, S_NORMALIZER, S_PRETOKENIZER, S_PROGRAMS, S_BLOCKS,
               S_KINDS, S_RECORDS, S_SPANS, S_COMPOSITIONS, S_TEMPLATES };

/* A section's entries of `bytes` each; 0 where its place or its size is not as it should be. */
static int find_section(const unsigned char *table, size_t size, enum section number,
                        uint32_t bytes, struct text_section *section)
{
    const unsigned char *pair = table + 16 + (size_t)number * 8;
    uint32_t offset = text_u32(pair), length = text_u32(pair + 4);

    if (offset < HEADER_BYTES || offset % 4 != 0 || offset > size || length > size - offset ||
        length % bytes != 0)
        return 0;
    section->data = table + offset;
    section->count = length / bytes;
    return 1;
}

static int spans_text(const struct edgept_tokenizer *tokenizer, uint32_t offset, uint32_t size)
{
    return offset <= tokenizer->text_size && size <= tokenizer->text_size - offset;
}

static int is_utf8(struct text_span span)
{
    size_t at = 0;
    int cut;

    while (at < span.size) {
        int bytes = text_utf8_check(span.data + at, span.size - at, &cut);

        if (bytes < 0)
            return 0;
        at += (size_t)bytes;
    }
    return 1;
}

static int is_character(uint32_t character)
{
    return character < 0x110000 && (character < 0xD800 || character > 0xDFFF);
}

/* Slots of a hash table: a power of two, in range, with an empty one soon behind each, so that a search ends. */
static int check_slots(struct text_section slots, uint32_t count)
{
    uint32_t slot, run = 0, round;

    if (slots.count == 0 || (slots.count & (slots.count - 1)) != 0)
        return 0;
    for (round = 0; round < 2; round++) /* a run may go on from the last slot to the first */
        for (slot = 0; slot < slots.count; slot++) {
            uint32_t entry = text_entry(slots, slot, 1, 0);

            run = entry == 0 ? 0 : run + 1;
            if (entry > count || run > MOST_SLOTS)
                return 0;
        }
    return run < slots.count;
}

static int check_settings(struct edgept_tokenizer *tokenizer, struct text_section settings)
{
    if (settings.count != SETTINGS)
        return 0;
    tokenizer->model = text_entry(settings, 0, 1, 0);
    tokenizer->flags = text_entry(settings, 1, 1, 0);
    tokenizer->unknown = text_entry(settings, 2, 1, 0);
    tokenizer->size = text_entry(settings, 3, 1, 0);
    tokenizer->max_characters = text_entry(settings, 4, 1, 0);
    tokenizer->decoder = text_entry(settings, 5, 1, 0);
    tokenizer->strip_count = text_entry(settings, 6, 1, 0);
    tokenizer->strip_character = text_entry(settings, 7, 1, 0);
    tokenizer->longest[0] = text_entry(settings, 8, 1, 0);
    tokenizer->longest[1] = text_entry(settings, 9, 1, 0);
    tokenizer->longest[2] = text_entry(settings, 10, 1, 0);
    tokenizer->word_class = text_entry(settings, 11, 1, 0);
    tokenizer->space_class = text_entry(settings, 12, 1, 0);
    tokenizer->maps = text_entry(settings, 13, 1, 0);
    tokenizer->pairs = text_entry(settings, 14, 1, 0);
    if ((tokenizer->longest[0] | tokenizer->longest[1] | tokenizer->longest[2]) >= 1u << 24)
        return 0; /* a key's length shares its number with the kind */
    return (tokenizer->model == TEXT_BPE || tokenizer->model == TEXT_WORDPIECE) &&
           tokenizer->flags < 32 && tokenizer->decoder >= TEXT_DECODE_BYTES &&
           tokenizer->decoder <= TEXT_DECODE_TEXTS && tokenizer->maps <= TEXT_MAX_MAPS &&
           (tokenizer->unknown == TEXT_NONE || tokenizer->unknown < tokenizer->size) &&
           (tokenizer->unknown != TEXT_NONE || tokenizer->model == TEXT_BPE) &&
           (tokenizer->word_class == TEXT_NONE || tokenizer->word_class < 32) &&
           (tokenizer->space_class == TEXT_NONE || tokenizer->space_class < 32) &&
           is_character(tokenizer->strip_character);
}

static int check_tokens(const struct edgept_tokenizer *tokenizer)
{
    uint32_t id;

    if (tokenizer->tokens.count != tokenizer->size ||
        (tokenizer->first_tokens.count != 0 && tokenizer->first_tokens.count != tokenizer->size))
        return 0;
    for (id = 0; id < tokenizer->size; id++) {
        uint32_t length = text_entry(tokenizer->tokens, id, 2, 1);

        if (!spans_text(tokenizer, text_entry(tokenizer->tokens, id, 2, 0), length & 0xFFFFFF) ||
            ((length >> 24 & TEXT_TOKEN_BYTE) != 0 && (length & 0xFFFFFF) != 1))
            return 0;
        if (tokenizer->first_tokens.count != 0 &&
            !spans_text(tokenizer, text_entry(tokenizer->first_tokens, id, 2, 0),
                        text_entry(tokenizer->first_tokens, id, 2, 1)))
            return 0;
    }
    return 1;
}

static int check_keys(struct edgept_tokenizer *tokenizer)
{
    uint32_t entry, longest[3] = {0, 0, 0};

    for (entry = 0; entry < tokenizer->keys.count; entry++) {
        uint32_t offset = text_entry(tokenizer->keys, entry, 3, 0);
        uint32_t length = text_entry(tokenizer->keys, entry, 3, 1);
        uint32_t value = text_entry(tokenizer->keys, entry, 3, 2);
        uint32_t kind = length >> 24, added = kind == TEXT_KEY_ADDED || kind == TEXT_KEY_NORMALIZED;

        length &= 0xFFFFFF;
        if (kind > TEXT_KEY_NORMALIZED || length == 0 || !spans_text(tokenizer, offset, length) ||
            value >= (added ? tokenizer->added.count : tokenizer->size))
            return 0;
        if (longest[added ? kind - 1 : 0] < length)
            longest[added ? kind - 1 : 0] = length;
        if (added)
            tokenizer->added_starts[kind - TEXT_KEY_ADDED][tokenizer->text[offset]] = 1;
        /* an added token cuts a text: it has to be whole characters */
        if (added && !is_utf8(text_span_of(tokenizer, offset, length)))
            return 0;
    }
    /* a search takes as many steps as these say */
    return memcmp(longest, tokenizer->longest, sizeof longest) == 0 &&
           check_slots(tokenizer->key_slots, tokenizer->keys.count);
}

static int check_merges(const struct edgept_tokenizer *tokenizer)
{
    uint32_t rank, part;

    for (rank = 0; rank < tokenizer->merges.count; rank++)
        for (part = 0; part < 3; part++)
            if (text_entry(tokenizer->merges, rank, 3, part) >= tokenizer->size)
                return 0;
    return check_slots(tokenizer->merge_slots, tokenizer->merges.count);
}

static int check_ids(const struct edgept_tokenizer *tokenizer)
{
    uint32_t entry;

    if (tokenizer->bytes.count != 0 && tokenizer->bytes.count != 256)
        return 0;
    if (tokenizer->bytes.count == 0 &&
        (tokenizer->flags & (TEXT_BYTE_SYMBOLS | TEXT_BYTE_FALLBACK)) != 0)
        return 0;
    for (entry = 0; entry < tokenizer->bytes.count; entry++) {
        uint32_t id = text_entry(tokenizer->bytes, entry, 1, 0);

        if (id != TEXT_NONE && id >= tokenizer->size)
            return 0;
    }
    for (entry = 0; entry < tokenizer->added.count; entry++) {
        uint32_t flags = text_entry(tokenizer->added, entry, 2, 1);

        if (text_entry(tokenizer->added, entry, 2, 0) >= tokenizer->size || flags > 15 ||
            ((flags & TEXT_SINGLE_WORD) != 0 && tokenizer->word_class == TEXT_NONE) ||
            ((flags & (TEXT_LEFT | TEXT_RIGHT)) != 0 && tokenizer->space_class == TEXT_NONE))
            return 0;
    }
    return 1;
}

static int check_steps(const struct edgept_tokenizer *tokenizer)
{
    uint32_t step, spans = tokenizer->spans.count;

    for (step = 0; step < tokenizer->normalizer.count; step++) {
        uint32_t a = text_entry(tokenizer->normalizer, step, 4, 1);
        uint32_t b = text_entry(tokenizer->normalizer, step, 4, 2);

        switch (text_entry(tokenizer->normalizer, step, 4, 0)) {
        case TEXT_PREPEND:
            if (a >= spans)
                return 0;
            break;
        case TEXT_REPLACE:
            if (a >= spans || b >= spans || text_span_at(tokenizer, a).size == 0)
                return 0;
            break;
        case TEXT_MAP:
            if (a >= tokenizer->maps || b > 1)
                return 0;
            break;
        case TEXT_REORDER:
        case TEXT_COMPOSE:
            break;
        default:
            return 0;
        }
    }
    for (step = 0; step < tokenizer->pretokenizer.count; step++) {
        uint32_t a = text_entry(tokenizer->pretokenizer, step, 4, 1);
        uint32_t b = text_entry(tokenizer->pretokenizer, step, 4, 2);

        switch (text_entry(tokenizer->pretokenizer, step, 4, 0)) {
        case TEXT_SPLIT:
            if (a >= tokenizer->programs.count || b > TEXT_CONTIGUOUS ||
                text_entry(tokenizer->pretokenizer, step, 4, 3) > 1)
                return 0;
            break;
        case TEXT_PREFIX:
            if (a >= spans || b > 1)
                return 0;
            break;
        case TEXT_REPLACE_PIECES:
            if (a >= spans || b >= spans || text_span_at(tokenizer, a).size == 0)
                return 0;
            break;
        default:
            return 0;
        }
    }
    return 1;
}

static int check_programs(const struct edgept_tokenizer *tokenizer)
{
    uint32_t at, count = tokenizer->programs.count;

    if (count > TEXT_MAX_INSTRUCTIONS ||
        (count > 0 && text_entry(tokenizer->programs, count - 1, 4, 0) != TEXT_DONE))
        return 0;
    for (at = 0; at < count; at++) {
        uint32_t a = text_entry(tokenizer->programs, at, 4, 1);
        uint32_t b = text_entry(tokenizer->programs, at, 4, 2);
        uint32_t c = text_entry(tokenizer->programs, at, 4, 3);

        switch (text_entry(tokenizer->programs, at, 4, 0)) {
        case TEXT_CHARACTERS:
        case TEXT_POSSESSIVE:
            if (b > c || c == 0)
                return 0;
        /* fall through */
        case TEXT_NOT_BEFORE:
        case TEXT_BEFORE:
            if (a >= 32 && !((a & TEXT_LITERAL) != 0 && is_character(a & ~TEXT_LITERAL)))
                return 0;
            break;
        case TEXT_FORK:
            if (a <= at || a >= count || b <= at || b >= count)
                return 0;
            break;
        case TEXT_JUMP:
            if (a <= at || a >= count)
                return 0;
            break;
        case TEXT_DONE:
            break;
        default:
            return 0;
        }
    }
    return 1;
}

static int check_characters(const struct edgept_tokenizer *tokenizer)
{
    uint32_t entry, width = 2 + tokenizer->maps, records, number;

    if (tokenizer->records.count % width != 0 || tokenizer->kinds.count % 128 != 0 ||
        (tokenizer->blocks.count != 0 && tokenizer->blocks.count != BLOCKS))
        return 0;
    records = tokenizer->records.count / width;
    for (entry = 0; entry < tokenizer->blocks.count; entry++)
        if (text_u16(tokenizer->blocks.data + (size_t)entry * 2) >= tokenizer->kinds.count / 128)
            return 0;
    for (entry = 0; entry < tokenizer->kinds.count; entry++)
        if (text_u16(tokenizer->kinds.data + (size_t)entry * 2) >= records)
            return 0;
    for (entry = 0; entry < records; entry++) {
        if (text_entry(tokenizer->records, entry, width, 1) > 255)
            return 0;
        for (number = 2; number < width; number++) {
            uint32_t value = text_entry(tokenizer->records, entry, width, number);

            if (value > 1 && value - 2 >= tokenizer->spans.count)
                return 0;
        }
    }
    return 1;
}

static int check_spans(const struct edgept_tokenizer *tokenizer)
{
    uint32_t entry;

    for (entry = 0; entry < tokenizer->spans.count; entry++) {
        uint32_t offset = text_entry(tokenizer->spans, entry, 2, 0);
        uint32_t size = text_entry(tokenizer->spans, entry, 2, 1);

        /* short ones, so that no step turns a text into gigabytes */
        if (size > TEXT_MAX_SPAN || !spans_text(tokenizer, offset, size) ||
            !is_utf8(text_span_of(tokenizer, offset, size)))
            return 0;
    }
    for (entry = 0; entry < tokenizer->compositions.count; entry++) {
        uint32_t part;

        for (part = 0; part < 3; part++)
            if (!is_character(text_entry(tokenizer->compositions, entry, 3, part)))
                return 0;
    }
    return 1;
}

static int check_templates(struct edgept_tokenizer *tokenizer, struct text_section templates)
{
    uint32_t number, entry;

    if (templates.count < 8 || templates.count % 2 != 0)
        return 0;
    tokenizer->template_entries.data = templates.data + 32;
    tokenizer->template_entries.count = (templates.count - 8) / 2;
    for (number = 0; number < 4; number++) {
        uint32_t begin = text_entry(templates, number, 2, 0);
        uint32_t count = text_entry(templates, number, 2, 1);

        if (begin > tokenizer->template_entries.count ||
            count > tokenizer->template_entries.count - begin)
            return 0;
        tokenizer->templates[number][0] = begin;
        tokenizer->templates[number][1] = count;
    }
    for (entry = 0; entry < tokenizer->template_entries.count; entry++) {
        uint32_t what = text_entry(tokenizer->template_entries, entry, 2, 0);

        if (what < TEXT_NONE - 1 && what >= tokenizer->size)
            return 0;
    }
    return 1;
}

const char *text_check_table(struct edgept_tokenizer *tokenizer, const unsigned char *table,
                             size_t size)
{
    struct text_section settings, text, templates;

    if (size < HEADER_BYTES || memcmp(table, "edgeptTB", 8) != 0)
        return "no tokenizer table";
    if (text_u32(table + 8) != 1)
        return "a version that this library does not know";
    if (text_u32(table + 12) != size)
        return "another size than the header says";
    if (!find_section(table, size, S_SETTINGS, 4, &settings) ||
        !find_section(table, size, S_TEXT, 1, &text) ||
        !find_section(table, size, S_TOKENS, 8, &tokenizer->tokens) ||
        !find_section(table, size, S_FIRST_TOKENS, 8, &tokenizer->first_tokens) ||
        !find_section(table, size, S_KEYS, 12, &tokenizer->keys) ||
        !find_section(table, size, S_KEY_SLOTS, 4, &tokenizer->key_slots) ||
        !find_section(table, size, S_MERGES, 12, &tokenizer->merges) ||
        !find_section(table, size, S_MERGE_SLOTS, 4, &tokenizer->merge_slots) ||
        !find_section(table, size, S_BYTES, 4, &tokenizer->bytes) ||
        !find_section(table, size, S_ADDED, 8, &tokenizer->added) ||
        !find_section(table, size, S_NORMALIZER, 16, &tokenizer->normalizer) ||
        !find_section(table, size, S_PRETOKENIZER, 16, &tokenizer->pretokenizer) ||
        !find_section(table, size, S_PROGRAMS, 16, &tokenizer->programs) ||
        !find_section(table, size, S_BLOCKS, 2, &tokenizer->blocks) ||
        !find_section(table, size, S_KINDS, 2, &tokenizer->kinds) ||
        !find_section(table, size, S_RECORDS, 4, &tokenizer->records) ||
        !find_section(table, size, S_SPANS, 8, &tokenizer->spans) ||
        !find_section(table, size, S_COMPOSITIONS, 12, &tokenizer->compositions) ||
        !find_section(table, size, S_TEMPLATES, 4, &templates))
        return "a section that reaches outside, or of a size that it cannot have";
    tokenizer->text = text.data;
    tokenizer->text_size = text.count;
    if (!check_settings(tokenizer, settings))
        return "settings out of range";
    if (!check_tokens(tokenizer))
        return "tokens out of range";
    if (!check_keys(tokenizer))
        return "keys out of range";
    if (!check_merges(tokenizer))
        return "merges out of range";
    if (!check_ids(tokenizer))
        return "ids out of range";
    if (!check_spans(tokenizer))
        return "texts out of range";
    if (!check_programs(tokenizer))
        return "patterns out of range";
    if (!check_characters(tokenizer))
        return "characters out of range";
    if (!check_steps(tokenizer))
        return "steps out of range";
    if (!check_templates(tokenizer, templates))
        return "templates out of range";
    return NULL;
}
