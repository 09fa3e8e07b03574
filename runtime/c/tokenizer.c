/* A text's ids: added tokens are cut out of it, the rest is rewritten, cut into words and looked up. */
#include "tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

/* Entries of a template that stand for ids of the texts. */
#define FIRST_TEXT (TEXT_NONE - 1)
#define SECOND_TEXT TEXT_NONE

/* A search for added tokens in a text; between them lie stretches of text. */
struct search {
    const struct edgept_tokenizer *tokenizer;
    struct text_span text;
    uint32_t kind;  /* added tokens as written, or as normalized */
    size_t at;      /* where the search goes on */
    size_t done;    /* up to where the text has been given out */
    size_t begin, end; /* of the token found; it may begin in what was given out */
    uint32_t id;
};

static int is_space_at(const struct edgept_tokenizer *tokenizer, const unsigned char *text)
{
    size_t size;

    return text_in_class(tokenizer, text_utf8_read(text, &size), tokenizer->space_class);
}

/* The beginning of the character in front of a place. */
static size_t step_back(const unsigned char *text, size_t at)
{
    do
        at--;
    while (at > 0 && (text[at] & 0xC0) == 0x80);
    return at;
}

/* Whether a word's character is next to a token that must be a word of its own. */
static int inside_word(const struct search *search)
{
    const struct edgept_tokenizer *tokenizer = search->tokenizer;
    const unsigned char *text = search->text.data;
    size_t size;

    if (search->begin > 0 &&
        text_in_class(tokenizer, text_utf8_read(text + step_back(text, search->begin), &size),
                      tokenizer->word_class))
        return 1;
    return search->end < search->text.size &&
           text_in_class(tokenizer, text_utf8_read(text + search->end, &size),
                         tokenizer->word_class);
}

/* The longest added token at the place of the search; TEXT_NONE where there is none. */
static uint32_t longest_added(struct search *search)
{
    const struct edgept_tokenizer *tokenizer = search->tokenizer;
    const unsigned char *data = search->text.data + search->at;
    size_t most = search->text.size - search->at, size;
    uint32_t hash = text_hash_begin(search->kind), entry = TEXT_NONE, found;

    if (most > tokenizer->longest[search->kind - 1])
        most = tokenizer->longest[search->kind - 1];
    for (size = 1; size <= most; size++) {
        hash = text_hash_add(hash, data[size - 1]);
        found = text_find_hashed(tokenizer, search->kind, hash, data, size);
        if (found != TEXT_NONE) {
            entry = found;
            search->end = search->at + size;
        }
    }
    return entry;
}

/* Find the next added token; 0 where there is none left. */
static int find_added(struct search *search)
{
    const struct edgept_tokenizer *tokenizer = search->tokenizer;
    const unsigned char *starts = tokenizer->added_starts[search->kind - TEXT_KEY_ADDED];
    const unsigned char *text = search->text.data;

    while (search->at < search->text.size) {
        uint32_t entry, flags;
        size_t size;

        if (!starts[text[search->at]] || (entry = longest_added(search)) == TEXT_NONE) {
            search->at++;
            continue;
        }
        search->begin = search->at;
        search->at = search->end; /* found ones do not overlap, even those that do not count */
        search->id = text_entry(tokenizer->added, entry, 2, 0);
        flags = text_entry(tokenizer->added, entry, 2, 1);
        if ((flags & TEXT_IGNORED) != 0 ||
            ((flags & TEXT_SINGLE_WORD) != 0 && inside_word(search)))
            continue;
        if ((flags & TEXT_LEFT) != 0)
            while (search->begin > 0 &&
                   is_space_at(tokenizer, text + step_back(text, search->begin)))
                search->begin = step_back(text, search->begin);
        if ((flags & TEXT_RIGHT) != 0)
            while (search->end < search->text.size &&
                   is_space_at(tokenizer, text + search->end)) {
                text_utf8_read(text + search->end, &size);
                search->end += size;
            }
        return 1;
    }
    return 0;
}

