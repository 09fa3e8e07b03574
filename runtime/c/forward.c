/*
 * forward.c - models that read and do not write: one run over a text, its classes, its vector.
 *
 * Encoders keep no cache, so a prompt's rows are run with each request. In a decoder that classifies they
 * were run once, when the prompt was loaded, and stand in front as keys and values.
 */
#include <math.h>
#include <string.h>

#include "error.h"
#include "session.h"

#define SHORTEST 1e-12 /* a vector below this length is not made longer, as in PyTorch's normalize */

/* The cache's inputs, a prompt's keys and values or nothing; of an encoder the prompt's alone. */
static enum edgept_status add_past(struct edgept_session *session, const struct edgept_prompt *prefix,
                                   struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    size_t columns = prefix == NULL ? 0 : prefix->virtual_tokens;
    size_t bytes = facts->kv_heads * columns * facts->head_dim * edgept_float_bytes(session->bundle);
    int64_t shape[4] = {1, (int64_t)facts->kv_heads, (int64_t)columns, (int64_t)facts->head_dim};
    /* tensors of no values need an address, too */
    char *data = prefix == NULL ? (char *)&session->keep : prefix->kv;
    enum edgept_status status = EDGEPT_OK;
    if (facts->prefix_only) {
        int64_t whole[5] = {(int64_t)facts->layers, 2, shape[1], shape[2], shape[3]};
        return prefix == NULL ? EDGEPT_OK
                              : edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle),
                                                   "prompt_kv", data, edgept_float_type(session->bundle), whole, 5,
                                                   error);
    }
    for (size_t i = 0; facts->has_cache && status == EDGEPT_OK && i < 2 * facts->layers; i++)
        status = edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle),
                                    edgept_cache_name(session->bundle, EDGEPT_PAST, i), data + i * bytes,
                                    edgept_float_type(session->bundle), shape, 4, error);
    return status;
}

/* ids (1, run) and the mask (1, in_front + run) of the session's own buffers, and a prompt's rows. */
static enum edgept_status add_text(struct edgept_session *session, const struct edgept_prompt *table,
                                   size_t run, size_t in_front, struct edgept_error *error)
{
    const struct edgept_graph *graph = edgept_last_graph(session->bundle);
    int64_t ids[2] = {1, (int64_t)run}, mask[2] = {1, (int64_t)(in_front + run)};
    struct edgept_tensors *inputs = &session->inputs;
    enum edgept_status status =
        edgept_tensors_add(inputs, graph, "input_ids", session->ids.data, EDGEPT_INT64, ids, 2, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(inputs, graph, "attention_mask", session->mask.data, EDGEPT_INT64, mask, 2,
                                    error);
    if (status == EDGEPT_OK && graph->takes_types)
        status = edgept_tensors_add(inputs, graph, "token_type_ids", session->types.data, EDGEPT_INT64, ids, 2,
                                    error);
    if (status == EDGEPT_OK && table != NULL) {
        int64_t rows[2] = {(int64_t)table->virtual_tokens, (int64_t)session->bundle->facts.hidden_size};
        status = edgept_tensors_add(inputs, graph, "prompt_embeds", table->rows,
                                    edgept_float_type(session->bundle), rows, 2, error);
    }
    return status;
}

enum edgept_status edgept_forward_add_head(struct edgept_session *session, const struct edgept_prompt *prompt,
                                           struct edgept_error *error)
{
    int64_t classes = (int64_t)prompt->classes, size = (int64_t)session->bundle->facts.head_size;
    const int64_t shapes[EDGEPT_TENSOR_NAMES][2] = {
        [EDGEPT_HEAD_WEIGHT] = {classes, size}, [EDGEPT_HEAD_BIAS] = {classes},
        [EDGEPT_HEAD_DENSE_WEIGHT] = {size, size}, [EDGEPT_HEAD_DENSE_BIAS] = {size},
        [EDGEPT_BOX_WEIGHT] = {4, size}, [EDGEPT_BOX_BIAS] = {4}};
    enum edgept_status status = EDGEPT_OK;
    for (size_t i = EDGEPT_HEAD_WEIGHT; status == EDGEPT_OK && i < EDGEPT_TENSOR_NAMES; i++)
        if (prompt->head[i] != NULL)
            status = edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle),
                                        edgept_tensor_names[i], prompt->head[i],
                                        edgept_float_type(session->bundle), shapes[i], shapes[i][1] == 0 ? 1 : 2,
                                        error);
    return status;
}

