/*
 * see.c - image models: one run over a picture, and what its task makes of the outputs.
 *
 * Positions are the picture's own, the prompt's virtual tokens, and the patches row by row.
 */
#include <math.h>
#include <string.h>

#include "error.h"
#include "half.h"
#include "session.h"

enum output { LOGITS, BOXES, FEATURES }; /* places in a session's `seen` */

/* ---- the run ---- */

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

static enum edgept_status add_prompt(struct edgept_session *session, const struct edgept_prompt *prompt,
                                     struct edgept_error *error)
{
    enum edgept_status status = EDGEPT_OK;
    if (prompt != NULL && prompt->rows != NULL) {
        /* the second is pictures: one table for all */
        int64_t shape[4] = {(int64_t)prompt->tables, 1, (int64_t)prompt->virtual_tokens,
                            (int64_t)session->bundle->facts.hidden_size};
        status = edgept_tensors_add(&session->inputs, edgept_last_graph(session->bundle), "prompt_embeds",
                                    prompt->rows, edgept_float_type(session->bundle), shape, 4, error);
    }
    if (status == EDGEPT_OK && prompt != NULL && prompt->classes != 0)
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
static enum edgept_status run(struct edgept_session *session, const float *pixels, bool features,
                              struct edgept_sight *sight, struct edgept_error *error)
{
    bool detects = sight->task == EDGEPT_OBJECT_DETECTION;
    const size_t widths[] = {
        [LOGITS] = sight->classes, [BOXES] = detects ? 4 : 0, [FEATURES] = features ? sight->feature_width : 0};
    const float **const into[] = {&sight->logits, &sight->boxes, &sight->features};
    enum edgept_status status = add_picture(session, pixels, error);
    if (status == EDGEPT_OK)
        status = add_prompt(session, sight->prompt, error);
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
static struct edgept_sight begin(const struct edgept_bundle *bundle, const struct edgept_prompt *prompt)
{
    const struct edgept_facts *facts = &bundle->facts;
    size_t virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens;
    size_t patches = facts->image.rows * facts->image.columns;
    struct edgept_sight sight = {.prompt = prompt,
                                 .positions = 1 + virtual_tokens + patches,
                                 .count = 1,
                                 .feature_width = facts->head_size,
                                 .classes = prompt != NULL && prompt->classes != 0 ? prompt->classes
                                                                                   : facts->labels.count};
    sight.task = prompt != NULL       ? prompt->image_task
                 : sight.classes != 0 ? EDGEPT_IMAGE_CLASSIFICATION
                                      : EDGEPT_IMAGE_FEATURES;
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

static enum edgept_status check_request(const struct edgept_session *session,
                                        const struct edgept_prompt *prompt, struct edgept_error *error)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    if (facts->task != EDGEPT_SEEING)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this is a bundle for %s, which takes text and no picture. Export an image model.",
                           facts->task_name);
    if (prompt == NULL && facts->image.patches_detect)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "nothing says what this model looks for: it has no head of its own. Ask under a prompt "
                           "that brings one.");
    return edgept_session_check(session, prompt, NULL, 0, error);
}

enum edgept_status edgept_session_see(struct edgept_session *session, const struct edgept_prompt *prompt,
                                      const float *pixels, int features, struct edgept_sight *sight,
                                      struct edgept_error *error)
{
    double started = edgept_now_ms();
    enum edgept_status status = check_request(session, prompt, error);
    if (status)
        return status;
    struct edgept_sight found = begin(session->bundle, prompt);
    found.latency.swap_ms = edgept_now_ms() - started;
    status = run(session, pixels, features != 0 || found.task == EDGEPT_IMAGE_FEATURES, &found, error);
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
    struct edgept_sight sight = begin(session->bundle, prompt);
    sight.task = EDGEPT_IMAGE_FEATURES; /* the head's part of the output says nothing of the rows */
    sight.classes = 0;
    enum edgept_status status = edgept_session_room(session, &session->pixels, bytes, 0, error);
    if (status)
        return status;
    memset(session->pixels.data, 0, bytes);
    status = run(session, session->pixels.data, true, &sight, error);
    if (status)
        return status;
    /* the picture's own in the place of the virtual token's, and behind it the patches */
    float *features = session->seen[FEATURES].data;
    memcpy(features + sight.feature_width, features, sight.feature_width * sizeof *features);
    *values = features + sight.feature_width;
    *width = (sight.positions - 1) * sight.feature_width;
    return EDGEPT_OK;
}

/* ---- what is made of the outputs ---- */

