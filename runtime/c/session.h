/* session.h - a session: the memory of a request, and its cache. */
#ifndef EDGEPT_SESSION_H
#define EDGEPT_SESSION_H

#include "bundle.h"
#include "prompt.h"

/* Sizes of buffers are products of facts below 2^31: where size_t is of 32 bits they would wrap. */
_Static_assert(sizeof(size_t) >= 8, "libedgept needs a 64-bit size_t");

/* Memory that only grows. */
struct edgept_buffer {
    void *data;
    size_t bytes;
};

/* Chooses the tokens of one request: its random state, and memory of one entry a token of the vocabulary. */
struct edgept_sampler {
    const struct edgept_generate_options *options;
    uint64_t random;
    struct edgept_buffer seen;    /* unsigned char: whether a token occurred; only under a penalty */
    struct edgept_buffer scores;  /* float: logits, the rules and the penalty applied */
    struct edgept_buffer weights; /* double: probabilities, not normalised */
    struct edgept_buffer order;   /* uint32_t: ids, most probable first as far as is needed */
};

/* The text of one generation as it grows; nothing of it is used without a tokenizer. */
struct edgept_answer {
    const struct edgept_generate_options *options;
    struct edgept_buffer text; /* char: what was shown, what is held back, room for a zero */
    size_t size, shown;        /* bytes: all of it, and those that were shown */
    bool was_stopped;          /* a stop string was found: the text ends there */
    bool is_quiet;             /* on_text ended it: it is not called again */
};

/*
 * The key/value cache of one sequence. Where the graph shares its buffer, past and present are the same
 * tensors, of `capacity` columns. Where it does not, two slabs take turns as input and output, and the
 * first run reads a prompt's keys and values where they are.
 */
struct edgept_cache {
    struct edgept_buffer slabs[2]; /* (2 * layers, kv_heads, capacity, head_dim); the second only apart */
    int turn;                      /* which slab holds the past */
    size_t capacity, length;       /* columns, and those in use */
    const void *begun;             /* a prompt's, while it is the past; else NULL */
    unsigned long long front;      /* number of the prompt that a shared buffer begins with; 0: none */
};

struct edgept_session {
    const struct edgept_bundle *bundle;
    atomic_bool cancelled;
    size_t bytes; /* taken by its buffers */
    struct edgept_cache cache;
    struct edgept_tensors inputs, outputs;
    struct edgept_buffer ids, types, mask, raw, values, tokens; /* raw: outputs in the graph's type */
    struct edgept_buffer pixels, seen[3], found;                /* an image model's: see.c */
    struct edgept_buffer cross, source_mask;                    /* an encoder-decoder's encoder's */
    size_t source;                                              /* its length */
    int64_t keep;                                               /* logits_to_keep: 1 */
    struct edgept_sampler sampler;
    struct edgept_answer answer;
    struct edgept_workspace *workspace;                 /* the tokenizer's; NULL without one */
    struct edgept_text_stream *stream;
    bool has_begun;                                     /* there is a sequence for a next step */
    double swap_ms;                                     /* of the last request */
};

/* Make a buffer at least so large; its first `kept` bytes stay. Without any, a failure may leave it empty. */
enum edgept_status edgept_session_room(struct edgept_session *session, struct edgept_buffer *buffer,
                                       size_t bytes, size_t kept, struct edgept_error *error);

/* Give a buffer's memory back. */
void edgept_session_drop(struct edgept_session *session, struct edgept_buffer *buffer);

/* Check what every request is checked for: the prompt's bundle, the ids. */
enum edgept_status edgept_session_check(const struct edgept_session *session,
                                        const struct edgept_prompt *prompt, const int64_t *ids,
                                        size_t count, struct edgept_error *error);

/* A request of so many positions does not fit. */
enum edgept_status edgept_session_check_length(const struct edgept_session *session, size_t positions,
                                               struct edgept_error *error);

/* The last run's output, float32: where the graph gives float16, `count` of them are widened. */
const float *edgept_session_output(const struct edgept_session *session, size_t count);

/*
 * Begin a sequence, with room for `more` tokens, and take a step: the two kinds of models that write. A
 * beginning that is cancelled leaves NULL in *logits.
 */
enum edgept_status edgept_decoder_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                        const int64_t *ids, size_t count, size_t more,
                                        const float **logits, struct edgept_error *error);
enum edgept_status edgept_decoder_step(struct edgept_session *session, int64_t id, const float **logits,
                                       struct edgept_error *error);
enum edgept_status edgept_seq2seq_begin(struct edgept_session *session, const struct edgept_prompt *prompt,
                                        const int64_t *ids, size_t count, size_t more,
                                        const float **logits, struct edgept_error *error);
enum edgept_status edgept_seq2seq_step(struct edgept_session *session, int64_t id, const float **logits,
                                       struct edgept_error *error);

/* edgept_session_outputs, whose values may be no numbers. */
enum edgept_status edgept_forward_outputs(struct edgept_session *session, const struct edgept_prompt *prompt,
                                          const int64_t *ids, const int64_t *type_ids, size_t count,
                                          struct edgept_outputs *outputs, struct edgept_error *error);

/* Features of a grey picture and its patches under one virtual token: `width` values of the session's. */
enum edgept_status edgept_see_grey(struct edgept_session *session, const struct edgept_prompt *prompt,
                                   const float **values, size_t *width, struct edgept_error *error);

/* That a bundle is for texts. */
enum edgept_status edgept_session_check_reads(const struct edgept_session *session, struct edgept_error *error);

/* What a prompt's head gives the graph. */
enum edgept_status edgept_forward_add_head(struct edgept_session *session, const struct edgept_prompt *prompt,
                                           struct edgept_error *error);

/* That all of an output is numbers. */
enum edgept_status edgept_forward_check_finite(const float *values, size_t count, struct edgept_error *error);

/* Softmax of a position's logits; the largest. */
size_t edgept_forward_softmax(const float *logits, size_t classes, double *probabilities);

/* Run a prompt's rows once; its keys and values get written where it has memory for them. */
enum edgept_status edgept_session_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error);
enum edgept_status edgept_decoder_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error);
enum edgept_status edgept_forward_keys_and_values(struct edgept_session *session,
                                                  const struct edgept_prompt *prompt,
                                                  struct edgept_error *error);

#endif
