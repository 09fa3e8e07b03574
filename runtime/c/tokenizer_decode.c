/*
 * Text of token ids, at once and as they arrive. Both go through one state, so that they agree:
 *
 *     a token's bytes -> run (bytes that form no character yet) -> text -> clean-up -> given out
 */
#include "tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static const unsigned char REPLACEMENT[3] = {0xEF, 0xBF, 0xBD}; /* U+FFFD */

/* transformers' clean_up_tokenization_spaces: one pass per row, in this order. */
static const char *const CLEAN_UP[10][2] = {
    {" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
};

struct edgept_text_stream {
    const struct edgept_tokenizer *tokenizer;
    int skips;               /* special tokens */
    int started;             /* a token has come */
    uint32_t strip;          /* leading characters that may still be dropped */
    struct text_bytes run;   /* bytes of tokens that form no character yet */
    struct text_bytes text;  /* not given out yet */
    struct text_bytes piece; /* given out last */
    struct text_bytes spare; /* a clean-up's other side */
};

/* Add text behind what there is, without the leading characters that decoding drops. */
static enum edgept_text_status add_text(struct edgept_text_stream *stream,
                                        const unsigned char *data, size_t size)
{
    unsigned char dropped[4];
    size_t length = 0;

    if (stream->strip > 0)
        length = text_utf8_write(stream->tokenizer->strip_character, dropped);
    while (stream->strip > 0 && size > 0) {
        if (size < length || memcmp(data, dropped, length) != 0) {
            stream->strip = 0;
            break;
        }
        stream->strip--;
        data += length;
        size -= length;
    }
    return text_bytes_add(&stream->text, data, size);
}

/* Resolve a run of byte tokens: its text, or U+FFFD for each byte where one is invalid. */
static enum edgept_text_status end_run(struct edgept_text_stream *stream)
{
    struct text_bytes *run = &stream->run;
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    int valid = 1, cut;
    size_t at = 0;

    while (valid && at < run->size) {
        int bytes = text_utf8_check(run->data + at, run->size - at, &cut);

        valid = bytes > 0;
        at += valid ? (size_t)bytes : 0;
    }
    if (valid && run->size > 0)
        status = add_text(stream, run->data, run->size);
    for (at = 0; !valid && at < run->size && status == EDGEPT_TEXT_OK; at++)
        status = add_text(stream, REPLACEMENT, sizeof REPLACEMENT);
    if (status == EDGEPT_TEXT_OK)
        run->size = 0;
    return status;
}

/*
 * Turn the bytes there are into text, as far as is certain: a last U+FFFD is not, since it may be the
 * first bytes of a character. At the end of a sequence it is.
 */
static enum edgept_text_status resolve_bytes(struct edgept_text_stream *stream, int ended)
{
    struct text_bytes *run = &stream->run;
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at = 0;

    while (at < run->size && status == EDGEPT_TEXT_OK) {
        const unsigned char *data = run->data + at;
        int cut, bytes = text_utf8_check(data, run->size - at, &cut);
        size_t size = (size_t)(bytes < 0 ? -bytes : bytes);
        int replaced = bytes < 0 || (bytes == 3 && memcmp(data, REPLACEMENT, 3) == 0);

        if (replaced && !ended && at + size == run->size)
            break;
        if (replaced)
            status = add_text(stream, REPLACEMENT, sizeof REPLACEMENT);
        else
            status = add_text(stream, data, size);
        at += size;
    }
    if (status == EDGEPT_TEXT_OK) {
        if (at > 0)
            memmove(run->data, run->data + at, run->size - at);
        run->size -= at;
    }
    return status;
}

/* Add a token; *held says that what there is may not be given out yet. */
static enum edgept_text_status add_token(struct edgept_text_stream *stream, int64_t id, int *held,
                                         int *ignored)
{
    const struct edgept_tokenizer *tokenizer = stream->tokenizer;
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    struct text_section section = tokenizer->tokens;
    struct text_span text;
    uint32_t flags;

    *ignored = 1;
    *held = 0;
    if (id < 0 || id >= (int64_t)tokenizer->size)
        return EDGEPT_TEXT_OK;
    flags = text_entry(tokenizer->tokens, (uint32_t)id, 2, 1) >> 24;
    if ((flags & TEXT_TOKEN_EXISTS) == 0 || (stream->skips && (flags & TEXT_TOKEN_SPECIAL) != 0))
        return EDGEPT_TEXT_OK;
    *ignored = 0;
    *held = (flags & TEXT_TOKEN_HELD) != 0;
    if (!stream->started && tokenizer->first_tokens.count > 0)
        section = tokenizer->first_tokens;
    stream->started = 1;
    text = text_span_of(tokenizer, text_entry(section, (uint32_t)id, 2, 0),
                        text_entry(section, (uint32_t)id, 2, 1) & 0xFFFFFF);
    if (tokenizer->decoder == TEXT_DECODE_BYTES || (flags & TEXT_TOKEN_BYTE) != 0)
        return text_bytes_add(&stream->run, text.data, text.size);
    status = end_run(stream);
    return status == EDGEPT_TEXT_OK ? add_text(stream, text.data, text.size) : status;
}

/* One row of the clean-up, from one side to the other. */
static enum edgept_text_status clean_row(const struct text_bytes *from, size_t size, int row,
                                         struct text_bytes *to)
{
    struct text_span text = {from->data, size}, found, replacement;

    found.data = (const unsigned char *)CLEAN_UP[row][0];
    found.size = strlen(CLEAN_UP[row][0]);
    replacement.data = (const unsigned char *)CLEAN_UP[row][1];
    replacement.size = strlen(CLEAN_UP[row][1]);
    to->size = 0;
    return text_replace(text, found, replacement, to);
}

/* Clean up the first bytes of the text, into the piece. */
static enum edgept_text_status clean_up(struct edgept_text_stream *stream, size_t size)
{
    enum edgept_text_status status = clean_row(&stream->text, size, 0, &stream->spare);
    int row;

    for (row = 1; row < 10 && status == EDGEPT_TEXT_OK; row++) {
        struct text_bytes *from = row % 2 != 0 ? &stream->spare : &stream->piece;
        struct text_bytes *to = row % 2 != 0 ? &stream->piece : &stream->spare;

        status = clean_row(from, from->size, row, to);
    }
    return status; /* the last row, 9, writes the piece */
}

/*
 * Up to where text can be cleaned up now, whatever follows; the rest begins with a space. Every row
 * begins with one. One that reaches over a cut before a space would need the character before the cut
 * to be a space (" ."), an apostrophe (" ' ") or, once " ' t" has become "'t", an n (" n't").
 */
static size_t clean_cut(const unsigned char *text, size_t size)
{
    size_t at;

    for (at = size; at-- > 1;)
        if (text[at] == ' ' && text[at - 1] != ' ' && text[at - 1] != '\'' && text[at - 1] != 'n')
            return at;
    return 0;
}

/* Move text out, as far as it is certain; all of it at the end. */
static enum edgept_text_status give(struct edgept_text_stream *stream, int ended,
                                    const char **piece, size_t *piece_size)
{
    struct text_bytes *text = &stream->text;
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t size = text->size;

    stream->piece.size = 0;
    /* of bytes, what is not certain is still in the run */
    if (!ended && stream->tokenizer->decoder != TEXT_DECODE_BYTES && size >= 3 &&
        memcmp(text->data + size - 3, REPLACEMENT, 3) == 0)
        size -= 3;
    if ((stream->tokenizer->flags & TEXT_CLEAN_UP) == 0) {
        status = text_bytes_add(&stream->piece, text->data, size);
    } else {
        if (!ended)
            size = clean_cut(text->data, size);
        status = clean_up(stream, size);
    }
    if (status == EDGEPT_TEXT_OK)
        status = text_bytes_reserve(&stream->piece, stream->piece.size + 1);
    if (status != EDGEPT_TEXT_OK)
        return status;
    if (size > 0)
        memmove(text->data, text->data + size, text->size - size);
    text->size -= size;
    stream->piece.data[stream->piece.size] = '\0';
    *piece = (const char *)stream->piece.data;
    *piece_size = stream->piece.size;
    return EDGEPT_TEXT_OK;
}

/* Make certain what can be: all bytes, or those that no later one can change. */
static enum edgept_text_status resolve(struct edgept_text_stream *stream, int ended)
{
    if (stream->tokenizer->decoder == TEXT_DECODE_BYTES)
        return resolve_bytes(stream, ended);
    return ended ? end_run(stream) : EDGEPT_TEXT_OK;
}

enum edgept_text_status edgept_text_stream_create(const struct edgept_tokenizer *tokenizer,
                                                  int skip_special_tokens,
                                                  struct edgept_text_stream **stream)
{
    struct edgept_text_stream *created = calloc(1, sizeof *created);

    if (created == NULL)
        return EDGEPT_TEXT_NO_MEMORY;
    created->tokenizer = tokenizer;
    created->skips = skip_special_tokens;
    edgept_text_stream_reset(created);
    *stream = created;
    return EDGEPT_TEXT_OK;
}

void edgept_text_stream_free(struct edgept_text_stream *stream)
{
    if (stream == NULL)
        return;
    free(stream->run.data);
    free(stream->text.data);
    free(stream->piece.data);
    free(stream->spare.data);
    free(stream);
}

void edgept_text_stream_reset(struct edgept_text_stream *stream)
{
    stream->started = 0;
    stream->strip = stream->tokenizer->strip_count;
    stream->run.size = stream->text.size = 0;
}

enum edgept_text_status edgept_text_stream_push(struct edgept_text_stream *stream, int64_t id,
                                                const char **piece, size_t *piece_size)
{
    int held, ignored;
    enum edgept_text_status status = add_token(stream, id, &held, &ignored);

    if (status == EDGEPT_TEXT_OK && !held && !ignored) {
        status = resolve(stream, 0);
        if (status == EDGEPT_TEXT_OK)
            status = give(stream, 0, piece, piece_size);
        return status;
    }
    if (status == EDGEPT_TEXT_OK) {
        *piece = "";
        *piece_size = 0;
    }
    return status;
}

enum edgept_text_status edgept_text_stream_finish(struct edgept_text_stream *stream,
                                                  const char **piece, size_t *piece_size)
{
    enum edgept_text_status status = resolve(stream, 1);

    if (status == EDGEPT_TEXT_OK)
        status = give(stream, 1, piece, piece_size);
    if (status == EDGEPT_TEXT_OK)
        edgept_text_stream_reset(stream);
    return status;
}

enum edgept_text_status edgept_tokenizer_decode(const struct edgept_tokenizer *tokenizer,
                                                struct edgept_workspace *workspace,
                                                const int64_t *ids, size_t count,
                                                int skip_special_tokens, const char **text,
                                                size_t *text_size)
{
    struct edgept_text_stream stream = {0};
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at;
    int held, ignored;

    stream.tokenizer = tokenizer;
    stream.skips = skip_special_tokens;
    edgept_text_stream_reset(&stream);
    stream.run = workspace->decoding[0];
    stream.text = workspace->decoding[1];
    stream.piece = workspace->decoding[2];
    stream.spare = workspace->decoding[3];
    stream.run.size = stream.text.size = 0;
    for (at = 0; at < count && status == EDGEPT_TEXT_OK; at++)
        status = add_token(&stream, ids[at], &held, &ignored);
    if (status == EDGEPT_TEXT_OK)
        status = resolve(&stream, 1);
    if (status == EDGEPT_TEXT_OK)
        status = give(&stream, 1, text, text_size);
    workspace->decoding[0] = stream.run;
    workspace->decoding[1] = stream.text;
    workspace->decoding[2] = stream.piece;
    workspace->decoding[3] = stream.spare;
    return status;
}
