/* rules.c - generation_config's rules, in the order and meaning of transformers' logits processors. */
#include "rules.h"

#include <math.h>
#include <string.h>

/* The answer's token at a place, its start token first. */
static int64_t token_at(const struct edgept_rules *rules, const int64_t *answer, size_t place)
{
    return place == 0 ? rules->start_token_id : answer[place - 1];
}

static void forbid(float *scores, const struct edgept_ids *ids)
{
    for (size_t i = 0; i < ids->count; i++)
        scores[ids->ids[i]] = -INFINITY;
}

/* Tokens that would complete an n-gram a second time. */
static void forbid_repeats(float *scores, const struct edgept_rules *rules, const int64_t *answer, size_t length)
{
    size_t size = rules->no_repeat_ngram_size;
    if (size == 0 || length < size)
        return;
    for (size_t begin = 0; begin + size <= length; begin++) {
        size_t same = 0;
        while (same < size - 1 && token_at(rules, answer, begin + same) ==
                                      token_at(rules, answer, length + 1 - size + same))
            same++;
        if (same == size - 1)
            scores[token_at(rules, answer, begin + same)] = -INFINITY;
    }
}

/* The last token of each sequence whose others the answer ends with. */
static void forbid_words(float *scores, const struct edgept_rules *rules, const int64_t *answer, size_t length)
{
    const struct edgept_ids *words = &rules->bad_words;
    for (size_t begin = 0, end; begin < words->count; begin = end + 1) {
        for (end = begin; words->ids[end] >= 0;)
            end++;
        size_t before = end - begin - 1, same = 0;
        while (before <= length && same < before &&
               words->ids[begin + same] == token_at(rules, answer, length - before + same))
            same++;
        if (same == before)
            scores[words->ids[end - 1]] = -INFINITY;
    }
}

const float *edgept_rules_apply(struct edgept_session *session, const float *logits,
                                const int64_t *answer, size_t count, size_t longest)
{
    const struct edgept_facts *facts = &session->bundle->facts;
    const struct edgept_rules *rules = &facts->rules;
    size_t vocabulary = edgept_last_graph(session->bundle)->output_width, length = count + 1;
    float *scores = session->sampler.scores.data;
    memcpy(scores, logits, vocabulary * sizeof *scores);
    forbid_repeats(scores, rules, answer, length);
    forbid_words(scores, rules, answer, length);
    if (length < rules->min_length || count < rules->min_new_tokens)
        forbid(scores, &facts->eos_token_ids);
    struct edgept_ids forced = {NULL, 0};
    int64_t first = rules->forced_bos_token_id;
    if (length == 1 && first >= 0)
        forced = (struct edgept_ids){&first, 1};
    if (length == longest && rules->forced_eos_token_ids.count > 0)
        forced = rules->forced_eos_token_ids;
    if (forced.count > 0) {
        for (size_t i = 0; i < vocabulary; i++)
            scores[i] = -INFINITY;
        for (size_t i = 0; i < forced.count; i++)
            scores[forced.ids[i]] = 0;
    }
    if (length == (first < 0 ? 1u : 2u))
        forbid(scores, &rules->begin_suppress_tokens);
    return scores;
}
