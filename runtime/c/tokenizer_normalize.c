/* Steps that rewrite a text: replacements, maps of single characters, Unicode's normal forms. */
#include "tokenizer_parts.h"

#include <string.h>

/* Hangul syllables are put together by rule (The Unicode Standard, 3.12). */
enum { SYLLABLES = 0xAC00, LEADS = 0x1100, VOWELS = 0x1161, TAILS = 0x11A7, LEAD_COUNT = 19,
       VOWEL_COUNT = 21, TAIL_COUNT = 28, SYLLABLE_COUNT = LEAD_COUNT * VOWEL_COUNT * TAIL_COUNT };

static enum edgept_text_status add_character(struct text_bytes *bytes, uint32_t character)
{
    enum edgept_text_status status = text_bytes_reserve(bytes, bytes->size + 4);

    if (status == EDGEPT_TEXT_OK)
        bytes->size += text_utf8_write(character, bytes->data + bytes->size);
    return status;
}

static enum edgept_text_status add_syllable(struct text_bytes *bytes, uint32_t syllable)
{
    uint32_t index = syllable - SYLLABLES, tail = index % TAIL_COUNT;
    enum edgept_text_status status =
        add_character(bytes, LEADS + index / (VOWEL_COUNT * TAIL_COUNT));

    if (status == EDGEPT_TEXT_OK)
        status = add_character(bytes, VOWELS + index / TAIL_COUNT % VOWEL_COUNT);
    if (status == EDGEPT_TEXT_OK && tail > 0)
        status = add_character(bytes, TAILS + tail);
    return status;
}

static enum edgept_text_status map(const struct edgept_tokenizer *tokenizer, struct text_span text,
                                   uint32_t number, int hangul, struct text_bytes *out)
{
    enum edgept_text_status status = text_bytes_reserve(out, text.size);
    size_t at, size;

    for (at = 0; at < text.size && status == EDGEPT_TEXT_OK; at += size) {
        uint32_t character = text_utf8_read(text.data + at, &size);
        uint32_t value = text_property(tokenizer, character, 2 + number);

        if (value > 1) {
            struct text_span span = text_span_at(tokenizer, value - 2);

            status = text_bytes_add(out, span.data, span.size);
        } else if (hangul && character - SYLLABLES < SYLLABLE_COUNT) {
            status = add_syllable(out, character);
        } else {
            status = text_bytes_reserve(out, out->size + size + 2);
            if (status != EDGEPT_TEXT_OK)
                break;
            if (value == 1)
                out->data[out->size++] = ' ';
            memcpy(out->data + out->size, text.data + at, size);
            out->size += size;
            if (value == 1)
                out->data[out->size++] = ' ';
        }
    }
    return status;
}

/* Order a run of combining marks by class, marks of one class as they were; counts of all 256. */
static void order(const struct edgept_tokenizer *tokenizer, uint32_t *marks, size_t count,
                  uint32_t *sorted)
{
    size_t places[257] = {0}, at;
    uint32_t class;

    for (at = 0; at < count; at++)
        places[text_property(tokenizer, marks[at], 1) + 1]++;
    for (class = 1; class < 257; class++)
        places[class] += places[class - 1];
    for (at = 0; at < count; at++)
        sorted[places[text_property(tokenizer, marks[at], 1)]++] = marks[at];
    memcpy(marks, sorted, count * sizeof *marks);
}

static enum edgept_text_status reorder(const struct edgept_tokenizer *tokenizer,
                                       struct text_numbers *characters)
{
    size_t count = characters->count, begin = 0, end;
    /* the second half is where runs are sorted into */
    enum edgept_text_status status = text_numbers_reserve(characters, count * 2);

    while (status == EDGEPT_TEXT_OK && begin < count) {
        for (end = begin; end < count; end++)
            if (text_property(tokenizer, characters->data[end], 1) == 0)
                break;
        if (end - begin > 1)
            order(tokenizer, characters->data + begin, end - begin, characters->data + count);
        begin = end + 1;
    }
    return status;
}

static uint32_t compose_pair(const struct edgept_tokenizer *tokenizer, uint32_t first,
                             uint32_t second)
{
    if (first - LEADS < LEAD_COUNT && second - VOWELS < VOWEL_COUNT)
        return SYLLABLES +
               ((first - LEADS) * VOWEL_COUNT + (second - VOWELS)) * (uint32_t)TAIL_COUNT;
    if (first - SYLLABLES < SYLLABLE_COUNT && (first - SYLLABLES) % TAIL_COUNT == 0 &&
        second - TAILS - 1 < TAIL_COUNT - 1)
        return first + (second - TAILS);
    return text_compose(tokenizer, first, second);
}

