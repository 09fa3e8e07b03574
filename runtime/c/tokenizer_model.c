/* The tokens of a word: byte-pair encoding and WordPiece. */
#include "tokenizer_parts.h"

#include <string.h>

/* A symbol of a word is three numbers; merged ones are gone from the list, and have no id. */
enum { ID = 0, PREVIOUS = 1, NEXT = 2, SYMBOL = 3 };

/* The unknown token that waits to be added, and whether one does. */
struct unknown {
    const struct edgept_tokenizer *tokenizer;
    int waits;
};

static enum edgept_text_status add_symbol(struct text_numbers *symbols, uint32_t id)
{
    uint32_t place = (uint32_t)(symbols->count / SYMBOL);
    enum edgept_text_status status = text_numbers_reserve(symbols, symbols->count + SYMBOL);

    if (status != EDGEPT_TEXT_OK)
        return status;
    symbols->data[symbols->count + ID] = id;
    symbols->data[symbols->count + PREVIOUS] = place - 1; /* TEXT_NONE at the front */
    symbols->data[symbols->count + NEXT] = place + 1;
    symbols->count += SYMBOL;
    return EDGEPT_TEXT_OK;
}

static enum edgept_text_status flush_unknown(struct unknown *unknown, struct text_numbers *symbols)
{
    if (!unknown->waits)
        return EDGEPT_TEXT_OK;
    unknown->waits = 0;
    return add_symbol(symbols, unknown->tokenizer->unknown);
}

/* A character as the tokens of its bytes; *done is 0 where one of them has none. */
static enum edgept_text_status add_bytes(const struct edgept_tokenizer *tokenizer,
                                         struct text_numbers *symbols, const unsigned char *data,
                                         size_t size, int *done)
{
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at;

    *done = 0;
    for (at = 0; at < size; at++)
        if (text_entry(tokenizer->bytes, data[at], 1, 0) == TEXT_NONE)
            return EDGEPT_TEXT_OK;
    for (at = 0; at < size && status == EDGEPT_TEXT_OK; at++)
        status = add_symbol(symbols, text_entry(tokenizer->bytes, data[at], 1, 0));
    *done = 1;
    return status;
}

/*
 * A word's first symbols. An unknown character waits for the next known one, since several in a row
 * may be one token; bytes that stand in for one do not end the wait, as in the reference.
 */
static enum edgept_text_status first_symbols(const struct edgept_tokenizer *tokenizer,
                                             const unsigned char *word, size_t size,
                                             struct text_numbers *symbols)
{
    struct unknown unknown = {tokenizer, 0};
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at, bytes = 1;

    symbols->count = 0;
    for (at = 0; at < size && status == EDGEPT_TEXT_OK; at += bytes) {
        uint32_t id;
        int done = 0;

        if ((tokenizer->flags & TEXT_BYTE_SYMBOLS) != 0) {
            id = text_entry(tokenizer->bytes, word[at], 1, 0);
        } else {
            text_utf8_read(word + at, &bytes);
            id = text_find(tokenizer, TEXT_KEY_WORD, word + at, bytes);
        }
        if (id != TEXT_NONE) {
            status = flush_unknown(&unknown, symbols);
            if (status == EDGEPT_TEXT_OK)
                status = add_symbol(symbols, id);
            continue;
        }
        if ((tokenizer->flags & TEXT_BYTE_FALLBACK) != 0)
            status = add_bytes(tokenizer, symbols, word + at, bytes, &done);
        if (done || status != EDGEPT_TEXT_OK || tokenizer->unknown == TEXT_NONE)
            continue; /* without an unknown token, the character is lost */
        if ((tokenizer->flags & TEXT_FUSE_UNKNOWN) == 0)
            status = flush_unknown(&unknown, symbols);
        unknown.waits = 1;
    }
    if (status == EDGEPT_TEXT_OK)
        status = flush_unknown(&unknown, symbols);
    if (status == EDGEPT_TEXT_OK && symbols->count > 0)
        symbols->data[symbols->count - SYMBOL + NEXT] = TEXT_NONE;
    return status;
}

/* ---- a queue of merges, as a heap: rank << 32 | place, the smallest first ------------------------ */

static void sift_down(uint64_t *queue, size_t count, size_t at)
{
    uint64_t moved = queue[at];

    for (;;) {
        size_t child = at * 2 + 1;

        if (child >= count)
            break;
        if (child + 1 < count && queue[child + 1] < queue[child])
            child++;
        if (queue[child] >= moved)
            break;
        queue[at] = queue[child];
        at = child;
    }
    queue[at] = moved;
}

