/* Steps that cut a text into words, and the matcher of the patterns that they cut by. */
#include "tokenizer_parts.h"

#include <string.h>

/* Steps that a matcher may take for a text: patterns in use need a few dozen for a byte. */
#define STEPS_PER_BYTE 4096u
#define STEPS_AT_LEAST 1048576u

struct matcher {
    const struct edgept_tokenizer *tokenizer;
    const unsigned char *text;
    size_t end;     /* of the piece that is searched */
    uint64_t steps; /* left */
};

static int holds(const struct matcher *matcher, size_t at, uint32_t class, size_t *size)
{
    if (at >= matcher->end)
        return 0;
    return text_in_class(matcher->tokenizer, text_utf8_read(matcher->text + at, size), class);
}

/*
 * Whether the program from an instruction on matches at a place; *end is then where the match ends.
 * Jumps go forward only, so this calls itself at most as often as there are instructions.
 */
static int match(struct matcher *matcher, uint32_t instruction, size_t at, size_t *end)
{
    struct text_section programs = matcher->tokenizer->programs;

    for (;;) {
        uint32_t operation = text_entry(programs, instruction, 4, 0);
        uint32_t a = text_entry(programs, instruction, 4, 1);
        size_t size = 0, begin = at;
        uint32_t count = 0, least, most;

        if (matcher->steps == 0)
            return 0;
        matcher->steps--;
        switch (operation) {
        case TEXT_CHARACTERS:
        case TEXT_POSSESSIVE:
            least = text_entry(programs, instruction, 4, 2);
            most = text_entry(programs, instruction, 4, 3);
            while (count < most && holds(matcher, at, a, &size)) {
                at += size;
                count++;
            }
            matcher->steps -= matcher->steps < count ? matcher->steps : count;
            if (count < least)
                return 0;
            instruction++;
            if (operation == TEXT_POSSESSIVE || count == least)
                break;
            if (text_entry(programs, instruction, 4, 0) == TEXT_DONE)
                break;
            /* the most first; then give back one at a time */
            for (; count > least; count--) {
                if (match(matcher, instruction, at, end))
                    return 1;
                do
                    at--;
                while (at > begin && (matcher->text[at] & 0xC0) == 0x80);
            }
            break;
        case TEXT_FORK:
            if (match(matcher, a, at, end))
                return 1;
            instruction = text_entry(programs, instruction, 4, 2);
            break;
        case TEXT_JUMP:
            instruction = a;
            break;
        case TEXT_NOT_BEFORE:
            if (holds(matcher, at, a, &size))
                return 0;
            instruction++;
            break;
        case TEXT_BEFORE:
            if (!holds(matcher, at, a, &size))
                return 0;
            instruction++;
            break;
        default:
            *end = at;
            return 1;
        }
    }
}

struct cutter {
    struct text_pieces *out;
    uint32_t behavior, inverted;
    uint32_t first; /* of the piece that is cut */
    size_t begin, from; /* of that piece; how many there were before it */
    int last_matched;
};

/* Add a stretch of a piece, which matched or lies between matches, as the step's behaviour says. */
static enum edgept_text_status cut(struct cutter *cutter, size_t begin, size_t end, int matched)
{
    struct text_pieces *out = cutter->out;
    struct text_piece *last = out->count > cutter->from ? &out->data[out->count - 1] : NULL;
    int joins = 0;

    if (begin == end)
        return EDGEPT_TEXT_OK;
    matched = matched != (int)cutter->inverted;
    if (cutter->behavior == TEXT_WITH_PREVIOUS)
        joins = last != NULL && matched && !cutter->last_matched;
    else if (cutter->behavior == TEXT_WITH_NEXT)
        joins = last != NULL && !matched && cutter->last_matched;
    else if (cutter->behavior == TEXT_CONTIGUOUS)
        joins = last != NULL && matched == cutter->last_matched;
    cutter->last_matched = matched;
    if (cutter->behavior == TEXT_REMOVED && matched)
        return EDGEPT_TEXT_OK;
    if (joins) {
        last->end = (uint32_t)end;
        return EDGEPT_TEXT_OK;
    }
    return text_pieces_add(out, (uint32_t)begin, (uint32_t)end,
                           cutter->first && begin == cutter->begin);
}

static enum edgept_text_status split(struct matcher *matcher, uint32_t program,
                                     struct text_piece piece, struct cutter *cutter)
{
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at = piece.begin, between = piece.begin, end, size;

