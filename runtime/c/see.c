/*
 * see.c - image models: one run over a picture; sight.c reads what comes out.
 *
 * Positions are the picture's own, the prompt's virtual tokens, and the patches row by row.
 */
#include <string.h>

#include "error.h"
#include "half.h"
#include "session.h"

enum output { LOGITS, BOXES, FEATURES }; /* places in a session's `seen` */

static size_t pixel_count(const struct edgept_image *image)
{
    return 3 * image->height * image->width;
}

/* The picture as the graph takes it: the program's own memory, which is only read, or float16. */
static enum edgept_status add_picture(struct edgept_session *session, const float *pixels,
                                      struct edgept_error *error)
{
    const struct edgept_image *image = &session->bundle->facts.image;
    bool is_half = session->bundle->facts.is_half;
    int64_t shape[4] = {1, 3, (int64_t)image->height, (int64_t)image->width};
    void *data = (void *)pixels;
    if (is_half) {
        enum edgept_status status = edgept_session_room(
            session, &session->pixels, pixel_count(image) * edgept_float_bytes(session->bundle), 0, error);
        if (status)
            return status;
        data = session->pixels.data;
        edgept_half_store(data, pixels, pixel_count(image), true);
    }
    return edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle), "pixel_values", data,
                              edgept_float_type(session->bundle), shape, 4, error);
}

static enum edgept_status add_prompt(struct edgept_session *session, const struct edgept_sight *sight,
                                     struct edgept_error *error)
{
    const struct edgept_prompt *prompt = sight->prompt;
    enum edgept_status status = EDGEPT_OK;
    if (prompt != NULL && prompt->rows != NULL) {
        /* the second is pictures: one table for all */
        int64_t shape[4] = {(int64_t)prompt->tables, 1, (int64_t)prompt->virtual_tokens,
                            (int64_t)session->bundle->facts.hidden_size};
        status = edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle), "prompt_embeds",
                                    prompt->rows, edgept_float_type(session->bundle), shape, 4, error);
    }
    if (status == EDGEPT_OK && prompt != NULL && prompt->classes != 0 && sight->task != EDGEPT_IMAGE_FEATURES)
        status = edgept_forward_add_head(session, prompt, error);
    return status;
}

/* Memory for an output, (1, positions, width); float16 goes to its upper half. */
static enum edgept_status add_output(struct edgept_session *session, enum output output, size_t positions,
                                     size_t width, struct edgept_error *error)
{
    static const char *const names[] = {"logits", "boxes", "features"};
    const struct edgept_graph *graph = edgept_last_graph(session->bundle);
    struct edgept_buffer *buffer = &session->seen[output];
    size_t count = positions * width;
    int64_t shape[3] = {1, (int64_t)positions, (int64_t)width};
    enum edgept_status status = edgept_session_room(session, buffer, count * sizeof(float), 0, error);
    if (status)
        return status;
    char *data = (char *)buffer->data + (graph->output_is_half ? count * sizeof(uint16_t) : 0);
    return edgept_tensors_add(&session->outputs, graph, names[output], data,
                              graph->output_is_half ? EDGEPT_HALF : EDGEPT_FLOAT, shape, 3, error);
}

/* An output as float32: widening from the front never reaches a float16 that is not read yet. */
static const float *take_output(struct edgept_session *session, enum output output, size_t count)
{
    float *values = session->seen[output].data;
    const char *halves = (const char *)(values) + count * sizeof(uint16_t);
    for (size_t i = 0; edgept_last_graph(session->bundle)->output_is_half && i < count; i++) {
        uint16_t half;
        memcpy(&half, halves + i * sizeof half, sizeof half);
        uint32_t bits = edgept_half_widen(half);
        memcpy(&values[i], &bits, sizeof bits);
    }
    return values;
}

/* Run once, for what a sight has to hold: boxes where things are detected, features where wanted. */
static enum edgept_status run(struct edgept_session *session, const float *pixels, enum edgept_features features,
                              struct edgept_sight *sight, struct edgept_error *error)
{
    bool detects = sight->task == EDGEPT_OBJECT_DETECTION;
    bool has_features = sight->task == EDGEPT_IMAGE_FEATURES || features == EDGEPT_WITH_FEATURES;
    const size_t widths[] = {
        [LOGITS] = sight->classes, [BOXES] = detects ? 4 : 0, [FEATURES] = has_features ? sight->feature_width : 0};
    const float **const into[] = {&sight->logits, &sight->boxes, &sight->features};
    enum edgept_status status = add_picture(session, pixels, error);
    if (status == EDGEPT_OK)
        status = add_prompt(session, sight, error);
    for (enum output i = LOGITS; status == EDGEPT_OK && i <= FEATURES; i++)
        if (widths[i] != 0)
            status = add_output(session, i, sight->positions, widths[i], error);
    if (status == EDGEPT_OK)
        status = edgept_graph_run(edgept_last_graph(session->bundle), &session->inputs, &session->outputs, error);
    edgept_tensors_cut(&session->inputs, edgept_last_graph(session->bundle), 0);
    edgept_tensors_cut(&session->outputs, edgept_last_graph(session->bundle), 0);
    for (enum output i = LOGITS; status == EDGEPT_OK && i <= FEATURES; i++)
        if (widths[i] != 0)
            *into[i] = take_output(session, i, sight->positions * widths[i]);
    return status;
}

