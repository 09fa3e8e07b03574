/* generate.c - the loop: from a request to tokens, one at a time. */
#include "answer.h"
#include "cache.h"
#include "error.h"
#include "rules.h"
#include "sample.h"

#define MAX_NEW_TOKENS 256

static bool holds(const int64_t *ids, size_t count, int64_t id)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id)
            return true;
    return false;
}

static enum edgept_status begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                const int64_t *ids, size_t count, size_t more, const float **logits,
                                struct edgept_error *error)
{
    enum edgept_task task = session->bundle->facts.task;
    enum edgept_status status = edgept_session_check_reads(session, error);
    session->has_begun = false;
    if (status)
        return status;
    if (task != EDGEPT_GENERATION && task != EDGEPT_SEQ2SEQ)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "this is a bundle for %s, which writes no text. Call edgept_session_outputs, "
                           "_classify or _embed.",
                           session->bundle->facts.task_name);
    status = edgept_session_check(session, prompt, ids, count, error);
    if (status)
        return status;
    status = task == EDGEPT_SEQ2SEQ
                 ? edgept_seq2seq_begin(session, prompt, ids, count, more, logits, error)
                 : edgept_decoder_begin(session, prompt, ids, count, more, logits, error);
    session->has_begun = status == EDGEPT_OK;
    return status;
}

static enum edgept_status step(struct edgept_session *session, int64_t id, const float **logits,
                               struct edgept_error *error)
{
    return session->bundle->facts.task == EDGEPT_SEQ2SEQ
               ? edgept_seq2seq_step(session, id, logits, error)
               : edgept_decoder_step(session, id, logits, error);
}

enum edgept_status edgept_session_prefill(struct edgept_session *session,
                                          const struct edgept_prompt *prompt, const int64_t *ids,
                                          size_t count, const float **logits, struct edgept_error *error)
{
    const float *found = NULL;
    enum edgept_status status = begin(session, prompt, ids, count, 0, &found, error);
    bool was_cancelled = atomic_exchange(&session->cancelled, false); /* before the call, or during it */
    if (status == EDGEPT_NO_MEMORY)
        edgept_cache_release(session);
    if (status)
        return status;
    if (was_cancelled || found == NULL) {
        session->has_begun = false;
        return edgept_fail(error, EDGEPT_FAILED, "", "the prefill was cancelled. Call it again to begin anew.");
    }
    *logits = found;
    return EDGEPT_OK;
}

enum edgept_status edgept_session_step(struct edgept_session *session, int64_t id, const float **logits,
                                       struct edgept_error *error)
{
    if (!session->has_begun)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "there is no sequence to go on with. Call edgept_session_prefill first.");
    enum edgept_status status = edgept_session_check(session, NULL, &id, 1, error);
    return status ? status : step(session, id, logits, error);
}

/* Positions that are left for new tokens, before the first one. */
static size_t room_of(const struct edgept_session *session, const struct edgept_prompt *prompt, size_t count)
{
    size_t virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens, taken = virtual_tokens + count;
    if (session->bundle->facts.task == EDGEPT_SEQ2SEQ) /* a prefix's, and the start token */
        taken = 1 + (prompt != NULL && prompt->kv != NULL ? virtual_tokens : 0);
    return session->bundle->max_length > taken ? session->bundle->max_length - taken : 0;
}

/* Take a new token, the count-th: its text, whether it ends the generation, and why. */
static enum edgept_status take(struct edgept_session *session, const struct edgept_generate_options *options,
                               size_t most, size_t room, int64_t token, struct edgept_generation *said,
                               bool *has_ended, struct edgept_error *error)
{
    const struct edgept_ids *eos = &session->bundle->facts.eos_token_ids;
    bool is_eos = holds(eos->ids, eos->count, token), stops = false;
    bool is_stop = holds(options->stop_ids, options->stop_count, token);
    bool was_told = options->on_token != NULL && options->on_token(options->user, token) != 0;
    enum edgept_status status = EDGEPT_OK;
    if (!is_eos && !is_stop) /* whose own text is none of the answer */
        status = edgept_answer_add(session, token, &stops, error);
    if (status)
        return status;
    *has_ended = true;
    if (is_eos)
        said->finish = EDGEPT_FINISH_EOS;
    else if (is_stop || was_told || stops)
        said->finish = EDGEPT_FINISH_STOP;
    else if (said->count >= most)
        said->finish = EDGEPT_FINISH_LENGTH;
    else if (said->count > room)
        said->finish = EDGEPT_FINISH_FULL;
    else if (atomic_load(&session->cancelled))
        said->finish = EDGEPT_FINISH_CANCELLED;
    else
        *has_ended = false;
    stops = false;
    if (*has_ended)
        status = edgept_answer_finish(session, &stops, error);
    if (stops)
        said->finish = EDGEPT_FINISH_STOP;
    return status;
}

