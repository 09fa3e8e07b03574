/* bundle.h - a bundle that is open. */
#ifndef EDGEPT_BUNDLE_H
#define EDGEPT_BUNDLE_H

#include <stdatomic.h>

#include "facts.h"
#include "tokenizer.h"

#define EDGEPT_CACHE_NAME_BYTES 64

/* Inputs and outputs; the last two are an encoder-decoder's cross-attention. */
enum edgept_cache_side { EDGEPT_PAST, EDGEPT_PRESENT, EDGEPT_CROSS_PAST, EDGEPT_CROSS_PRESENT };

struct edgept_bundle {
    const OrtApi *api;
    OrtEnv *env;
    OrtMemoryInfo *memory;
    struct edgept_graph graphs[2]; /* of an encoder-decoder: the encoder, which takes prompts, first */
    size_t graph_count;
    struct edgept_facts facts;
    size_t max_length, session_bytes;
    double load_ms;
    void *table; /* tokenizer.bin; NULL without one */
    struct edgept_tokenizer *tokenizer;
    atomic_ullong prompts; /* that were loaded, so that each has a number of its own */
    atomic_uint effective; /* kinds of prompts that were seen to reach the output; effect.c */
    char (*cache_names)[EDGEPT_CACHE_NAME_BYTES]; /* of each side, key and value of each layer in turn */
};

/* A graph's name of a part of the cache; index: below 2 * layers. */
static inline const char *edgept_cache_name(const struct edgept_bundle *bundle, enum edgept_cache_side side,
                                            size_t index)
{
    return bundle->cache_names[(size_t)side * 2 * bundle->facts.layers + index];
}

/* The graph that gives what a request is for. */
static inline const struct edgept_graph *edgept_last_graph(const struct edgept_bundle *bundle)
{
    return &bundle->graphs[bundle->graph_count - 1];
}

/* The type of its float inputs. */
static inline enum edgept_type edgept_float_type(const struct edgept_bundle *bundle)
{
    return bundle->facts.is_half ? EDGEPT_HALF : EDGEPT_FLOAT;
}

static inline size_t edgept_float_bytes(const struct edgept_bundle *bundle)
{
    return bundle->facts.is_half ? 2 : 4;
}

#endif
