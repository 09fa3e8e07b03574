/* facts.h - what a bundle's graph says of itself: the parts of edgept.json that a program needs. */
#ifndef EDGEPT_FACTS_H
#define EDGEPT_FACTS_H

#include <stdbool.h>

#include "graph.h"
#include "labels.h"

enum edgept_task {
    EDGEPT_GENERATION,
    EDGEPT_SEQ2SEQ,
    EDGEPT_CLASSIFICATION,
    EDGEPT_EMBEDDING,
    EDGEPT_TAGGING,
    EDGEPT_SEEING /* an image model, whose prompts say what for */
};

/* A list of token ids. */
struct edgept_ids {
    int64_t *ids;
    size_t count;
};

/* How an encoder-decoder generates: its generation_config's rules; -1 and empty lists are off. */
struct edgept_rules {
    int64_t start_token_id;
    int64_t forced_bos_token_id;
    struct edgept_ids forced_eos_token_ids;
    struct edgept_ids bad_words; /* sequences, each with -1 behind it */
    struct edgept_ids begin_suppress_tokens;
    size_t no_repeat_ngram_size, min_length, min_new_tokens;
};

struct edgept_facts {
    enum edgept_task task;
    char *task_name, *fingerprint;
    size_t vocab_size, hidden_size, max_positions, max_virtual_tokens;
    bool is_half; /* the graph's float inputs are float16 */
    struct edgept_ids eos_token_ids;
    bool has_cache;
    size_t layers, kv_heads, head_dim; /* of the cache: each tensor (batch, kv_heads, tokens, head_dim) */
    bool shares_buffer;                /* past and present are one buffer, extended in place */
    bool depends_on_length;            /* keys depend on the whole sequence's length */
    bool prefix_only;                  /* an encoder: keys and values are taken as prompt_kv, and never given back */
    size_t head_size;                  /* 0: the task has no head */
    bool head_is_dense;                /* the head has two layers */
    struct edgept_labels labels;       /* of the model's own head; none without one */
    int64_t pad_token_id;              /* -1: none */
    bool pools_first, normalizes;      /* "cls" instead of "mean"; vectors of length one */
    struct edgept_rules rules;
    struct edgept_image image; /* all 0 of models of text */
};

/* Read and check them. On failure what was read so far is for edgept_facts_free. */
enum edgept_status edgept_facts_read(const struct edgept_graph *graph, struct edgept_facts *facts,
                                     struct edgept_error *error);

void edgept_facts_free(struct edgept_facts *facts);

#endif
