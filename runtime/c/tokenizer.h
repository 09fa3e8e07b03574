/*
 * tokenizer.h - text to token ids and back, by a table that `edgept export` made (internal)
 *
 * The table, tokenizer.bin, is a bundle's tokenizer.json compiled into something that is only looked
 * up in; TABLE.md says how. Its results are those of Hugging Face's tokenizers, id for id. No library
 * of C or C++ was taken: none equals that one on every text, and each is many times larger than this.
 *
 *     struct edgept_tokenizer *tokenizer = NULL;
 *     struct edgept_workspace *workspace = NULL;
 *     struct edgept_tokens tokens;
 *     const char *reason;
 *
 *     if (edgept_tokenizer_load(table, table_size, &tokenizer, &reason) == EDGEPT_TEXT_OK &&
 *         edgept_workspace_create(&workspace) == EDGEPT_TEXT_OK &&
 *         edgept_tokenizer_encode(tokenizer, workspace, "Hello", 5, 1, &tokens) == EDGEPT_TEXT_OK)
 *         use(tokens.ids, tokens.count);
 *     edgept_workspace_free(workspace);
 *     edgept_tokenizer_free(tokenizer);
 *
 * What holds for every function: out-parameters are written on success only (but for `reason`);
 * freeing NULL does nothing; after a failure everything can be used further and freed.
 *
 * Threads: a tokenizer never changes, so any number of threads may use one. A workspace and a stream
 * are for one thread at a time.
 */
#ifndef EDGEPT_TOKENIZER_H
#define EDGEPT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

enum edgept_text_status {
    EDGEPT_TEXT_OK = 0,
    EDGEPT_TEXT_NO_MEMORY, /* an allocation failed */
    EDGEPT_TEXT_MALFORMED, /* the table breaks TABLE.md's rules */
    EDGEPT_TEXT_NOT_UTF8,  /* the text is not UTF-8: a byte that fits nowhere, or a lone surrogate */
    EDGEPT_TEXT_TOO_LONG,  /* a text of more than 256 MiB, or one that takes too many steps to split */
    EDGEPT_TEXT_NO_PAIR    /* the model's tokenizer puts nothing between the two texts of a pair */
};

/* ---- the table --------------------------------------------------------------------------------- */

struct edgept_tokenizer;

/*
 * Check a whole table, so that nothing read from it later can lead outside of it.
 *
 * The bytes stay the caller's and are not copied: keep them, unchanged, until the tokenizer is freed.
 * `reason`, which may be NULL, is set where the table is malformed: what breaks the rules, a text
 * that lives forever.
 */
enum edgept_text_status edgept_tokenizer_load(const void *table, size_t size,
                                              struct edgept_tokenizer **tokenizer,
                                              const char **reason);

void edgept_tokenizer_free(struct edgept_tokenizer *tokenizer);

/* Ids that may have a token run from 0 to this, exclusive. */
size_t edgept_tokenizer_size(const struct edgept_tokenizer *tokenizer);

/* Whether an id's token is a special one, which decoding may leave out: BOS, EOS, padding, ... */
int edgept_tokenizer_is_special(const struct edgept_tokenizer *tokenizer, int64_t id);

/* ---- whole texts ------------------------------------------------------------------------------- */

/* Memory that calls work in and give their results in; it grows to what the longest text needs. */
struct edgept_workspace;

enum edgept_text_status edgept_workspace_create(struct edgept_workspace **workspace);

void edgept_workspace_free(struct edgept_workspace *workspace);

/* Tokens of a text. The arrays are the workspace's, until its next use. */
struct edgept_tokens {
    const int64_t *ids;   /* (count) */
    const int64_t *types; /* (count) which of a pair's texts a token is told to be of: 0 or 1 */
    size_t count;
};

/*
 * Token ids of a text of `size` bytes of UTF-8; zero bytes are characters like any other. Special
 * tokens that are spelled out in it become their ids. With `special_tokens`, what the model expects
 * around a text is put there, too: BOS, [CLS] ... [SEP].
 */
enum edgept_text_status edgept_tokenizer_encode(const struct edgept_tokenizer *tokenizer,
                                                struct edgept_workspace *workspace,
                                                const char *text, size_t size, int special_tokens,
                                                struct edgept_tokens *tokens);

/* The same of two texts in one sequence: a question and its context, a sentence and its hypothesis. */
enum edgept_text_status edgept_tokenizer_encode_pair(const struct edgept_tokenizer *tokenizer,
                                                     struct edgept_workspace *workspace,
                                                     const char *text, size_t size,
                                                     const char *second, size_t second_size,
                                                     int special_tokens,
                                                     struct edgept_tokens *tokens);

/*
 * Text of token ids: UTF-8 of `text_size` bytes and a zero byte behind, the workspace's until its next
 * use. Ids without a token, as those of virtual tokens, have no text. `ids` may not be the workspace's
 * own. Bytes that form no character become U+FFFD.
 */
enum edgept_text_status edgept_tokenizer_decode(const struct edgept_tokenizer *tokenizer,
                                                struct edgept_workspace *workspace,
                                                const int64_t *ids, size_t count,
                                                int skip_special_tokens, const char **text,
                                                size_t *text_size);

/* ---- a text that grows ------------------------------------------------------------------------- */

/*
 * Text of tokens that arrive one by one. The pieces joined are the text that decode gives of them all.
 * A piece holds whole characters: what may be the beginning of one is held back, and so is a run of
 * byte tokens (<0xE2>), since one invalid byte turns the whole run into U+FFFD.
 */
struct edgept_text_stream;

/* The tokenizer must outlive the stream. */
enum edgept_text_status edgept_text_stream_create(const struct edgept_tokenizer *tokenizer,
                                                  int skip_special_tokens,
                                                  struct edgept_text_stream **stream);

void edgept_text_stream_free(struct edgept_text_stream *stream);

/*
 * Take the next id; give the text that is certain now, often none. The piece ends in a zero byte and
 * lives until the stream's next use. No memory is asked for once the longest piece has been seen.
 * After a failure, start over with edgept_text_stream_reset.
 */
enum edgept_text_status edgept_text_stream_push(struct edgept_text_stream *stream, int64_t id,
                                                const char **piece, size_t *piece_size);

/* The text still held back, at the sequence's end. The stream is then as new. */
enum edgept_text_status edgept_text_stream_finish(struct edgept_text_stream *stream,
                                                  const char **piece, size_t *piece_size);

/* Forget everything: the next token is the first of a sequence. */
void edgept_text_stream_reset(struct edgept_text_stream *stream);

#endif