/* Ids of a stretch of normalized text without added tokens. */
static enum edgept_text_status encode_words(const struct edgept_tokenizer *tokenizer,
                                            struct edgept_workspace *workspace,
                                            struct text_span text, uint32_t first,
                                            struct text_ids *ids)
{
    const unsigned char *base;
    enum edgept_text_status status;
    size_t number;
    int side;

    status = text_split(tokenizer, workspace, text, first, &base, &side);
    for (number = 0; status == EDGEPT_TEXT_OK && number < workspace->pieces[side].count; number++) {
        struct text_piece piece = workspace->pieces[side].data[number];

        status = text_word_ids(tokenizer, workspace, base + piece.begin, piece.end - piece.begin,
                               ids);
    }
    return status;
}

static enum edgept_text_status encode_stretch(const struct edgept_tokenizer *tokenizer,
                                              struct edgept_workspace *workspace,
                                              struct text_span text, uint32_t kind, uint32_t first,
                                              struct text_ids *ids);

/* Ids of a stretch of text, as written or normalized, up to where an added token begins. */
static enum edgept_text_status encode_between(struct search *search,
                                              struct edgept_workspace *workspace, size_t end,
                                              uint32_t first, struct text_ids *ids)
{
    struct text_span text;

    if (search->done >= end)
        return EDGEPT_TEXT_OK;
    text.data = search->text.data + search->done;
    text.size = end - search->done;
    first = first && search->done == 0;
    if (search->kind == TEXT_KEY_ADDED) {
        struct text_span normalized;
        enum edgept_text_status status =
            text_normalize(search->tokenizer, workspace, text, &normalized);

        if (status != EDGEPT_TEXT_OK)
            return status;
        return encode_stretch(search->tokenizer, workspace, normalized, TEXT_KEY_NORMALIZED, first,
                              ids);
    }
    return encode_words(search->tokenizer, workspace, text, first, ids);
}

/* Ids of a text in which the added tokens of a kind are looked for. */
static enum edgept_text_status encode_stretch(const struct edgept_tokenizer *tokenizer,
                                              struct edgept_workspace *workspace,
                                              struct text_span text, uint32_t kind, uint32_t first,
                                              struct text_ids *ids)
{
    struct search search = {tokenizer, text, kind, 0, 0, 0, 0, 0};
    enum edgept_text_status status = EDGEPT_TEXT_OK;

    while (status == EDGEPT_TEXT_OK && find_added(&search)) {
        status = encode_between(&search, workspace, search.begin, first, ids);
        if (status == EDGEPT_TEXT_OK)
            status = text_ids_add(ids, search.id);
        search.done = search.end;
    }
    if (status == EDGEPT_TEXT_OK)
        status = encode_between(&search, workspace, text.size, first, ids);
    return status;
}

static enum edgept_text_status check_text(const char *text, size_t size)
{
    const unsigned char *data = (const unsigned char *)text;
    size_t at = 0;
    int cut;

    if (size > TEXT_MAX_BYTES)
        return EDGEPT_TEXT_TOO_LONG;
    while (at < size) {
        int bytes = text_utf8_check(data + at, size - at, &cut);

        if (bytes < 0)
            return EDGEPT_TEXT_NOT_UTF8;
        at += (size_t)bytes;
    }
    return EDGEPT_TEXT_OK;
}

static enum edgept_text_status encode_text(const struct edgept_tokenizer *tokenizer,
                                           struct edgept_workspace *workspace, const char *text,
                                           size_t size, struct text_ids *ids)
{
    enum edgept_text_status status = check_text(text, size);
    struct text_span span;

    ids->count = 0;
    span.data = (const unsigned char *)text;
    span.size = size;
    if (status == EDGEPT_TEXT_OK && size > 0)
        status = encode_stretch(tokenizer, workspace, span, TEXT_KEY_ADDED, 1, ids);
    return status;
}

