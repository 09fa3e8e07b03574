/*
 * seq2seq.c - an encoder-decoder: begin an answer, take a step.
 *
 * The encoder runs once a request, with the rows of its prompt, and leaves the keys and values of the
 * decoder's cross-attention. A prefix's keys and values are what the decoder's own cache begins with.
 */
#include "cache.h"
#include "error.h"

/* Run the encoder over the session's `count` ids; its outputs go to `cross`. */
static enum edgept_status run_encoder(struct edgept_session *session, const struct edgept_prompt *table,
                                      size_t count, struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    const struct edgept_graph *encoder = &bundle->graphs[0];
    struct edgept_tensors *inputs = &session->inputs, *outputs = &session->outputs;
    int64_t ids[2] = {1, (int64_t)count};
    int64_t cross[4] = {1, (int64_t)bundle->facts.kv_heads, (int64_t)count, (int64_t)bundle->facts.head_dim};
    size_t bytes = bundle->facts.kv_heads * count * bundle->facts.head_dim * edgept_float_bytes(bundle);
    edgept_cache_drop(session);
    enum edgept_status status =
        edgept_tensors_add(inputs, encoder, "input_ids", session->ids.data, EDGEPT_INT64, ids, 2, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, encoder, "attention_mask", session->source_mask.data,
                                    EDGEPT_INT64, ids, 2, error);
    if (status == EDGEPT_OK && table != NULL) {
        int64_t rows[2] = {(int64_t)table->virtual_tokens, (int64_t)bundle->facts.hidden_size};
        status = edgept_tensors_add(inputs, encoder, "prompt_embeds", table->rows, edgept_float_type(bundle),
                                    rows, 2, error);
    }
    for (size_t i = 0; status == EDGEPT_OK && i < 2 * bundle->facts.layers; i++)
        status = edgept_tensors_add(outputs, encoder, edgept_cache_name(bundle, EDGEPT_CROSS_PRESENT, i),
                                    (char *)session->cross.data + i * bytes, edgept_float_type(bundle), cross,
                                    4, error);
    if (status == EDGEPT_OK)
        status = edgept_graph_run(encoder, inputs, outputs, error);
    edgept_cache_drop(session);
    session->source = count;
    return status;
}

enum edgept_status edgept_seq2seq_step(struct edgept_session *session, int64_t id, const float **logits,
                                       struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    const struct edgept_graph *decoder = edgept_last_graph(bundle);
    struct edgept_tensors *inputs = &session->inputs;
    size_t source = session->source, needed = session->cache.length + 1;
    size_t bytes = bundle->facts.kv_heads * source * bundle->facts.head_dim * edgept_float_bytes(bundle);
    int64_t ids[2] = {1, 1}, mask[2] = {1, (int64_t)source}, scores[3] = {1, 1, (int64_t)decoder->output_width};
    int64_t cross[4] = {1, (int64_t)bundle->facts.kv_heads, (int64_t)source, (int64_t)bundle->facts.head_dim};
    enum edgept_status status = edgept_session_check_length(session, needed, error);
    if (status == EDGEPT_OK && needed > session->cache.capacity)
        status = edgept_cache_reserve(
            session, 2 * needed < bundle->max_length ? 2 * needed : bundle->max_length, error);
    if (status == EDGEPT_OK)
        status = edgept_cache_place(session, 1, error);
    *(int64_t *)session->ids.data = id;
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, decoder, "input_ids", session->ids.data, EDGEPT_INT64, ids, 2, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, decoder, "encoder_attention_mask", session->source_mask.data,
                                    EDGEPT_INT64, mask, 2, error);
    for (size_t i = 0; status == EDGEPT_OK && i < 2 * bundle->facts.layers; i++)
        status = edgept_tensors_add(inputs, decoder, edgept_cache_name(bundle, EDGEPT_CROSS_PAST, i),
                                    (char *)session->cross.data + i * bytes, edgept_float_type(bundle), cross,
                                    4, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(&session->outputs, decoder, "logits", session->raw.data,
                                    decoder->output_is_half ? EDGEPT_HALF : EDGEPT_FLOAT, scores, 3, error);
    if (status == EDGEPT_OK)
        status = edgept_graph_run(decoder, inputs, &session->outputs, error);
    if (status)
        return status;
    edgept_cache_advance(session, 1);
    *logits = edgept_session_output(session, decoder->output_width);
    return EDGEPT_OK;
}

/* Memory for a source and the answer's cache, and the ids of the source. */
static enum edgept_status prepare(struct edgept_session *session, const struct edgept_prompt *rows,
                                  const int64_t *ids, size_t count, struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    size_t in_front = rows == NULL ? 0 : rows->virtual_tokens, source = in_front + count;
    size_t width = edgept_last_graph(bundle)->output_width * sizeof(float);
    size_t cross = 2 * bundle->facts.layers * bundle->facts.kv_heads * source * bundle->facts.head_dim *
                   edgept_float_bytes(bundle);
    enum edgept_status status =
        edgept_session_room(session, &session->ids, source * sizeof(int64_t), 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->source_mask, source * sizeof(int64_t), 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->cross, cross, 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->raw, width, 0, error);
    if (status == EDGEPT_OK && edgept_last_graph(bundle)->output_is_half)
        status = edgept_session_room(session, &session->values, width, 0, error);
    if (status)
        return status;
    int64_t *run = session->ids.data, *mask = session->source_mask.data;
    for (size_t i = 0; i < source; i++) {
        run[i] = i < in_front ? (int64_t)(bundle->facts.vocab_size + i) : ids[i - in_front];
        mask[i] = 1;
    }
    return EDGEPT_OK;
}

enum edgept_status edgept_seq2seq_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                        const int64_t *ids, size_t count, size_t more,
                                        const float **logits, struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    double started = edgept_now_ms();
    const struct edgept_prompt *prefix = prompt != NULL && prompt->kv != NULL ? prompt : NULL;
    const struct edgept_prompt *rows = prefix == NULL ? prompt : NULL;
    size_t source = count + (rows == NULL ? 0 : rows->virtual_tokens);
    size_t columns = prefix == NULL ? 0 : prefix->virtual_tokens;
    if (source == 0)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "the request is empty: give token ids, or a prompt of rows.");
    enum edgept_status status = edgept_session_check_length(session, source, error);
    if (status == EDGEPT_OK) /* a prefix takes positions of the answer, which has a start token */
        status = edgept_session_check_length(session, columns + 1, error);
    if (status)
        return status;
    size_t room = bundle->max_length - columns - 1;
    status = prepare(session, rows, ids, count, error);
    if (status == EDGEPT_OK)
        status = edgept_cache_begin(session, prefix, columns + 1 + (more < room ? more : room), error);
    if (status)
        return status;
    session->swap_ms = edgept_now_ms() - started;
    status = run_encoder(session, rows, source, error);
    if (status)
        return status;
    if (atomic_load(&session->cancelled)) {
        *logits = NULL;
        return EDGEPT_OK;
    }
    return edgept_seq2seq_step(session, bundle->facts.rules.start_token_id, logits, error);
}
