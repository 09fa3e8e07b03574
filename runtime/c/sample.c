/*
 * sample.c - greedy, or sampled as transformers' generate samples: penalty, temperature, top-k, top-p.
 * The same distributions as the Python runtime's; the random numbers are others.
 */
#include "sample.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "error.h"

#define MIN_TEMPERATURE 1e-3 /* below, logits may overflow, and the choice is greedy anyway */

static size_t vocabulary_of(const struct edgept_session *session)
{
    return edgept_last_graph(session->bundle)->output_width;
}

static bool penalises(const struct edgept_generate_options *options)
{
    return options->repetition_penalty != 0 && options->repetition_penalty != 1;
}

enum edgept_status edgept_sampler_check(const struct edgept_generate_options *options,
                                        struct edgept_error *error)
{
    double temperature = options->temperature, penalty = options->repetition_penalty;
    if (!(temperature == 0 || (temperature >= MIN_TEMPERATURE && temperature <= FLT_MAX)))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "temperature is 0 (greedy) or at least %g, found %g. Values around 0.7 are common.",
                           MIN_TEMPERATURE, temperature);
    if (!(options->top_p >= 0 && options->top_p <= 1))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "top_p is a probability up to 1, or 0 for off; found %g.", options->top_p);
    if (!(penalty == 0 || (penalty >= FLT_MIN && penalty <= FLT_MAX)))
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "repetition_penalty is above 0, or 0 for off; found %g. 1.1 is a mild one.", penalty);
    return EDGEPT_OK;
}

enum edgept_status edgept_sampler_begin(struct edgept_session *session,
                                        const struct edgept_generate_options *options, const int64_t *ids,
                                        size_t count, struct edgept_error *error)
{
    struct edgept_sampler *sampler = &session->sampler;
    size_t vocabulary = vocabulary_of(session);
    enum edgept_status status = EDGEPT_OK;
    sampler->options = options;
    sampler->random = options->seed;
    if (penalises(options)) {
        status = edgept_session_room(session, &sampler->seen, vocabulary, 0, error);
        if (status == EDGEPT_OK)
            status = edgept_session_room(session, &sampler->scores, vocabulary * sizeof(float), 0, error);
        if (status)
            return status;
        memset(sampler->seen.data, 0, vocabulary);
        for (size_t i = 0; i < count; i++)
            if ((size_t)ids[i] < vocabulary)
                ((unsigned char *)sampler->seen.data)[ids[i]] = 1;
    }
    if (status == EDGEPT_OK && options->temperature > 0) {
        status = edgept_session_room(session, &sampler->weights, vocabulary * sizeof(double), 0, error);
        if (status == EDGEPT_OK)
            status = edgept_session_room(session, &sampler->order, vocabulary * sizeof(uint32_t), 0, error);
    }
    return status;
}

/* Logits with those of tokens that occurred lowered, in the sampler's own memory. */
static const float *penalise(struct edgept_sampler *sampler, const float *logits, size_t vocabulary)
{
    const unsigned char *seen = sampler->seen.data;
    float *scores = sampler->scores.data, penalty = (float)sampler->options->repetition_penalty;
    for (size_t i = 0; i < vocabulary; i++)
        scores[i] = !seen[i] ? logits[i] : logits[i] < 0 ? logits[i] * penalty : logits[i] / penalty;
    return scores;
}

/* A number from 0 to below 1: SplitMix64 (Steele, Lea, Flood 2014). */
static double next_random(struct edgept_sampler *sampler)
{
    uint64_t bits = sampler->random += 0x9E3779B97F4A7C15u;
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9u;
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EBu;
    return (double)((bits ^ bits >> 31) >> 11) * 0x1p-53;
}

/* Whether one id comes before another: more probable, or as probable and higher. */
static bool comes_before(const double *weights, uint32_t left, uint32_t right)
{
    return weights[left] > weights[right] || (weights[left] == weights[right] && left > right);
}

