/*
 * effect.c - whether a prompt reaches the model's output at all.
 *
 * As in the Python runtime (effect.py): a token, or a grey picture, is run behind the prompt's largest virtual token, and behind
 * its negative. The number of positions is the same, so the values alone can make the difference. The first
 * prompt of each kind is enough: what takes one prompt's values takes those of others.
 */
#include "effect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "half.h"
#include "session.h"

enum { ROWS = 1, KEYS_AND_VALUES = 2 }; /* kinds, bits of a bundle's `effective` */

/* A prompt's values as blocks of (virtual tokens, width): rows are one a table, keys and values one a head. */
struct values {
    const char *data;
    size_t blocks, tokens, width, bytes; /* bytes: of a value */
};

static struct values values_of(const struct edgept_prompt *prompt)
{
    const struct edgept_facts *facts = &prompt->bundle->facts;
    size_t bytes = edgept_float_bytes(prompt->bundle), tokens = prompt->virtual_tokens;
    if (prompt->rows != NULL)
        return (struct values){prompt->rows, prompt->tables, tokens, facts->hidden_size, bytes};
    return (struct values){prompt->kv, 2 * facts->layers * facts->kv_heads, tokens, facts->head_dim, bytes};
}

/* The virtual token with the largest value; false where all are 0. */
static bool find_largest(const struct values *values, size_t *largest)
{
    float most = 0;
    for (size_t i = 0; i < values->blocks * values->tokens * values->width; i++) {
        float value;
        if (values->bytes == 2) {
            uint32_t bits = edgept_half_widen(((const uint16_t *)(const void *)values->data)[i]);
            memcpy(&value, &bits, sizeof value);
        } else {
            memcpy(&value, values->data + i * sizeof value, sizeof value);
        }
        if (fabsf(value) > most) {
            most = fabsf(value);
            *largest = i / values->width % values->tokens;
        }
    }
    return most > 0;
}

/* One virtual token's values, (blocks, 1, width). */
static void take(const struct values *values, size_t token, char *into)
{
    size_t size = values->width * values->bytes;
    for (size_t i = 0; i < values->blocks; i++)
        memcpy(into + i * size, values->data + (i * values->tokens + token) * size, size);
}

/* Change the sign of each value: its highest bit. */
static void negate(char *data, size_t count, size_t bytes)
{
    for (size_t i = 0; i < count; i++) /* of little-endian numbers */
        data[(i + 1) * bytes - 1] ^= (char)0x80;
}

/* What the graph gives at the text's one token, or for a grey picture: `width` values of the session's. */
static enum edgept_status probe(struct edgept_session *session, const struct edgept_prompt *prompt,
                                const float **values, size_t *width, struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    const int64_t id = (int64_t)(facts->vocab_size / 2);
    struct edgept_outputs found;
    enum edgept_status status;
    if (facts->task == EDGEPT_SEEING)
        return edgept_see_grey(session, prompt, values, width, error);
    *width = edgept_last_graph(session->bundle)->output_width;
    if (facts->task == EDGEPT_GENERATION)
        return edgept_decoder_begin(session, prompt, &id, 1, 0, values, error);
    if (facts->task == EDGEPT_SEQ2SEQ)
        return edgept_seq2seq_begin(session, prompt, &id, 1, 0, values, error);
    status = edgept_forward_outputs(session, prompt, &id, NULL, 1, &found, error);
    if (status == EDGEPT_OK) {
        *width = found.width;
        *values = found.values + (found.rows - 1) * found.width;
    }
    return status;
}

/* Run both, with memory for one virtual token and for the first one's outputs. */
static enum edgept_status compare(struct edgept_bundle *bundle, struct edgept_session *session,
                                  struct edgept_prompt *one, char *data, size_t count, bool *differ,
                                  struct edgept_error *error)
{
    const float *found = NULL;
    size_t width = 0;
    one->number = atomic_fetch_add(&bundle->prompts, 1) + 1; /* not those in the cache */
    enum edgept_status status = probe(session, one, &found, &width, error);
    if (status)
        return status;
    float *under = malloc(width * sizeof *under);
    if (under == NULL)
        return edgept_no_memory(error, "a prompt");
    memcpy(under, found, width * sizeof *under);
    negate(data, count, edgept_float_bytes(bundle));
    one->number = atomic_fetch_add(&bundle->prompts, 1) + 1;
    status = probe(session, one, &found, &width, error);
    for (size_t i = 0; status == EDGEPT_OK && i < width && !*differ; i++)
        *differ = under[i] != found[i];
    free(under);
    return status;
}

enum edgept_status edgept_effect_check(struct edgept_bundle *bundle, const struct edgept_prompt *prompt,
                                       struct edgept_error *error)
{
    unsigned int kind = prompt->rows != NULL ? ROWS : KEYS_AND_VALUES;
    struct edgept_session *session = NULL;
    size_t largest = 0;
    bool differ = false;
    if (prompt->virtual_tokens == 0 || (atomic_load(&bundle->effective) & kind) != 0)
        return EDGEPT_OK;
    struct values values = values_of(prompt);
    if (!find_largest(&values, &largest))
        return EDGEPT_OK; /* zeros show nothing, and prove nothing */
    size_t count = values.blocks * values.width;
    char *data = malloc(count * values.bytes);
    if (data == NULL)
        return edgept_no_memory(error, "a prompt");
    take(&values, largest, data);
    struct edgept_prompt one = *prompt;
    one.virtual_tokens = 1;
    one.rows = kind == ROWS ? data : NULL; /* rows are run, not copied as keys and values */
    one.kv = kind == ROWS ? NULL : data;
    enum edgept_status status = edgept_session_create(bundle, &session, error);
    if (status == EDGEPT_OK)
        status = compare(bundle, session, &one, data, count, &differ, error);
    edgept_session_free(session);
    free(data);
    if (status)
        return status;
    if (!differ)
        return edgept_fail(error, EDGEPT_INCOMPATIBLE, "",
                           "prompt '%s' changes nothing: this bundle gives the same output behind a virtual token and "
                           "behind its negative. Export the model again, and run the graph as it was exported.",
                           prompt->name);
    atomic_fetch_or(&bundle->effective, kind);
    return EDGEPT_OK;
}