    cutter->begin = piece.begin;
    cutter->first = piece.first;
    cutter->from = cutter->out->count;
    cutter->last_matched = 0;
    matcher->end = piece.end;
    while (at < piece.end && status == EDGEPT_TEXT_OK) {
        if (match(matcher, program, at, &end) && end > at) {
            status = cut(cutter, between, at, 0);
            if (status == EDGEPT_TEXT_OK)
                status = cut(cutter, at, end, 1);
            at = between = end;
        } else {
            text_utf8_read(matcher->text + at, &size);
            at += size;
        }
        if (matcher->steps == 0)
            status = EDGEPT_TEXT_TOO_LONG;
    }
    return status == EDGEPT_TEXT_OK ? cut(cutter, between, piece.end, 0) : status;
}

/* Write a piece anew, with a prefix or replacements. */
static enum edgept_text_status rewrite(const struct edgept_tokenizer *tokenizer, uint32_t step,
                                       struct text_span text, uint32_t first,
                                       struct text_bytes *out)
{
    uint32_t b = text_entry(tokenizer->pretokenizer, step, 4, 2);
    struct text_span span =
        text_span_at(tokenizer, text_entry(tokenizer->pretokenizer, step, 4, 1));
    enum edgept_text_status status = EDGEPT_TEXT_OK;

    if (text_entry(tokenizer->pretokenizer, step, 4, 0) == TEXT_REPLACE_PIECES)
        return text_replace(text, span, text_span_at(tokenizer, b), out);
    if ((b == 0 || first) &&
        (text.size < span.size || memcmp(text.data, span.data, span.size) != 0))
        status = text_bytes_add(out, span.data, span.size);
    return status == EDGEPT_TEXT_OK ? text_bytes_add(out, text.data, text.size) : status;
}

static enum edgept_text_status rewrite_pieces(const struct edgept_tokenizer *tokenizer,
                                              uint32_t step, const unsigned char *base,
                                              struct text_pieces *pieces, struct text_bytes *out)
{
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t number;

    out->size = 0;
    for (number = 0; number < pieces->count && status == EDGEPT_TEXT_OK; number++) {
        struct text_piece *piece = &pieces->data[number];
        struct text_span text;
        size_t begin = out->size;

        text.data = base + piece->begin;
        text.size = piece->end - piece->begin;
        status = rewrite(tokenizer, step, text, piece->first, out);
        piece->begin = (uint32_t)begin;
        piece->end = (uint32_t)out->size;
    }
    return status;
}

enum edgept_text_status text_split(const struct edgept_tokenizer *tokenizer,
                                   struct edgept_workspace *workspace, struct text_span text,
                                   uint32_t first, const unsigned char **base, int *side)
{
    struct matcher matcher = {tokenizer, text.data, 0, STEPS_AT_LEAST};
    enum edgept_text_status status;
    uint32_t step;
    int buffer = 0;
    size_t number;

    matcher.steps += (uint64_t)text.size * STEPS_PER_BYTE;
    *base = text.data;
    *side = 0;
    workspace->pieces[0].count = 0;
    if (text.size > TEXT_MAX_GROWN)
        return EDGEPT_TEXT_TOO_LONG;
    if (text.size == 0)
        return EDGEPT_TEXT_OK;
    status = text_pieces_add(&workspace->pieces[0], 0, (uint32_t)text.size, first);
    for (step = 0; step < tokenizer->pretokenizer.count && status == EDGEPT_TEXT_OK; step++) {
        struct text_pieces *pieces = &workspace->pieces[*side];
        struct cutter cutter = {&workspace->pieces[!*side], 0, 0, 0, 0, 0, 0};

        if (text_entry(tokenizer->pretokenizer, step, 4, 0) != TEXT_SPLIT) {
            status = rewrite_pieces(tokenizer, step, *base, pieces, &workspace->text[buffer]);
            *base = workspace->text[buffer].data;
            buffer = !buffer;
            continue;
        }
        cutter.behavior = text_entry(tokenizer->pretokenizer, step, 4, 2);
        cutter.inverted = text_entry(tokenizer->pretokenizer, step, 4, 3);
        cutter.out->count = 0;
        matcher.text = *base;
        for (number = 0; number < pieces->count && status == EDGEPT_TEXT_OK; number++)
            status = split(&matcher, text_entry(tokenizer->pretokenizer, step, 4, 1),
                           pieces->data[number], &cutter);
        *side = !*side;
    }
    return status;
}