/* Fill the session's ids, types and mask; in_front positions are a prompt's keys and values. */
static enum edgept_status fill(struct edgept_session *session, size_t rows, const int64_t *ids,
                               const int64_t *type_ids, size_t count, size_t in_front,
                               struct edgept_error *error)
{
    size_t bytes = (rows + count + in_front) * sizeof(int64_t);
    enum edgept_status status = edgept_session_room(session, &session->ids, bytes, 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->types, bytes, 0, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->mask, bytes, 0, error);
    if (status)
        return status;
    int64_t *run = session->ids.data, *types = session->types.data, *mask = session->mask.data;
    for (size_t i = 0; i < rows + count; i++) {
        run[i] = i < rows ? (int64_t)(session->bundle->facts.vocab_size + i) : ids[i - rows];
        types[i] = i < rows || type_ids == NULL ? 0 : type_ids[i - rows];
    }
    for (size_t i = 0; i < in_front + rows + count; i++)
        mask[i] = 1;
    return EDGEPT_OK;
}

/*
 * Positions up to the last one that matters. Given ids, a decoder of transformers pools the last token
 * that is no pad, and the first one of pads alone; what stands behind it cannot change it.
 */
static size_t positions_run(const struct edgept_facts *facts, const struct edgept_prompt *prompt,
                            const int64_t *ids, size_t count)
{
    size_t last = count;
    if (facts->pad_token_id < 0 || (prompt != NULL && prompt->rows != NULL))
        return count;
    while (last > 0 && ids[last - 1] == facts->pad_token_id)
        last--;
    return last > 0 ? last : 1;
}

static enum edgept_status check_request(const struct edgept_session *session,
                                        const struct edgept_prompt *prompt, const int64_t *ids,
                                        size_t count, struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    size_t virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens;
    enum edgept_status status = edgept_session_check_reads(session, error);
    if (status)
        return status;
    if (facts->task == EDGEPT_GENERATION || facts->task == EDGEPT_SEQ2SEQ)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this is a bundle for %s, which writes. Call edgept_session_generate.",
                           facts->task_name);
    status = edgept_session_check(session, prompt, ids, count, error);
    if (status)
        return status;
    if (virtual_tokens + count == 0 || (count == 0 && prompt->rows == NULL))
        return edgept_fail(error, EDGEPT_USAGE, "", "the request is empty: give token ids.");
    if (facts->head_size != 0 && facts->labels.count == 0 && (prompt == NULL || prompt->classes == 0))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this bundle's model has no head of its own. Ask under a prompt that brings one.");
    return edgept_session_check_length(session, virtual_tokens + count, error);
}

enum edgept_status edgept_forward_check_finite(const float *values, size_t count, struct edgept_error *error)
{
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return edgept_fail(error, EDGEPT_FAILED, "",
                               "the model's output is not finite. The prompt, its head or the graph overflows its "
                               "float type: export the model with a wider precision (fp32).");
    return EDGEPT_OK;
}

