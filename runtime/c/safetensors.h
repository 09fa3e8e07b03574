/* safetensors.h - the tensors of a safetensors file, from an open file or from memory. */
#ifndef EDGEPT_SAFETENSORS_H
#define EDGEPT_SAFETENSORS_H

#include <stdint.h>

#include "prompt_file.h"

/* Where the bytes come from. */
struct edgept_source {
    int descriptor; /* -1 for memory */
    const unsigned char *data;
    uint64_t left;
};

/*
 * Read a whole file by the rules 2 to 5. On success the tensors' values are the caller's, and so is
 * *header, its text, which was checked; on failure too, as far as they are not NULL.
 */
enum edgept_status edgept_safetensors_read(struct edgept_source *source,
                                           struct edgept_tensor tensors[EDGEPT_TENSOR_NAMES],
                                           char **header, struct edgept_error *error);

/* A file breaks a rule. */
enum edgept_status edgept_invalid(struct edgept_error *error, const char *reason, const char *found);

#endif