/* Let the id at `at` sink in a heap whose first is the most probable. */
static void sink(uint32_t *heap, size_t size, size_t at, const double *weights)
{
    for (size_t child; (child = 2 * at + 1) < size; at = child) {
        if (child + 1 < size && comes_before(weights, heap[child + 1], heap[child]))
            child++;
        if (!comes_before(weights, heap[child], heap[at]))
            return;
        uint32_t lower = heap[at];
        heap[at] = heap[child];
        heap[child] = lower;
    }
}

/* One by one, most probable first: the next goes behind the heap, which shrinks from its end. */
static uint32_t pop(uint32_t *heap, size_t *size, const double *weights)
{
    uint32_t first = heap[0];
    heap[0] = heap[--*size];
    heap[*size] = first;
    sink(heap, *size, 0, weights);
    return first;
}

/*
 * Reduce the candidates to those of top-k and top-p; they stand at the end of `order`, least probable
 * first. Returns how many, and their weight.
 */
static size_t narrow(uint32_t *order, size_t count, const double *weights,
                     const struct edgept_generate_options *options, double *total)
{
    size_t left = count, kept = 0, most = options->top_k > 0 && options->top_k < count ? options->top_k : count;
    double sum = 0, last = 0;
    for (size_t i = 0; i < count; i++)
        order[i] = (uint32_t)i;
    for (size_t i = count / 2; i-- > 0;)
        sink(order, count, i, weights);
    if (most < count) {
        /* everything equal to the k-th stays, as in transformers */
        while (left > 0 && (kept < most || weights[order[0]] == last)) {
            last = weights[pop(order, &left, weights)];
            sum += last;
            kept++;
        }
        *total = sum;
    }
    if (options->top_p > 0 && options->top_p < 1) {
        double enough = options->top_p * *total;
        size_t nucleus = 0;
        for (sum = 0; sum < enough && nucleus < (most < count ? kept : count); nucleus++)
            sum += weights[most < count ? order[count - 1 - nucleus] : pop(order, &left, weights)];
        kept = nucleus;
        *total = sum;
    }
    return kept;
}

/* Sample under the temperature; the best logit is known. */
static int64_t sample(struct edgept_sampler *sampler, const float *logits, size_t vocabulary, int64_t best)
{
    const struct edgept_generate_options *options = sampler->options;
    double *weights = sampler->weights.data, total = 0;
    uint32_t *order = sampler->order.data;
    float temperature = (float)options->temperature, highest = logits[best] / temperature;
    for (size_t i = 0; i < vocabulary; i++) {
        weights[i] = exp((double)(logits[i] / temperature - highest));
        total += weights[i];
    }
    bool is_narrow = (options->top_k > 0 && options->top_k < vocabulary) ||
                     (options->top_p > 0 && options->top_p < 1);
    size_t count = is_narrow ? narrow(order, vocabulary, weights, options, &total) : vocabulary;
    double place = next_random(sampler) * total;
    for (size_t i = 0; i < count; i++) {
        size_t id = is_narrow ? order[vocabulary - 1 - i] : i;
        place -= weights[id];
        if (place < 0)
            return (int64_t)id;
    }
    return best; /* rounding ate the rest */
}

enum edgept_status edgept_sampler_choose(struct edgept_session *session, const float *logits,
                                         int64_t *token, struct edgept_error *error)
{
    struct edgept_sampler *sampler = &session->sampler;
    size_t vocabulary = vocabulary_of(session), best = 0;
    if (penalises(sampler->options))
        logits = penalise(sampler, logits, vocabulary);
    for (size_t i = 1; i < vocabulary && !isnan(logits[best]); i++)
        if (logits[i] > logits[best] || isnan(logits[i]))
            best = i;
    if (!isfinite(logits[best]))
        return edgept_fail(error, EDGEPT_FAILED, "",
                           "the model's logits are not finite (token %zu: %g). The prompt or the graph overflows "
                           "its float type: export the model with a wider precision (fp32).",
                           best, (double)logits[best]);
    *token = (int64_t)best;
    if (sampler->options->temperature > 0)
        *token = sample(sampler, logits, vocabulary, *token);
    if (penalises(sampler->options))
        ((unsigned char *)sampler->seen.data)[*token] = 1;
    return EDGEPT_OK;
}
