/* decoder.c - a decoder-only graph: begin a sequence, take a step. */
#include "cache.h"
#include "error.h"

/*
 * Fewest tokens of a long text that run at once: fewer cost time in the matrix products, twice as many in
 * attention. The Python runtime cuts texts at the same places, so that its logits are the same bits.
 */
#define CHUNK 128

/* Run `count` of the session's ids, from `first` on, behind what the cache holds. */
static enum edgept_status run(struct edgept_session *session, const struct edgept_prompt *table,
                              size_t first, size_t count, struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    const struct edgept_graph *graph = edgept_last_graph(bundle);
    struct edgept_tensors *inputs = &session->inputs;
    int64_t ids[2] = {1, (int64_t)count}, mask[2] = {1, (int64_t)(session->cache.length + count)}, one = 1;
    int64_t logits[3] = {1, 1, (int64_t)graph->output_width};
    size_t cached = 2 * bundle->facts.layers;
    enum edgept_status status = edgept_cache_place(session, count, error);
    if (status == EDGEPT_OK && session->outputs.count == cached)
        status = edgept_tensors_add(&session->outputs, graph, "logits", session->raw.data,
                                    graph->output_is_half ? EDGEPT_HALF : EDGEPT_FLOAT, logits, 3, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, graph, "input_ids", (int64_t *)session->ids.data + first,
                                    EDGEPT_INT64, ids, 2, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, graph, "attention_mask", session->mask.data, EDGEPT_INT64, mask,
                                    2, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, graph, "logits_to_keep", &session->keep, EDGEPT_INT64, &one, 1,
                                    error);
    if (status == EDGEPT_OK && table != NULL) {
        int64_t rows[2] = {(int64_t)table->virtual_tokens, (int64_t)bundle->facts.hidden_size};
        status = edgept_tensors_add(inputs, graph, "prompt_embeds", table->rows, edgept_float_type(bundle),
                                    rows, 2, error);
    }
    if (status == EDGEPT_OK)
        status = edgept_graph_run(graph, inputs, &session->outputs, error);
    if (inputs->count > cached) /* a shared buffer's tensors stay for the next run */
        edgept_tensors_cut(inputs, graph, cached);
    if (status == EDGEPT_OK)
        edgept_cache_advance(session, count);
    return status;
}

/* Memory beside the cache, for as many tokens as that has room for, some of which run at once. */
static enum edgept_status reserve(struct edgept_session *session, size_t at_once,
                                  struct edgept_error *error)
{
    size_t tokens = session->cache.capacity;
    size_t vocabulary = edgept_last_graph(session->bundle)->output_width;
    size_t had = session->mask.bytes / sizeof(int64_t);
    enum edgept_status status =
        edgept_session_room(session, &session->ids, at_once * sizeof(int64_t), 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->mask, tokens * sizeof(int64_t), 0, error);
    if (status == EDGEPT_OK && session->mask.bytes / sizeof(int64_t) != had)
        for (size_t i = 0; i < session->mask.bytes / sizeof(int64_t); i++)
            ((int64_t *)session->mask.data)[i] = 1; /* one sequence: nothing is padding */
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->raw, vocabulary * sizeof(float), 0, error);
    if (status == EDGEPT_OK && edgept_last_graph(session->bundle)->output_is_half)
        status = edgept_session_room(session, &session->values, vocabulary * sizeof(float), 0, error);
    return status;
}

/* Run the ids in chunks where the cache is extended in place; the session's ids hold all of them. */
static enum edgept_status run_all(struct edgept_session *session, const struct edgept_prompt *table,
                                  size_t count, bool *was_cancelled, struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    bool in_chunks =
        facts->shares_buffer && !facts->depends_on_length && edgept_last_graph(session->bundle)->on_host;
    size_t chunks = in_chunks && count / CHUNK > 1 ? count / CHUNK : 1, done = 0;
    enum edgept_status status = EDGEPT_OK;
    for (size_t i = 0; status == EDGEPT_OK && i < chunks; i++) {
        size_t part = count / chunks + (i < count % chunks);
        if (was_cancelled != NULL && atomic_load(&session->cancelled)) {
            *was_cancelled = true;
            return EDGEPT_OK;
        }
        status = run(session, table, done, part, error);
        done += part;
    }
    return status;
}

enum edgept_status edgept_decoder_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                        const int64_t *ids, size_t count, size_t more,
                                        const float **logits, struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    double started = edgept_now_ms();
    bool was_cancelled = false;
    /* with nothing behind it there is no token to run, so its rows are run instead */
    bool is_prefix = prompt != NULL && prompt->kv != NULL && count > 0;
    bool runs_rows = prompt != NULL && !is_prefix;
    if (runs_rows && prompt->rows == NULL)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "prompt '%s' is keys and values, which need a text behind them. Give a text.",
                           prompt->name);
    size_t virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens, total = virtual_tokens + count;
    if (total == 0)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "the request is empty: give token ids, or a prompt of rows.");
    enum edgept_status status = edgept_session_check_length(session, total, error);
    if (status)
        return status;
    size_t room = bundle->max_length - total, in_front = runs_rows ? virtual_tokens : 0;
    size_t capacity = total + (more < room ? more : room);
    status = edgept_cache_begin(session, is_prefix ? prompt : NULL, capacity, error);
    if (status == EDGEPT_OK)
        status = reserve(session, in_front + count, error);
    if (status)
        return status;
    int64_t *run_ids = session->ids.data;
    for (size_t i = 0; i < in_front; i++)
        run_ids[i] = (int64_t)(bundle->facts.vocab_size + i);
    for (size_t i = 0; i < count; i++)
        run_ids[in_front + i] = ids[i];
    session->swap_ms = edgept_now_ms() - started;
    status = run_all(session, runs_rows ? prompt : NULL, in_front + count, &was_cancelled, error);
    if (status == EDGEPT_OK)
        *logits = was_cancelled ? NULL
                                : edgept_session_output(session, edgept_last_graph(bundle)->output_width);
    return status;
}

enum edgept_status edgept_decoder_step(struct edgept_session *session, int64_t id, const float **logits,
                                       struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    size_t needed = session->cache.length + 1;
    enum edgept_status status = edgept_session_check_length(session, needed, error);
    if (status)
        return status;
    if (needed > session->cache.capacity) { /* twice as many, so that growing is rare */
        size_t wanted = 2 * needed < bundle->max_length ? 2 * needed : bundle->max_length;
        status = edgept_cache_reserve(session, wanted, error);
    }
    if (status == EDGEPT_OK) /* each time: it may have failed behind a cache that grew */
        status = reserve(session, 1, error);
    if (status)
        return status;
    *(int64_t *)session->ids.data = id;
    status = run(session, NULL, 0, 1, error);
    if (status == EDGEPT_OK)
        *logits = edgept_session_output(session, edgept_last_graph(bundle)->output_width);
    return status;
}

enum edgept_status edgept_decoder_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error)
{
    const float *logits;
    enum edgept_status status = edgept_decoder_begin(session, prompt, NULL, 0, 0, &logits, error);
    if (status == EDGEPT_OK)
        edgept_cache_copy(session, prompt->kv);
    return status;
}
