/*
 * tokenizer_parts.h - what the files of the tokenizer share
 *
 * Code organization:
 *     tokenizer_check.c      a table, checked once
 *     tokenizer_table.c      look-ups in it
 *     tokenizer_bytes.c      UTF-8, and arrays that grow
 *     tokenizer_normalize.c  steps that rewrite a text
 *     tokenizer_split.c      steps that cut a text into words; the matcher of patterns
 *     tokenizer_model.c      the tokens of a word: BPE, WordPiece
 *     tokenizer.c            a text's ids: added tokens, the steps above, templates
 *     tokenizer_decode.c     text of ids, at once and as they arrive
 */
#ifndef EDGEPT_TOKENIZER_PARTS_H
#define EDGEPT_TOKENIZER_PARTS_H

#include "tokenizer.h"

#define TEXT_NONE 0xFFFFFFFFu
#define TEXT_MAX_BYTES ((size_t)1 << 28) /* of a text given */
#define TEXT_MAX_GROWN ((size_t)1 << 31) /* of a text that steps have rewritten */

/* ---- arrays that grow: zeroed is empty ---------------------------------------------------------- */

struct text_bytes {
    unsigned char *data;
    size_t size, capacity;
};

struct text_numbers {
    uint32_t *data;
    size_t count, capacity;
};

struct text_ids {
    int64_t *data;
    size_t count, capacity;
};

/* Room for `count` items in all; EDGEPT_TEXT_NO_MEMORY leaves the array as it is. */
enum edgept_text_status text_bytes_reserve(struct text_bytes *bytes, size_t count);
enum edgept_text_status text_numbers_reserve(struct text_numbers *numbers, size_t count);
enum edgept_text_status text_ids_reserve(struct text_ids *ids, size_t count);

enum edgept_text_status text_bytes_add(struct text_bytes *bytes, const void *data, size_t size);
enum edgept_text_status text_numbers_add(struct text_numbers *numbers, uint32_t number);
enum edgept_text_status text_ids_add(struct text_ids *ids, int64_t id);

/* ---- UTF-8 -------------------------------------------------------------------------------------- */

/*
 * Bytes of the character at the front of size >= 1 bytes, 1 to 4; or minus the number of bytes that
 * one U+FFFD stands for, where they form none. `cut` says that more bytes might complete it.
 */
int text_utf8_check(const unsigned char *text, size_t size, int *cut);

/* The character at the front of valid UTF-8, and its bytes. */
uint32_t text_utf8_read(const unsigned char *text, size_t *size);

/* Write a character's 1 to 4 bytes; return how many. */
size_t text_utf8_write(uint32_t character, unsigned char *text);

/* ---- the table ---------------------------------------------------------------------------------- */

enum { TEXT_BPE = 1, TEXT_WORDPIECE = 2 };
enum { TEXT_BYTE_SYMBOLS = 1, TEXT_WHOLE_WORDS = 2, TEXT_BYTE_FALLBACK = 4, TEXT_FUSE_UNKNOWN = 8,
       TEXT_CLEAN_UP = 16 };
enum { TEXT_DECODE_BYTES = 1, TEXT_DECODE_RUNS = 2, TEXT_DECODE_TEXTS = 3 };
enum { TEXT_TOKEN_EXISTS = 1, TEXT_TOKEN_SPECIAL = 2, TEXT_TOKEN_BYTE = 4, TEXT_TOKEN_HELD = 8 };
enum { TEXT_KEY_WORD = 0, TEXT_KEY_CONTINUES = 1, TEXT_KEY_ADDED = 2, TEXT_KEY_NORMALIZED = 3 };
enum { TEXT_SINGLE_WORD = 1, TEXT_LEFT = 2, TEXT_RIGHT = 4, TEXT_IGNORED = 8 };
enum { TEXT_PREPEND = 1, TEXT_REPLACE = 2, TEXT_MAP = 3, TEXT_REORDER = 4, TEXT_COMPOSE = 5 };
enum { TEXT_SPLIT = 1, TEXT_PREFIX = 2, TEXT_REPLACE_PIECES = 3 };
enum { TEXT_ISOLATED = 0, TEXT_REMOVED = 1, TEXT_WITH_PREVIOUS = 2, TEXT_WITH_NEXT = 3,
       TEXT_CONTIGUOUS = 4 };
enum { TEXT_CHARACTERS = 1, TEXT_POSSESSIVE = 2, TEXT_FORK = 3, TEXT_JUMP = 4, TEXT_NOT_BEFORE = 5,
       TEXT_BEFORE = 6, TEXT_DONE = 7 };
enum { TEXT_MAX_INSTRUCTIONS = 1024, TEXT_MAX_MAPS = 8, TEXT_MAX_SPAN = 255 };

#define TEXT_LITERAL 0x80000000u /* an instruction's character that is no class */

struct text_span {
    const unsigned char *data;
    size_t size;
};

/* Entries of a section, still as the file has them. */
struct text_section {
    const unsigned char *data;
    uint32_t count;
};