/* The run itself, its ids in place. */
static enum edgept_status run(struct edgept_session *session, const struct edgept_prompt *prompt,
                              const struct edgept_prompt *prefix, size_t positions,
                              struct edgept_outputs *found, struct edgept_error *error)
{
    const struct edgept_graph *graph = edgept_last_graph(session->bundle);
    const struct edgept_facts *facts = &session->bundle->facts;
    bool pools = facts->task == EDGEPT_CLASSIFICATION, brings_head = prompt != NULL && prompt->classes != 0;
    bool runs_rows = prompt != NULL && prompt->rows != NULL && prefix == NULL;
    size_t classes = brings_head ? prompt->classes : facts->labels.count;
    found->width = graph->output_width != 0 ? graph->output_width : classes;
    found->rows = pools ? 1 : positions;
    size_t count = found->rows * found->width;
    int64_t pooled[2] = {1, (int64_t)found->width}, all[3] = {1, (int64_t)positions, (int64_t)found->width};
    enum edgept_status status = edgept_session_room(session, &session->raw, count * sizeof(float), 0, error);
    if (status == EDGEPT_OK && graph->output_is_half)
        status = edgept_session_room(session, &session->values, count * sizeof(float), 0, error);
    if (status == EDGEPT_OK)
        status = add_past(session, prefix, error);
    if (status == EDGEPT_OK)
        status = add_text(session, runs_rows ? prompt : NULL, positions,
                          prefix == NULL ? 0 : prefix->virtual_tokens, error);
    if (status == EDGEPT_OK && brings_head)
        status = edgept_forward_add_head(session, prompt, error);
    if (status == EDGEPT_OK)
        status = edgept_tensors_add(&session->outputs, graph, graph->output_name, session->raw.data,
                                    graph->output_is_half ? EDGEPT_HALF : EDGEPT_FLOAT, pools ? pooled : all,
                                    pools ? 2 : 3, error);
    if (status == EDGEPT_OK)
        status = edgept_graph_run(graph, &session->inputs, &session->outputs, error);
    edgept_tensors_cut(&session->inputs, graph, 0);
    edgept_tensors_cut(&session->outputs, graph, 0);
    if (status)
        return status;
    found->values = edgept_session_output(session, count);
    return EDGEPT_OK;
}

enum edgept_status edgept_forward_outputs(struct edgept_session *session, const struct edgept_prompt *prompt,
                                          const int64_t *ids, const int64_t *type_ids, size_t count,
                                          struct edgept_outputs *outputs, struct edgept_error *error)
{
    double started = edgept_now_ms();
    struct edgept_outputs found = {.rows = 0};
    enum edgept_status status = check_request(session, prompt, ids, count, error);
    if (status)
        return status;
    const struct edgept_prompt *prefix = prompt != NULL && prompt->kv != NULL && count > 0 ? prompt : NULL;
    size_t in_front = prefix == NULL ? 0 : prefix->virtual_tokens;
    size_t rows = prompt != NULL && prefix == NULL ? prompt->virtual_tokens : 0;
    size_t run_count = positions_run(&session->bundle->facts, prompt, ids, count);
    status = fill(session, rows, ids, type_ids, run_count, in_front, error);
    found.latency.swap_ms = edgept_now_ms() - started;
    if (status == EDGEPT_OK)
        status = run(session, prompt, prefix, rows + run_count, &found, error);
    if (status)
        return status;
    found.latency.total_ms = edgept_now_ms() - started;
    found.latency.prefill_ms = found.latency.total_ms - found.latency.swap_ms;
    found.latency.virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens;
    found.latency.input_tokens = count;
    *outputs = found;
    return EDGEPT_OK;
}

enum edgept_status edgept_session_outputs(struct edgept_session *session, const struct edgept_prompt *prompt,
                                          const int64_t *ids, const int64_t *type_ids, size_t count,
                                          struct edgept_outputs *outputs, struct edgept_error *error)
{
    struct edgept_outputs found;
    enum edgept_status status = edgept_forward_outputs(session, prompt, ids, type_ids, count, &found, error);
    if (status == EDGEPT_OK)
        status = edgept_forward_check_finite(found.values, found.rows * found.width, error);
    if (status == EDGEPT_OK)
        *outputs = found;
    return status;
}

enum edgept_status edgept_forward_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error)
{
    const struct edgept_bundle *bundle = session->bundle;
    const struct edgept_graph *graph = edgept_last_graph(bundle);
    size_t bytes = bundle->facts.kv_heads * prompt->virtual_tokens * bundle->facts.head_dim * edgept_float_bytes(bundle);
    int64_t shape[4] = {1, (int64_t)bundle->facts.kv_heads, (int64_t)prompt->virtual_tokens,
                        (int64_t)bundle->facts.head_dim};
    enum edgept_status status = fill(session, prompt->virtual_tokens, NULL, NULL, 0, 0, error);
    if (status == EDGEPT_OK)
        status = add_past(session, NULL, error);
    if (status == EDGEPT_OK)
        status = add_text(session, prompt, prompt->virtual_tokens, 0, error);
    for (size_t i = 0; status == EDGEPT_OK && i < 2 * bundle->facts.layers; i++)
        status = edgept_tensors_add(&session->outputs, graph, edgept_cache_name(bundle, EDGEPT_PRESENT, i),
                                    (char *)prompt->kv + i * bytes, edgept_float_type(bundle), shape, 4, error);
    if (status == EDGEPT_OK)
        status = edgept_graph_run(graph, &session->inputs, &session->outputs, error);
    edgept_tensors_cut(&session->inputs, graph, 0);
    edgept_tensors_cut(&session->outputs, graph, 0);
    return status;
}