/* Put a text's ids, or a pair's, and the special tokens around them together. */
static enum edgept_text_status fill_template(const struct edgept_tokenizer *tokenizer,
                                             struct edgept_workspace *workspace, int number,
                                             struct edgept_tokens *tokens)
{
    struct text_ids *joined = &workspace->joined, *types = &workspace->types;
    uint32_t entry = tokenizer->templates[number][0];
    uint32_t end = entry + tokenizer->templates[number][1];
    /* never NULL, so that callers may copy no ids at all */
    enum edgept_text_status status = text_ids_reserve(joined, 1);

    if (status == EDGEPT_TEXT_OK)
        status = text_ids_reserve(types, 1);
    joined->count = types->count = 0;
    for (; entry < end && status == EDGEPT_TEXT_OK; entry++) {
        uint32_t what = text_entry(tokenizer->template_entries, entry, 2, 0);
        uint32_t type = text_entry(tokenizer->template_entries, entry, 2, 1);
        int64_t special = what;
        const int64_t *ids = &special;
        size_t count = 1, at;

        if (what == FIRST_TEXT || what == SECOND_TEXT) {
            const struct text_ids *text =
                what == FIRST_TEXT ? &workspace->ids : &workspace->second_ids;

            ids = text->data;
            count = text->count;
        }
        status = text_ids_reserve(joined, joined->count + count);
        if (status == EDGEPT_TEXT_OK)
            status = text_ids_reserve(types, types->count + count);
        for (at = 0; at < count && status == EDGEPT_TEXT_OK; at++) {
            joined->data[joined->count++] = ids[at];
            types->data[types->count++] = type;
        }
    }
    if (status == EDGEPT_TEXT_OK) {
        tokens->ids = joined->data;
        tokens->types = types->data;
        tokens->count = joined->count;
    }
    return status;
}

enum edgept_text_status edgept_tokenizer_encode(const struct edgept_tokenizer *tokenizer,
                                                struct edgept_workspace *workspace,
                                                const char *text, size_t size, int special_tokens,
                                                struct edgept_tokens *tokens)
{
    enum edgept_text_status status =
        encode_text(tokenizer, workspace, text, size, &workspace->ids);

    workspace->second_ids.count = 0;
    if (status == EDGEPT_TEXT_OK)
        status = fill_template(tokenizer, workspace, special_tokens ? 0 : 2, tokens);
    return status;
}

enum edgept_text_status edgept_tokenizer_encode_pair(const struct edgept_tokenizer *tokenizer,
                                                     struct edgept_workspace *workspace,
                                                     const char *text, size_t size,
                                                     const char *second, size_t second_size,
                                                     int special_tokens,
                                                     struct edgept_tokens *tokens)
{
    enum edgept_text_status status;

    if (tokenizer->pairs == 0)
        return EDGEPT_TEXT_NO_PAIR;
    status = encode_text(tokenizer, workspace, text, size, &workspace->ids);
    if (status == EDGEPT_TEXT_OK)
        status = encode_text(tokenizer, workspace, second, second_size, &workspace->second_ids);
    if (status == EDGEPT_TEXT_OK)
        status = fill_template(tokenizer, workspace, special_tokens ? 1 : 3, tokens);
    return status;
}

enum edgept_text_status edgept_workspace_create(struct edgept_workspace **workspace)
{
    struct edgept_workspace *created = calloc(1, sizeof *created);

    if (created == NULL)
        return EDGEPT_TEXT_NO_MEMORY;
    *workspace = created;
    return EDGEPT_TEXT_OK;
}

void edgept_workspace_free(struct edgept_workspace *workspace)
{
    int side;

    if (workspace == NULL)
        return;
    for (side = 0; side < 2; side++) {
        free(workspace->normalized[side].data);
        free(workspace->text[side].data);
        free(workspace->pieces[side].data);
    }
    free(workspace->characters.data);
    free(workspace->symbols.data);
    free(workspace->queue.data);
    free(workspace->ids.data);
    free(workspace->second_ids.data);
    free(workspace->joined.data);
    free(workspace->types.data);
    for (side = 0; side < 4; side++)
        free(workspace->decoding[side].data);
    free(workspace);
}
