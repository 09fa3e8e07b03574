/* sight.c - what a task makes of a sight: the picture's class, its patches' classes, the things in it. */
#include <math.h>

#include "error.h"
#include "session.h"

static enum edgept_status check_task(const struct edgept_sight *sight, enum edgept_image_task task,
                                     const char *call, struct edgept_error *error)
{
    if (sight->task == task)
        return EDGEPT_OK;
    bool has_task = sight->task != EDGEPT_IMAGE_FEATURES;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "what was seen is for %s, so %s has no use for it. Call what sight.task says.",
                       has_task ? edgept_image_task_names[sight->task] : "features alone, without a head", call);
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