static enum edgept_status check_task(const struct edgept_sight *sight, enum edgept_image_task task,
                                     const char *call, struct edgept_error *error)
{
    static const char *const names[] = {"image-classification", "image-segmentation", "object-detection",
                                        "features alone, without a head"};
    if (sight->task == task)
        return EDGEPT_OK;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "what was seen is for %s, so %s has no use for it. Call what sight.task says.",
                       names[sight->task], call);
}

enum edgept_status edgept_sight_classify(struct edgept_session *session, const struct edgept_sight *sight,
                                         struct edgept_classification *classification,
                                         struct edgept_error *error)
{
    enum edgept_status status = check_task(sight, EDGEPT_IMAGE_CLASSIFICATION, "edgept_sight_classify", error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->found, sight->classes * sizeof(double), 0, error);
    if (status)
        return status;
    double *probabilities = session->found.data;
    size_t best = edgept_forward_softmax(sight->logits, sight->classes, probabilities);
    *classification = (struct edgept_classification){
        .best = best, .label = edgept_bundle_label(session->bundle, sight->prompt, best), .logits = sight->logits,
        .probabilities = probabilities, .classes = sight->classes, .latency = sight->latency};
    return EDGEPT_OK;
}

/* The largest of a position's logits. */
static size_t find_best(const struct edgept_sight *sight, size_t position)
{
    const float *logits = sight->logits + position * sight->classes;
    size_t best = 0;
    for (size_t i = 1; i < sight->classes; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

enum edgept_status edgept_sight_segment(struct edgept_session *session, const struct edgept_sight *sight,
                                        struct edgept_segmentation *segmentation, struct edgept_error *error)
{
    const struct edgept_image *image = &session->bundle->facts.image;
    enum edgept_status status = check_task(sight, EDGEPT_IMAGE_SEGMENTATION, "edgept_sight_segment", error);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->found, sight->count * sizeof(uint32_t), 0, error);
    if (status)
        return status;
    uint32_t *classes = session->found.data;
    for (size_t i = 0; i < sight->count; i++)
        classes[i] = (uint32_t)find_best(sight, sight->first + i);
    *segmentation = (struct edgept_segmentation){classes, image->rows, image->columns};
    return EDGEPT_OK;
}

/*
 * Probability of a position's best class. A virtual token finds one thing or none: softmax over the classes
 * and "no object", whose logit is 0. A patch has a probability for each class: the sigmoid of its logit.
 */
static double score_of(const struct edgept_sight *sight, size_t position, size_t best, bool each)
{
    const float *logits = sight->logits + position * sight->classes;
    double most = fmax((double)logits[best], 0), sum = exp(-most);
    for (size_t i = 0; i < sight->classes; i++)
        sum += !each || i == best ? exp((double)logits[i] - most) : 0;
    return exp((double)logits[best] - most) / sum;
}

/* Left, top, right and bottom, inside the picture, of a centre and sides. */
static void to_corners(const float centre[4], double box[4])
{
    for (int i = 0; i < 4; i++) {
        double half = (double)centre[2 + i % 2] / 2;
        box[i] = fmin(fmax((double)centre[i % 2] + (i < 2 ? -half : half), 0), 1);
    }
}

enum edgept_status edgept_sight_detect(struct edgept_session *session, const struct edgept_sight *sight,
                                       double threshold, struct edgept_detections *detections,
                                       struct edgept_error *error)
{
    enum edgept_status status = check_task(sight, EDGEPT_OBJECT_DETECTION, "edgept_sight_detect", error);
    if (status == EDGEPT_OK && !(threshold >= 0 && threshold <= 1))
        status = edgept_fail(error, EDGEPT_USAGE, "", "threshold is %g, expected a number from 0 to 1: a probability.",
                             threshold);
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->found, sight->count * sizeof(struct edgept_detection), 0,
                                     error);
    if (status)
        return status;
    struct edgept_detection *found = session->found.data;
    size_t count = 0;
    for (size_t i = 0; i < sight->count; i++) {
        size_t position = sight->first + i, best = find_best(sight, position);
        double score = score_of(sight, position, best, session->bundle->facts.image.patches_detect != 0);
        if (score < threshold)
            continue;
        size_t place = count++;
        for (; place > 0 && found[place - 1].score < score; place--)
            found[place] = found[place - 1];
        found[place] = (struct edgept_detection){
            .label = edgept_bundle_label(session->bundle, sight->prompt, best), .index = best, .score = score};
        to_corners(sight->boxes + position * 4, found[place].box);
    }
    *detections = (struct edgept_detections){found, count};
    return EDGEPT_OK;
}