/* Tokens until one ends it; `said` gets them. */
static enum edgept_status loop(struct edgept_session *session, const struct edgept_generate_options *options,
                               const float *logits, size_t most, size_t room, double started,
                               struct edgept_generation *said, struct edgept_error *error)
{
    int64_t *tokens = session->tokens.data, token;
    size_t longest = most < room + 1 ? most : room + 1;
    double first = 0;
    for (bool has_ended = false;;) {
        enum edgept_status status = EDGEPT_OK;
        if (session->bundle->facts.task == EDGEPT_SEQ2SEQ)
            logits = edgept_rules_apply(session, logits, tokens, said->count, longest);
        status = edgept_sampler_choose(session, logits, &token, error);
        if (status)
            return status;
        tokens[said->count++] = token;
        double now = edgept_now_ms();
        if (said->count == 1) {
            first = now;
            said->latency.ttft_ms = now - started;
        } else {
            said->latency.tpot_ms = (now - first) / (double)(said->count - 1);
        }
        status = take(session, options, most, room, token, said, &has_ended, error);
        if (status || has_ended)
            return status;
        status = step(session, token, &logits, error);
        if (status)
            return status;
    }
}

enum edgept_status edgept_session_generate(struct edgept_session *session,
                                           const struct edgept_prompt *prompt, const int64_t *ids,
                                           size_t count, const struct edgept_generate_options *options,
                                           struct edgept_generation *generation,
                                           struct edgept_error *error)
{
    static const struct edgept_generate_options defaults = {.max_new_tokens = 0};
    double started = edgept_now_ms();
    const float *logits = NULL;
    const struct edgept_facts *facts = &session->bundle->facts;
    struct edgept_generation said = {.finish = EDGEPT_FINISH_CANCELLED};
    if (options == NULL)
        options = &defaults;
    size_t most = options->max_new_tokens == 0 ? MAX_NEW_TOKENS : options->max_new_tokens;
    size_t room = room_of(session, prompt, count), longest = most < room + 1 ? most : room + 1;
    enum edgept_status status = edgept_sampler_check(options, error);
    if (status == EDGEPT_OK)
        status = edgept_answer_begin(session, options, error);
    if (status == EDGEPT_OK)
        status = begin(session, prompt, ids, count, longest, &logits, error);
    double prefilled = edgept_now_ms();
    session->has_begun = false; /* what follows is not for edgept_session_step */
    if (status == EDGEPT_OK)
        status = edgept_session_room(session, &session->tokens, longest * sizeof(int64_t), 0, error);
    if (status == EDGEPT_OK && facts->task == EDGEPT_SEQ2SEQ)
        status = edgept_session_room(session, &session->sampler.scores,
                                     edgept_last_graph(session->bundle)->output_width * sizeof(float), 0, error);
    bool is_pair = facts->task == EDGEPT_SEQ2SEQ; /* its penalty looks back at the answer alone */
    if (status == EDGEPT_OK)
        status = edgept_sampler_begin(session, options, is_pair ? &facts->rules.start_token_id : ids,
                                      is_pair ? 1 : count, error);
    said.latency.swap_ms = session->swap_ms;
    said.latency.prefill_ms = prefilled - started - session->swap_ms;
    if (status == EDGEPT_OK && logits != NULL)
        status = loop(session, options, logits, most, room, started, &said, error);
    atomic_store(&session->cancelled, false);
    if (status == EDGEPT_NO_MEMORY)
        edgept_cache_release(session);
    if (status)
        return status;
    said.ids = session->tokens.data;
    said.text = edgept_answer_text(session);
    said.latency.virtual_tokens = prompt == NULL ? 0 : prompt->virtual_tokens;
    said.latency.input_tokens = count;
    said.latency.new_tokens = said.count;
    said.latency.total_ms = edgept_now_ms() - started;
    *generation = said;
    return EDGEPT_OK;
}