/* A mark composes with the starter before it unless one of its class or a later one is between. */
static void compose(const struct edgept_tokenizer *tokenizer, struct text_numbers *characters)
{
    size_t at, kept = 0, starter = 0;
    int started = 0;
    uint32_t between = 0; /* class of the last mark kept behind the starter, 0: none */

    for (at = 0; at < characters->count; at++) {
        uint32_t character = characters->data[at];
        uint32_t class = text_property(tokenizer, character, 1), composed = TEXT_NONE;

        if (started && (between == 0 || between < class))
            composed = compose_pair(tokenizer, characters->data[starter], character);
        if (composed != TEXT_NONE) {
            characters->data[starter] = composed;
            continue;
        }
        if (class == 0) {
            starter = kept;
            started = 1;
        }
        between = class;
        characters->data[kept++] = character;
    }
    characters->count = kept;
}

static enum edgept_text_status read_characters(struct text_span text,
                                               struct text_numbers *characters)
{
    enum edgept_text_status status = text_numbers_reserve(characters, text.size);
    size_t at, size;

    characters->count = 0;
    for (at = 0; status == EDGEPT_TEXT_OK && at < text.size; at += size)
        characters->data[characters->count++] = text_utf8_read(text.data + at, &size);
    return status;
}

static enum edgept_text_status write_characters(const struct text_numbers *characters,
                                                struct text_bytes *out)
{
    enum edgept_text_status status = text_bytes_reserve(out, characters->count * 4);
    size_t at;

    for (at = 0; status == EDGEPT_TEXT_OK && at < characters->count; at++)
        out->size += text_utf8_write(characters->data[at], out->data + out->size);
    return status;
}

static int is_ascii(struct text_span text)
{
    size_t at;

    for (at = 0; at < text.size; at++)
        if (text.data[at] >= 0x80)
            return 0;
    return 1;
}

enum edgept_text_status text_replace(struct text_span text, struct text_span found,
                                     struct text_span replacement, struct text_bytes *out)
{
    enum edgept_text_status status = text_bytes_reserve(out, out->size + text.size);
    size_t at = 0;

    while (at < text.size && status == EDGEPT_TEXT_OK) {
        if (text.data[at] == found.data[0] && text.size - at >= found.size &&
            memcmp(text.data + at, found.data, found.size) == 0) {
            status = text_bytes_add(out, replacement.data, replacement.size);
            at += found.size;
        } else {
            status = text_bytes_add(out, text.data + at++, 1);
        }
    }
    return status;
}

enum edgept_text_status text_normalize(const struct edgept_tokenizer *tokenizer,
                                       struct edgept_workspace *workspace, struct text_span text,
                                       struct text_span *result)
{
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    uint32_t step;
    int side = 0;

    for (step = 0; step < tokenizer->normalizer.count && status == EDGEPT_TEXT_OK; step++) {
        uint32_t operation = text_entry(tokenizer->normalizer, step, 4, 0);
        uint32_t a = text_entry(tokenizer->normalizer, step, 4, 1);
        uint32_t b = text_entry(tokenizer->normalizer, step, 4, 2);
        struct text_bytes *out = &workspace->normalized[side];
        struct text_span span;

        if ((operation == TEXT_REORDER || operation == TEXT_COMPOSE) && is_ascii(text))
            continue; /* no marks */
        if (operation == TEXT_PREPEND && text.size == 0)
            continue;
        out->size = 0;
        switch (operation) {
        case TEXT_PREPEND:
            span = text_span_at(tokenizer, a);
            status = text_bytes_add(out, span.data, span.size);
            if (status == EDGEPT_TEXT_OK)
                status = text_bytes_add(out, text.data, text.size);
            break;
        case TEXT_REPLACE:
            status = text_replace(text, text_span_at(tokenizer, a), text_span_at(tokenizer, b),
                                  out);
            break;
        case TEXT_MAP:
            status = map(tokenizer, text, a, b != 0, out);
            break;
        default:
            status = read_characters(text, &workspace->characters);
            if (status == EDGEPT_TEXT_OK && operation == TEXT_REORDER)
                status = reorder(tokenizer, &workspace->characters);
            else if (status == EDGEPT_TEXT_OK)
                compose(tokenizer, &workspace->characters);
            if (status == EDGEPT_TEXT_OK)
                status = write_characters(&workspace->characters, out);
        }
        text.data = out->data;
        text.size = out->size;
        side = !side;
    }
    *result = text;
    return status;
}