/* What a sight under a prompt will be, before the run. */
static struct edgept_sight begin(const struct edgept_bundle *bundle, const struct edgept_prompt *prompt,
                                 enum edgept_features features)
{
    const struct edgept_facts *facts = &bundle->facts;
    size_t virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens;
    size_t patches = facts->image.rows * facts->image.columns;
    struct edgept_sight sight = {.prompt = prompt,
                                 .positions = 1 + virtual_tokens + patches,
                                 .count = 1,
                                 .feature_width = facts->head_size,
                                 .task = EDGEPT_IMAGE_FEATURES};
    if (features != EDGEPT_FEATURES_ALONE) {
        sight.classes = prompt != NULL && prompt->classes != 0 ? prompt->classes : facts->labels.count;
        sight.task = prompt != NULL       ? prompt->image_task
                     : sight.classes != 0 ? EDGEPT_IMAGE_CLASSIFICATION
                                          : EDGEPT_IMAGE_FEATURES;
    }
    if (sight.task == EDGEPT_OBJECT_DETECTION && !facts->image.patches_detect) {
        sight.first = 1;
        sight.count = virtual_tokens;
    } else if (sight.task == EDGEPT_OBJECT_DETECTION || sight.task == EDGEPT_IMAGE_SEGMENTATION) {
        sight.first = 1 + virtual_tokens;
        sight.count = patches;
    }
    sight.latency.virtual_tokens = virtual_tokens;
    sight.latency.input_tokens = patches;
    return sight;
}

static enum edgept_status check_request(const struct edgept_session *session, const struct edgept_prompt *prompt,
                                        enum edgept_features features, struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    if (facts->task != EDGEPT_SEEING)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this is a bundle for %s, which takes text and no picture. Export an image model.",
                           facts->task_name);
    if (prompt == NULL && facts->image.patches_detect && features != EDGEPT_FEATURES_ALONE)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "nothing says what this model looks for: it has no head of its own. Ask under a prompt "
                           "that brings one.");
    return edgept_session_check(session, prompt, NULL, 0, error);
}

enum edgept_status edgept_session_see(struct edgept_session *session, const struct edgept_prompt *prompt,
                                      const float *pixels, enum edgept_features features,
                                      struct edgept_sight *sight, struct edgept_error *error)
{
    double started = edgept_now_ms();
    enum edgept_status status = check_request(session, prompt, features, error);
    if (status)
        return status;
    struct edgept_sight found = begin(session->bundle, prompt, features);
    found.latency.swap_ms = edgept_now_ms() - started;
    status = run(session, pixels, features, &found, error);
    if (status == EDGEPT_OK && found.logits != NULL)
        status = edgept_forward_check_finite(found.logits, found.positions * found.classes, error);
    if (status == EDGEPT_OK && found.boxes != NULL)
        status = edgept_forward_check_finite(found.boxes, found.positions * 4, error);
    if (status == EDGEPT_OK && found.features != NULL)
        status = edgept_forward_check_finite(found.features, found.positions * found.feature_width, error);
    if (status)
        return status;
    found.latency.total_ms = edgept_now_ms() - started;
    found.latency.prefill_ms = found.latency.total_ms - found.latency.swap_ms;
    *sight = found;
    return EDGEPT_OK;
}

enum edgept_status edgept_see_grey(struct edgept_session *session, const struct edgept_prompt *prompt,
                                   const float **values, size_t *width, struct edgept_error *error)
{
    size_t bytes = pixel_count(&session->bundle->facts.image) * sizeof(float);
    /* the head's part of the output says nothing of the rows */
    struct edgept_sight sight = begin(session->bundle, prompt, EDGEPT_FEATURES_ALONE);
    enum edgept_status status = edgept_session_room(session, &session->pixels, bytes, 0, error);
    if (status)
        return status;
    memset(session->pixels.data, 0, bytes);
    status = run(session, session->pixels.data, EDGEPT_FEATURES_ALONE, &sight, error);
    if (status)
        return status;
    /* the picture's own in the place of the virtual token's, and behind it the patches */
    float *features = session->seen[FEATURES].data;
    memcpy(features + sight.feature_width, features, sight.feature_width * sizeof *features);
    *values = features + sight.feature_width;
    *width = (sight.positions - 1) * sight.feature_width;
    return EDGEPT_OK;
}