/* ---- what is made of the outputs ---- */

static const struct edgept_labels *labels_of(const struct edgept_bundle *bundle,
                                             const struct edgept_prompt *prompt)
{
    return prompt != NULL && prompt->classes != 0 ? &prompt->labels : &bundle->facts.labels;
}

const char *edgept_bundle_label(const struct edgept_bundle *bundle, const struct edgept_prompt *prompt,
                                size_t index)
{
    const struct edgept_labels *labels = labels_of(bundle, prompt);
    return index < labels->count ? labels->names[index] : NULL;
}

size_t edgept_forward_softmax(const float *logits, size_t classes, double *probabilities)
{
    size_t best = 0;
    double sum = 0;
    for (size_t i = 1; i < classes; i++)
        if (logits[i] > logits[best])
            best = i;
    for (size_t i = 0; i < classes; i++)
        sum += probabilities[i] = exp((double)logits[i] - (double)logits[best]);
    for (size_t i = 0; i < classes; i++)
        probabilities[i] /= sum;
    return best;
}

static enum edgept_status wrong_task(const struct edgept_session *session, const char *call,
                                     struct edgept_error *error)
{
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "%s on a bundle for %s. Export the model for another task (edgept export --task).", call,
                       session->bundle->facts.task_name);
}

enum edgept_status edgept_session_classify(struct edgept_session *session, const struct edgept_prompt *prompt,
                                           const int64_t *ids, const int64_t *type_ids, size_t count,
                                           struct edgept_classification *classification,
                                           struct edgept_error *error)
{
    struct edgept_outputs found;
    if (session->bundle->facts.task != EDGEPT_CLASSIFICATION)
        return wrong_task(session, "edgept_session_classify", error);
    enum edgept_status status = edgept_session_outputs(session, prompt, ids, type_ids, count, &found, error);
    struct edgept_buffer *weights = &session->sampler.weights; /* no tokens are sampled here */
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, weights, found.width * sizeof(double), 0, error);
    if (status)
        return status;
    double *probabilities = weights->data;
    size_t best = edgept_forward_softmax(found.values, found.width, probabilities);
    *classification = (struct edgept_classification){
        .best = best, .label = edgept_bundle_label(session->bundle, prompt, best), .logits = found.values,
        .probabilities = probabilities, .classes = found.width, .latency = found.latency};
    return EDGEPT_OK;
}

enum edgept_status edgept_session_embed(struct edgept_session *session, const struct edgept_prompt *prompt,
                                        const int64_t *ids, const int64_t *type_ids, size_t count,
                                        struct edgept_outputs *vector, struct edgept_error *error)
{
    struct edgept_outputs found;
    const struct edgept_facts *facts = &session->bundle->facts;
    if (facts->task != EDGEPT_EMBEDDING)
        return wrong_task(session, "edgept_session_embed", error);
    enum edgept_status status = edgept_session_outputs(session, prompt, ids, type_ids, count, &found, error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->sampler.scores, found.width * sizeof(float), 0, error);
    if (status)
        return status;
    float *pooled = session->sampler.scores.data;
    double squares = 0;
    size_t rows = facts->pools_first ? 1 : found.rows;
    memcpy(pooled, found.values, found.width * sizeof *pooled);
    for (size_t row = 1; row < rows; row++)
        for (size_t i = 0; i < found.width; i++)
            pooled[i] += found.values[row * found.width + i];
    for (size_t i = 0; i < found.width; i++) {
        pooled[i] /= (float)rows;
        squares += (double)pooled[i] * (double)pooled[i];
    }
    float length = (float)fmax(sqrt(squares), SHORTEST);
    for (size_t i = 0; facts->normalizes && i < found.width; i++)
        pooled[i] /= length;
    found.values = pooled;
    found.rows = 1;
    *vector = found;
    return EDGEPT_OK;
}