struct edgept_tokenizer {
    const unsigned char *text;
    uint32_t text_size;
    struct text_section tokens, first_tokens, keys, key_slots, merges, merge_slots, bytes, added;
    struct text_section normalizer, pretokenizer, programs, blocks, kinds, records, spans;
    struct text_section compositions, template_entries;
    uint32_t templates[4][2]; /* first entry, count */
    uint32_t model, flags, unknown, size, max_characters, decoder, strip_count, strip_character;
    uint32_t longest[3]; /* bytes of a key: of the model, added, normalized */
    uint32_t word_class, space_class, maps, pairs;
    unsigned char added_starts[2][256]; /* whether an added token, or a normalized one, begins so */
};

static inline uint32_t text_u32(const unsigned char *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

static inline uint32_t text_u16(const unsigned char *data)
{
    return (uint32_t)data[0] | (uint32_t)data[1] << 8;
}

/* A number of a section's entry of `width` numbers. */
static inline uint32_t text_entry(struct text_section section, uint32_t entry, uint32_t width,
                                  uint32_t number)
{
    return text_u32(section.data + ((size_t)entry * width + number) * 4);
}

/* Check a table and fill a zeroed tokenizer: NULL, or which part breaks the rules. */
const char *text_check_table(struct edgept_tokenizer *tokenizer, const unsigned char *table,
                             size_t size);

struct text_span text_span_of(const struct edgept_tokenizer *tokenizer, uint32_t offset,
                              uint32_t size);

/* Entry of SPANS. */
struct text_span text_span_at(const struct edgept_tokenizer *tokenizer, uint32_t span);

/* Begin a key's hash; then one text_hash_add for each byte. */
static inline uint32_t text_hash_begin(uint32_t kind)
{
    return 2166136261u + kind * 2654435761u;
}

static inline uint32_t text_hash_add(uint32_t hash, unsigned char byte)
{
    return (hash ^ byte) * 16777619u;
}

/* Value of a key whose hash is known; TEXT_NONE where there is none. */
uint32_t text_find_hashed(const struct edgept_tokenizer *tokenizer, uint32_t kind, uint32_t hash,
                          const unsigned char *data, size_t size);

uint32_t text_find(const struct edgept_tokenizer *tokenizer, uint32_t kind,
                   const unsigned char *data, size_t size);

/* Rank of the merge of two tokens; TEXT_NONE where they do not merge. */
uint32_t text_find_merge(const struct edgept_tokenizer *tokenizer, uint32_t left, uint32_t right);

/* A number of a character's record: 0 classes, 1 combining class, 2 + n map n. */
uint32_t text_property(const struct edgept_tokenizer *tokenizer, uint32_t character,
                       uint32_t number);

/* Whether a character is in a class. */
int text_in_class(const struct edgept_tokenizer *tokenizer, uint32_t character, uint32_t class);

/* What two characters compose to; TEXT_NONE where they do not. */
uint32_t text_compose(const struct edgept_tokenizer *tokenizer, uint32_t first, uint32_t second);

/* ---- the steps of encoding ---------------------------------------------------------------------- */

/* A piece of a text: where it begins and ends, and whether it stands at the text's beginning. */
struct text_piece {
    uint32_t begin, end, first;
};

struct text_pieces {
    struct text_piece *data;
    size_t count, capacity;
};

enum edgept_text_status text_pieces_add(struct text_pieces *pieces, uint32_t begin, uint32_t end,
                                        uint32_t first);

struct edgept_workspace {
    struct text_bytes normalized[2]; /* a step reads one and writes the other */
    struct text_numbers characters;
    struct text_bytes text[2]; /* the same for the steps that cut */
    struct text_pieces pieces[2];
    struct text_numbers symbols; /* a word's: (id, previous, next) */
    struct text_bytes queue;     /* of merges: uint64_t */
    struct text_ids ids, second_ids;
    struct text_ids joined, types;
    struct text_bytes decoding[4];
};

/* Add a text to out, with every occurrence of `found`, which is not empty, replaced. */
enum edgept_text_status text_replace(struct text_span text, struct text_span found,
                                     struct text_span replacement, struct text_bytes *out);

/*
 * Apply NORMALIZER. The result is `text` itself where there is nothing to do, else the workspace's.
 */
enum edgept_text_status text_normalize(const struct edgept_tokenizer *tokenizer,
                                       struct edgept_workspace *workspace, struct text_span text,
                                       struct text_span *result);

/*
 * Apply PRETOKENIZER: the words of a text, as places in *base. Words are in workspace->pieces[*side].
 * `first` says whether the text stands at its input's beginning.
 */
enum edgept_text_status text_split(const struct edgept_tokenizer *tokenizer,
                                   struct edgept_workspace *workspace, struct text_span text,
                                   uint32_t first, const unsigned char **base, int *side);

/* Add a word's tokens to ids. */
enum edgept_text_status text_word_ids(const struct edgept_tokenizer *tokenizer,
                                      struct edgept_workspace *workspace,
                                      const unsigned char *word, size_t size,
                                      struct text_ids *ids);

#endif