static void sift_up(uint64_t *queue, size_t at)
{
    uint64_t moved = queue[at];

    while (at > 0 && queue[(at - 1) / 2] > moved) {
        queue[at] = queue[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue[at] = moved;
}

/* Merge until nothing merges: n log n for a word of n symbols, since each merge removes one. */
static enum edgept_text_status merge_all(const struct edgept_tokenizer *tokenizer,
                                         struct text_numbers *symbols, struct text_bytes *memory)
{
    size_t count = symbols->count / SYMBOL, queued = 0, at;
    enum edgept_text_status status;
    uint32_t *data = symbols->data;
    uint64_t *queue;

    if (count < 2)
        return EDGEPT_TEXT_OK;
    /* at most one entry for each pair at first, and two for each merge */
    status = text_bytes_reserve(memory, count * 3 * sizeof *queue);
    if (status != EDGEPT_TEXT_OK)
        return status;
    queue = (uint64_t *)(void *)memory->data;
    for (at = 0; at + 1 < count; at++) {
        uint32_t rank =
            text_find_merge(tokenizer, data[at * SYMBOL + ID], data[(at + 1) * SYMBOL + ID]);

        if (rank != TEXT_NONE)
            queue[queued++] = (uint64_t)rank << 32 | at;
    }
    for (at = queued / 2; at-- > 0;)
        sift_down(queue, queued, at);
    while (queued > 0) {
        uint32_t rank = (uint32_t)(queue[0] >> 32), next, previous, found;
        uint32_t *symbol = data + (queue[0] & 0xFFFFFFFF) * SYMBOL;

        at = (size_t)(queue[0] & 0xFFFFFFFF);
        queue[0] = queue[--queued];
        if (queued > 0)
            sift_down(queue, queued, 0);
        next = symbol[NEXT];
        if (symbol[ID] == TEXT_NONE || next == TEXT_NONE ||
            text_find_merge(tokenizer, symbol[ID], data[(size_t)next * SYMBOL + ID]) != rank)
            continue; /* one of the two has merged since */
        symbol[ID] = text_entry(tokenizer->merges, rank, 3, 2);
        data[(size_t)next * SYMBOL + ID] = TEXT_NONE;
        symbol[NEXT] = next = data[(size_t)next * SYMBOL + NEXT];
        previous = symbol[PREVIOUS];
        if (next != TEXT_NONE) {
            data[(size_t)next * SYMBOL + PREVIOUS] = (uint32_t)at;
            found = text_find_merge(tokenizer, symbol[ID], data[(size_t)next * SYMBOL + ID]);
            if (found != TEXT_NONE) {
                queue[queued] = (uint64_t)found << 32 | at;
                sift_up(queue, queued++);
            }
        }
        if (previous != TEXT_NONE) {
            found = text_find_merge(tokenizer, data[(size_t)previous * SYMBOL + ID], symbol[ID]);
            if (found != TEXT_NONE) {
                queue[queued] = (uint64_t)found << 32 | previous;
                sift_up(queue, queued++);
            }
        }
    }
    return EDGEPT_TEXT_OK;
}

static enum edgept_text_status byte_pairs(const struct edgept_tokenizer *tokenizer,
                                          struct edgept_workspace *workspace,
                                          const unsigned char *word, size_t size,
                                          struct text_ids *ids)
{
    struct text_numbers *symbols = &workspace->symbols;
    enum edgept_text_status status;
    size_t at;

    if ((tokenizer->flags & TEXT_WHOLE_WORDS) != 0) {
        uint32_t id = text_find(tokenizer, TEXT_KEY_WORD, word, size);

        if (id != TEXT_NONE)
            return text_ids_add(ids, id);
    }
    status = first_symbols(tokenizer, word, size, symbols);
    if (status == EDGEPT_TEXT_OK)
        status = merge_all(tokenizer, symbols, &workspace->queue);
    for (at = 0; at < symbols->count && status == EDGEPT_TEXT_OK; at += SYMBOL)
        if (symbols->data[at + ID] != TEXT_NONE)
            status = text_ids_add(ids, symbols->data[at + ID]);
    return status;
}

/* The longest token at a place in a word; 0 bytes where there is none. */
static size_t longest_piece(const struct edgept_tokenizer *tokenizer, const unsigned char *word,
                            size_t begin, size_t size, uint32_t *id)
{
    uint32_t kind = begin == 0 ? TEXT_KEY_WORD : TEXT_KEY_CONTINUES;
    uint32_t hash = text_hash_begin(kind);
    size_t at, longest = 0;

    for (at = begin; at < size && at - begin < tokenizer->longest[0]; at++) {
        uint32_t found;

        hash = text_hash_add(hash, word[at]);
        if (at + 1 < size && (word[at + 1] & 0xC0) == 0x80)
            continue; /* inside a character */
        found = text_find_hashed(tokenizer, kind, hash, word + begin, at + 1 - begin);
        if (found != TEXT_NONE) {
            *id = found;
            longest = at + 1 - begin;
        }
    }
    return longest;
}

static enum edgept_text_status word_pieces(const struct edgept_tokenizer *tokenizer,
                                           const unsigned char *word, size_t size,
                                           struct text_ids *ids)
{
    enum edgept_text_status status = EDGEPT_TEXT_OK;
    size_t at, characters = 0, before = ids->count;

    for (at = 0; at < size; at++)
        characters += (word[at] & 0xC0) != 0x80;
    if (characters > tokenizer->max_characters)
        return text_ids_add(ids, tokenizer->unknown);
    for (at = 0; at < size && status == EDGEPT_TEXT_OK;) {
        uint32_t id = 0;
        size_t piece = longest_piece(tokenizer, word, at, size, &id);

        if (piece == 0) {
            ids->count = before; /* the whole word is unknown then */
            return text_ids_add(ids, tokenizer->unknown);
        }
        status = text_ids_add(ids, id);
        at += piece;
    }
    return status;
}

enum edgept_text_status text_word_ids(const struct edgept_tokenizer *tokenizer,
                                      struct edgept_workspace *workspace,
                                      const unsigned char *word, size_t size, struct text_ids *ids)
{
    if (tokenizer->model == TEXT_WORDPIECE)
        return word_pieces(tokenizer, word, size, ids);
    return byte_pairs(tokenizer, workspace, word, size, ids);
}
