/* prompt_file.h - what was read from a prompt file. */
#ifndef EDGEPT_PROMPT_FILE_H
#define EDGEPT_PROMPT_FILE_H

#include "edgept.h"
#include "labels.h"

/* The closed set of tensors, and the places of each in a file. */
enum edgept_tensor_name {
    EDGEPT_PROMPT_EMBEDS,
    EDGEPT_PROMPT_KV,
    EDGEPT_HEAD_WEIGHT,
    EDGEPT_HEAD_BIAS,
    EDGEPT_HEAD_DENSE_WEIGHT,
    EDGEPT_HEAD_DENSE_BIAS,
    EDGEPT_BOX_WEIGHT,
    EDGEPT_BOX_BIAS,
    EDGEPT_TENSOR_NAMES
};

extern const char *const edgept_tensor_names[EDGEPT_TENSOR_NAMES];

#define EDGEPT_MAX_RANK 5
#define EDGEPT_METADATA_KEYS 9

struct edgept_tensor {
    float *values; /* `count` of them, row by row; NULL where the file has no such tensor */
    size_t count, rank, shape[EDGEPT_MAX_RANK];
};

struct edgept_prompt_file {
    struct edgept_tensor tensors[EDGEPT_TENSOR_NAMES];
    char *metadata[EDGEPT_METADATA_KEYS]; /* in the order of prompt_file.md; NULL where absent */
    struct edgept_labels labels;
};

#endif
