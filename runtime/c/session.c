/* session.c - the memory of a request, and what every request is checked for. */
#include "session.h"

#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "error.h"
#include "half.h"
#include "text.h"

#define ALIGNMENT 64 /* of buffers that a graph reads: a cache line */
#define OTHER_INPUTS 12 /* ids, mask, types, table, a head and so on, beside the cache */

enum edgept_status edgept_session_room(struct edgept_session *session, struct edgept_buffer *buffer,
                                       size_t bytes, size_t kept, struct edgept_error *error)
{
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (buffer->bytes >= bytes)
        return EDGEPT_OK;
    size_t beside = session->bytes - (kept > 0 ? 0 : buffer->bytes); /* what is copied is there twice */
    if (beside > session->bundle->session_bytes || rounded > session->bundle->session_bytes - beside)
        return edgept_fail(error, EDGEPT_NO_MEMORY, "",
                           "the request needs more than the session's limit of %zu bytes. Shorten the text, ask "
                           "for fewer new tokens, or raise session_bytes.",
                           session->bundle->session_bytes);
    if (kept == 0)
        edgept_session_drop(session, buffer);
    void *data = aligned_alloc(ALIGNMENT, rounded);
    if (data == NULL)
        return edgept_no_memory(error, "a request");
    if (kept > 0)
        memcpy(data, buffer->data, kept);
    edgept_session_drop(session, buffer);
    *buffer = (struct edgept_buffer){data, rounded};
    session->bytes += rounded;
    return EDGEPT_OK;
}

void edgept_session_drop(struct edgept_session *session, struct edgept_buffer *buffer)
{
    free(buffer->data);
    session->bytes -= buffer->bytes;
    *buffer = (struct edgept_buffer){NULL, 0};
}

static enum edgept_status make_tensors(struct edgept_tensors *tensors, size_t room, struct edgept_error *error)
{
    tensors->names = calloc(room, sizeof *tensors->names);
    tensors->values = calloc(room, sizeof *tensors->values);
    return tensors->names != NULL && tensors->values != NULL ? EDGEPT_OK : edgept_no_memory(error, "a session");
}

enum edgept_status edgept_session_create(const struct edgept_bundle *bundle, struct edgept_session **out,
                                         struct edgept_error *error)
{
    /* of an encoder-decoder, self-attention and cross-attention */
    size_t layers = bundle->facts.prefix_only ? 0 : bundle->facts.layers;
    size_t room = (bundle->graph_count == 2 ? 4 : 2) * layers + OTHER_INPUTS;
    struct edgept_session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return edgept_no_memory(error, "a session");
    session->bundle = bundle;
    session->keep = 1;
    enum edgept_status status = make_tensors(&session->inputs, room, error);
    if (status == EDGEPT_OK)
        status = make_tensors(&session->outputs, room, error);
    if (status == EDGEPT_OK && bundle->tokenizer != NULL)
        status = edgept_text_begin(session, error);
    if (status)
        edgept_session_free(session);
    else
        *out = session;
    return status;
}

void edgept_session_free(struct edgept_session *session)
{
    if (session == NULL)
        return;
    edgept_cache_drop(session);
    struct edgept_buffer *buffers[] = {
        &session->cache.slabs[0], &session->cache.slabs[1], &session->ids,         &session->types,
        &session->mask,           &session->raw,            &session->values,      &session->tokens,
        &session->cross,          &session->source_mask,    &session->sampler.seen, &session->sampler.scores,
        &session->sampler.weights, &session->sampler.order,  &session->answer.text, &session->pixels,
        &session->seen[0],        &session->seen[1],        &session->seen[2],     &session->found};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        edgept_session_drop(session, buffers[i]);
    edgept_workspace_free(session->workspace);
    edgept_text_stream_free(session->stream);
    free(session->inputs.names);
    free(session->inputs.values);
    free(session->outputs.names);
    free(session->outputs.values);
    free(session);
}

void edgept_session_cancel(struct edgept_session *session)
{
    atomic_store(&session->cancelled, true);
}

enum edgept_status edgept_session_check(const struct edgept_session *session,
                                        const struct edgept_prompt *prompt, const int64_t *ids,
                                        size_t count, struct edgept_error *error)
{
    size_t vocabulary = session->bundle->facts.vocab_size;
    if (prompt != NULL && prompt->bundle != session->bundle)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "prompt '%s' was loaded on another bundle. Load its file on this one.", prompt->name);
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= vocabulary)
            return edgept_fail(error, EDGEPT_USAGE, "",
                               "token id %lld is not in the vocabulary (0 to %zu). Put a prompt in front to use "
                               "virtual tokens.",
                               (long long)ids[i], vocabulary - 1);
    return EDGEPT_OK;
}

enum edgept_status edgept_session_check_reads(const struct edgept_session *session, struct edgept_error *error)
{
    if (session->bundle->facts.task != EDGEPT_SEEING)
        return EDGEPT_OK;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "this is a bundle for %s, which takes pictures and no text. Call edgept_session_see.",
                       session->bundle->facts.task_name);
}

enum edgept_status edgept_session_check_length(const struct edgept_session *session, size_t positions,
                                               struct edgept_error *error)
{
    if (positions <= session->bundle->max_length)
        return EDGEPT_OK;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "the request takes %zu positions, virtual tokens included; the longest sequence here is "
                       "%zu. Shorten the text, or open the bundle with a larger max_length.",
                       positions, session->bundle->max_length);
}

enum edgept_status edgept_session_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error)
{
    return session->bundle->facts.task == EDGEPT_GENERATION
               ? edgept_decoder_keys_and_values(session, prompt, error)
               : edgept_forward_keys_and_values(session, prompt, error);
}

const float *edgept_session_output(const struct edgept_session *session, size_t count)
{
    const uint16_t *halves = session->raw.data;
    float *values = session->values.data;
    if (!edgept_last_graph(session->bundle)->output_is_half)
        return session->raw.data;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = edgept_half_widen(halves[i]);
        memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}
